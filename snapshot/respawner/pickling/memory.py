"""The memory of arrays and tensors, on the way back: see `regions` for how it is described.

Large payloads may be mapped (see `store.mapping`): such arrays and storages cannot be resized in place.

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
    """All regions of one snapshot. Reads or maps a payload when the first object asks for it.

    ``eager``: everything is read, and verified at once. Otherwise large payloads are mapped, and
    ``mapped`` says which, with the names of the variables that reach them.
    """

    def __init__(self, reader: SnapshotReader, *, eager: bool = True) -> None:
        self._reader = reader
        self._eager = eager
        self._payloads: dict[int, Stream] = {p.id: p.stream for p in reader.manifest.payloads}
        try:
            self._unions, self._regions = parse_rows(reader.read(reader.manifest.regions))
        except ValueError as error:
            raise DamagedError(f"region table of snapshot {reader.manifest.id}: {error}") from error
        self._members = [0] * len(self._unions)
        for union, _, _ in self._regions:
            self._members[union] += 1
        self._blocks: dict[int, Any] = {}
        self._maps: dict[int, Any] = {}
        self._storages: dict[int, Any] = {}
        self._small: bytearray | None = None
        self.mapped: dict[int, list[str]] = {}
        self._reached: set[int] = set()

    def variable_is_complete(self, name: str) -> None:
        """What was asked for since the last call belongs to that variable."""
        for payload in self._reached:
            self.mapped[payload].append(name)
        self._reached.clear()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Make this the `current` memory."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def buffer(self, region: int) -> tuple[Any, int]:
        """A writable buffer and the region's offset in it, sharing with whatever else lies there."""
        union, offset, _ = self._regions[region]
        mapping = self._map(union)
        return (self.array(region), 0) if mapping is None else (mapping, offset)

    def array(self, region: int) -> Any:
        """A writable uint8 array over the region, sharing with whatever else lies there."""
        import numpy as np

        union, offset, length = self._regions[region]
        mapping = self._map(union)
        if mapping is not None:
            return np.ndarray((length,), np.uint8, buffer=mapping, offset=offset)
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
        if self._map(union) is not None:
            return None
        if union in self._blocks or self._members[union] != 1 or length != self._unions[union][2]:
            return None
        array = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        flat = array.reshape(-1, order="A").view(np.uint8)
        self._fill(union, flat)
        return array

    def storage(self, region: int) -> Any:
        """A torch storage over the region, sharing with whatever else lies there."""
        import torch

        union, offset, length = self._regions[region]
        mapping = self._map(union)
        if mapping is not None:
            if region not in self._storages:
                flat = torch.frombuffer(mapping, dtype=torch.uint8, count=length, offset=offset)
                self._storages[region] = flat.untyped_storage()
            return self._storages[region]
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

    def _map(self, union: int) -> Any | None:
        """The mapping of a union, None where it is read instead."""
        payload, _, _ = self._unions[union]
        if self._eager or not payload:
            return None
        if union not in self._maps:
            self._maps[union] = None if union in self._blocks else self._reader.map(self._payloads[payload])
            if self._maps[union] is not None:
                self.mapped[payload] = []
        if self._maps[union] is not None:
            self._reached.add(payload)
        return self._maps[union]

    def _fill(self, union: int, target: Any) -> None:
        payload, offset, length = self._unions[union]
        if payload:
            self._reader.read_into(self._payloads[payload], target)
        else:
            if self._small is None:
                self._small = self._reader.read(self._payloads[0])
            memoryview(target).cast("B")[:] = memoryview(self._small)[offset : offset + length]
        self._blocks[union] = target
