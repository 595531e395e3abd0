"""The memory of arrays and tensors, on the way back: see `regions` for how it is described.

While an unpickler runs, reducers' counterparts (`numpy_arrays`, `torch_tensors`) ask `current()` for their
region. A union that only one object wants is made as that object's own memory (a tensor's storage can be
resized, an array owns its data); one that several regions lie in becomes a block that they share.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from ..errors import DamagedError
from ..manifest import Stream
from ..store.reader import SnapshotReader
from .regions import parse_rows

_current: ContextVar[Memory] = ContextVar("respawner_memory")


def current() -> Memory:
    """The memory of the snapshot that is being unpickled in this thread."""
    return _current.get()


class Memory:
    """All regions of one snapshot. Reads a payload when the first object asks for it."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self._payloads: dict[int, Stream] = {p.id: p.stream for p in reader.manifest.payloads}
        try:
            self._unions, self._regions = parse_rows(reader.read(reader.manifest.regions))
        except ValueError as error:
            raise DamagedError(f"region table of snapshot {reader.manifest.id}: {error}") from error
        self._members = [0] * len(self._unions)
        for union, _, _ in self._regions:
            self._members[union] += 1
        self._blocks: dict[int, Any] = {}
        self._small: bytearray | None = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Make this the `current` memory."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def array(self, region: int) -> Any:
        """A writable uint8 array over the region, sharing with whatever else lies there."""
        import numpy as np

        union, offset, length = self._regions[region]
        block = self._blocks.get(union)
        if block is None:
            block = np.empty(self._unions[union][2], np.uint8)
            self._fill(union, block)
        elif not isinstance(block, np.ndarray):
            import torch

            block = torch.empty(0, dtype=torch.uint8).set_(block).numpy()
        return block[offset : offset + length]

    def own_array(self, region: int, shape: tuple[int, ...], dtype: Any, order: str) -> Any | None:
        """An array that owns the region, or None where the region is shared with others."""
        import numpy as np

        union, _, length = self._regions[region]
        if union in self._blocks or self._members[union] != 1 or length != self._unions[union][2]:
            return None
        array = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        flat = array.reshape(-1, order="A").view(np.uint8)
        self._fill(union, flat)
        return array

    def storage(self, region: int) -> Any:
        """A torch storage over the region, sharing with whatever else lies there."""
        import torch

        union, _, length = self._regions[region]
        whole = length == self._unions[union][2]
        if union not in self._blocks and whole and self._members[union] == 1:
            storage = torch.UntypedStorage(length)
            # Not through an array over it, which would make the storage one that cannot be resized.
            self._fill(union, (ctypes.c_char * length).from_address(storage.data_ptr()))
            self._blocks[union] = storage
        block = self._blocks.get(union)
        if isinstance(block, torch.UntypedStorage) and whole:
            return block
        return torch.from_numpy(self.array(region)).untyped_storage()

    def _fill(self, union: int, target: Any) -> None:
        payload, offset, length = self._unions[union]
        if payload:
            self._reader.read_into(self._payloads[payload], target)
        else:
            if self._small is None:
                self._small = self._reader.read(self._payloads[0])
            memoryview(target).cast("B")[:] = memoryview(self._small)[offset : offset + length]
        self._blocks[union] = target
