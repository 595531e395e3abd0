"""The file that the skeleton is pickled into: pieces in memory, large objects not copied.

The pickler writes anything of 64 KiB or more (``bytes``, ``bytearray``, ``str``) in a call of its own. Such
a piece stays apart, so that it keeps its chunks while the small objects around it change.
"""

from __future__ import annotations

from typing import Any

APART_BYTES = 128 * 1024  # frames of small objects are written whole too, and are just above 64 KiB


class SegmentFile:
    """Write-only. ``pieces`` is complete after `finish`."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.length = 0
        self.large_bytes = 0
        self._small = bytearray()

    def write(self, data: Any) -> int:
        count = memoryview(data).nbytes  # a PickleBuffer has no length
        if count >= APART_BYTES:
            self._cut()
            # Only bytes objects may be kept: any other buffer is a view that ends with this call.
            self.pieces.append(data if type(data) is bytes else bytes(data))
            self.large_bytes += count
        else:
            self._small += data
        self.length += count
        return count

    def finish(self) -> list[Any]:
        self._cut()
        return self.pieces

    def _cut(self) -> None:
        if self._small:
            self.pieces.append(self._small)
            self._small = bytearray()
