"""The file that the skeleton is pickled into: pieces in memory, large objects not copied.

The pickler writes anything of 64 KiB or more (``bytes``, ``bytearray``, ``str``) in a call of its own. Such
a piece stays apart, so that it keeps its chunks while the small objects around it change.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from ..contract import MOST_OBJECT_BYTES_ENV
from .limits import Again, free_bytes, most_object_bytes

APART_BYTES = 128 * 1024  # frames of small objects are written whole too, and are just above 64 KiB
_CHECK_EVERY = 64 << 20
"""Asking how much memory is free takes longer than pickling a small state."""


class Sizes:
    """What the passes of one capture know of the size of variables: memory of arrays is not counted.

    ``large`` take more than one object's reduction may, so a culprit is looked for in them;
    ``enormous`` cannot be pickled in the memory that there is.
    """

    def __init__(self) -> None:
        self.large: set[str] = set()
        self.enormous: set[str] = set()

    @functools.cached_property
    def check_every(self) -> int:
        return min(_CHECK_EVERY, self.most_bytes) if MOST_OBJECT_BYTES_ENV in os.environ else _CHECK_EVERY

    @functools.cached_property
    def most_bytes(self) -> int:
        return most_object_bytes()


class SegmentFile:
    """Write-only. ``pieces`` is complete after `finish`. Raises `Again` when a variable is too large."""

    def __init__(self, sizes: Sizes) -> None:
        self.pieces: list[Any] = []
        self.length = 0
        self.large_bytes = 0
        self._sizes = sizes
        self._variable = ""
        self._began_at = 0
        self._copied = 0
        self._check_at = sizes.check_every
        self._small = bytearray()

    def begin_variable(self, name: str) -> None:
        self._variable, self._began_at = name, self.length
        self._check_at = self.length + self._sizes.check_every

    def write(self, data: Any) -> int:
        count = memoryview(data).nbytes  # a PickleBuffer has no length
        if count >= APART_BYTES:
            self._cut()
            # Only bytes objects may be kept: any other buffer is a view that ends with this call.
            self.pieces.append(data if type(data) is bytes else bytes(data))
            self._copied += 0 if type(data) is bytes else count
            self.large_bytes += count
        else:
            self._small += data
            self._copied += count
        self.length += count
        if self.length > self._check_at:
            self._check_size()
        return count

    def finish(self) -> list[Any]:
        self._cut()
        return self.pieces

    def _check_size(self) -> None:
        self._check_at = self.length + self._sizes.check_every
        if self.length - self._began_at <= self._sizes.most_bytes:
            return
        if self._variable not in self._sizes.large:
            self._sizes.large.add(self._variable)
            raise Again
        if self._copied > free_bytes():  # as much again may still be needed to write it
            self._sizes.enormous.add(self._variable)
            raise Again

    def _cut(self) -> None:
        if self._small:
            self.pieces.append(self._small)
            self._small = bytearray()
