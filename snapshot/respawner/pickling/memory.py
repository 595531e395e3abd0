"""The memory of arrays and tensors, on the way back: see `regions` for how it is described.

While an unpickler runs, reducers' counterparts (`numpy_arrays`, `torch_tensors`) ask `current()` for their
region. A large union is mapped from its pack (see `store.mapping`). Of the others, one that only one object
wants is made as that object's own memory (a tensor's storage can be resized, an array owns its data); one
that several regions lie in becomes a block that they share.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import sys
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from ..device.hardware import available, is_exhausted
from ..device.placement import CPU, Device, place, told
from ..errors import DamagedError
from ..manifest import Payload
from ..store.mapping import MappedMemory
from ..store.reader import SnapshotReader
from ..verification import Mapped
from .regions import parse_rows

_current: ContextVar[Memory] = ContextVar("respawner_memory")


class LostMemoryError(Exception):
    """The bytes of one object are damaged, and the caller wants the others all the same.

    Not a `StoreError`: an unpickler takes it for a failure of the object, and puts a placeholder there.
    """


def current() -> Memory:
    """The memory of the snapshot that is being unpickled in this thread."""
    return _current.get()


class Memory:
    """All regions of one snapshot. Maps or reads a payload when the first object asks for it.

    ``mapped`` lists what was mapped and is not verified. With ``eager`` everything is read and verified;
    with ``salvage`` what is damaged raises `LostMemoryError` where an object needs it, not `DamagedError`.
    """

    def __init__(self, reader: SnapshotReader, *, eager: bool = False, salvage: bool = False) -> None:
        self.mapped: list[Mapped] = []
        self._reader = reader
        self._eager = eager or salvage
        self._salvage = salvage
        self._payloads: dict[int, Payload] = {p.id: p for p in reader.manifest.payloads}
        try:
            self._unions, self._regions = parse_rows(reader.read(reader.manifest.regions))
            self._check_table()
        except ValueError as error:
            raise DamagedError(f"region table of snapshot {reader.manifest.id}: {error}") from error
        self._members = [0] * len(self._unions)
        for union, _, _ in self._regions:
            self._members[union] += 1
        self._blocks: dict[int, Any] = {}
        self._storages: dict[int, Any] = {}
        self._device_blocks: dict[tuple[int, str], Any] = {}
        self.notes: dict[str, None] = {}
        self._small: tuple[bytearray, list[tuple[int, int, str]]] | None = None
        self._mapped_unions: dict[int, Mapped] = {}
        self._unnamed: list[Mapped] = []

    def _check_table(self) -> None:
        """Raise ValueError where the table names bytes that do not exist."""
        for payload, offset, length in self._unions:
            stream = self._payloads[payload].stream if payload in self._payloads else None
            if stream is None or offset + length > stream.length or (payload and length != stream.length):
                raise ValueError(f"{length} bytes at {offset} of payload {payload}, which has not these")
        for union, offset, length in self._regions:
            if union >= len(self._unions) or offset + length > self._unions[union][2]:
                raise ValueError(f"{length} bytes at {offset} of union {union}, which has not these")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Make this the `current` memory."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def variable_is_complete(self, name: str) -> None:
        """What was asked for since the last call belongs to that variable."""
        for item in self._unnamed:
            item.names.append(name)
        self._unnamed.clear()

    def view(self, region: int) -> memoryview:
        """The region's writable bytes, for a library that is neither numpy nor torch; keeps them alive."""
        union, offset, length = self._regions[region]
        block = self._map(union)
        if block is None:
            block = bytearray(self._unions[union][2])
            self._fill(union, block)
        elif _is_storage(block):
            block = _numpy_over(block)
        return memoryview(block).cast("B")[offset : offset + length]

    def buffer(self, region: int) -> tuple[Any, int]:
        """A writable buffer and the region's offset in it, sharing with whatever else lies there."""
        union, offset, _ = self._regions[region]
        block = self._map(union)
        return (block, offset) if isinstance(block, MappedMemory) else (self.array(region), 0)

    def array(self, region: int) -> Any:
        """A writable uint8 array over the region, sharing with whatever else lies there."""
        import numpy as np

        union, offset, length = self._regions[region]
        block = self._map(union)
        if block is None:
            block = np.empty(self._unions[union][2], np.uint8)
            self._fill(union, block)
        elif _is_storage(block):
            block = _numpy_over(block)
        elif not isinstance(block, np.ndarray):
            block = np.ndarray((self._unions[union][2],), np.uint8, buffer=block)
        else:
            block = block.reshape(-1, order="A").view(np.uint8)
        return block[offset : offset + length]

    def own_array(self, region: int, shape: tuple[int, ...], dtype: Any, order: Any) -> Any | None:
        """An array that nothing else lies on, or None where the region is shared with others."""
        import numpy as np

        union, _, length = self._regions[region]
        if union in self._blocks or self._members[union] != 1 or length != self._unions[union][2]:
            return None
        block = self._map(union)
        if block is not None:
            return np.ndarray(shape, dtype, buffer=block, order=order)
        array = np.empty(shape, dtype, order)
        self._fill(union, array.reshape(-1, order="A").view(np.uint8))
        return array

    def storage(self, region: int) -> Any:
        """A torch storage over the region, sharing with whatever else lies there."""
        self._map(self._regions[region][0])
        storage = self._storages.get(region)
        if storage is None:
            storage = self._storages[region] = self._make_storage(region)
        return storage

    def comes_back_to(self, device: str) -> str:
        """The device that what was on ``device`` is put on here, or the CPU."""
        return self._placed.get(device, CPU)

    @functools.cached_property
    def _placed(self) -> dict[str, str]:
        origins = [Device.parse(name, uuid) for name, uuid in self._reader.manifest.devices.items()]
        return place(origins, available(origin.type for origin in origins))

    def moves(self) -> list[str]:
        """What is not on the device that it was on, for the report."""
        moved = [(was, now) for was, now in self._placed.items() if was != now]
        return [*(told(was, now) for was, now in moved), *self.notes]

    def device_storage(self, region: int, device: str) -> Any:
        """A torch storage over the region on the device that it belongs on, as `storage`.

        On the CPU where that, or room on it, is not there; then the device is remembered.
        """
        target = self.comes_back_to(device)
        if target != CPU:
            try:
                return self._on_device(region, target)
            except RuntimeError as error:
                if not is_exhausted(error):
                    raise
                self.notes[
                    f"there is no room on {target} for all that belongs there: the rest is on the CPU"
                ] = None
        from ..device import remembered

        storage = self.storage(region)
        remembered.remember(storage, Device.parse(device, self._reader.manifest.devices.get(device)))
        return storage

    def _on_device(self, region: int, target: str) -> Any:
        import torch

        from ..device.lane import flat, lane_of

        union, offset, length = self._regions[region]
        block = self._device_blocks.get((union, target))
        if block is None:
            payload, start, whole = self._unions[union]
            block = torch.UntypedStorage(whole, device=target)
            if payload:
                stream = self._payloads[payload].stream
                with self._damage_costs_the_object(), self._reader.open(stream) as file:
                    lane_of(target).write(flat(block), file.readinto)
            else:
                small = io.BytesIO(self._small_bytes(start, whole))
                lane_of(target).write(flat(block), small.readinto)
            self._device_blocks[union, target] = block
        return block if length == block.nbytes() else block[offset : offset + length]

    def _make_storage(self, region: int) -> Any:
        import torch

        union, offset, length = self._regions[region]
        whole = length == self._unions[union][2]
        block = self._map(union)
        if block is None and whole and self._members[union] == 1:
            block = torch.UntypedStorage(length)
            # Not through an array over it, which would make the storage one that cannot be resized.
            self._fill(union, (ctypes.c_char * length).from_address(block.data_ptr()))
            self._blocks[union] = block
        if _is_storage(block) and whole:
            return block
        if isinstance(block, MappedMemory | bytearray):
            flat = torch.frombuffer(block, dtype=torch.uint8, offset=offset, count=length)
            return flat.untyped_storage()
        return torch.from_numpy(self.array(region)).untyped_storage()

    def _map(self, union: int) -> Any | None:
        """The block that was made for the union, or a mapping; None where the union is to be read."""
        if union not in self._blocks and not self._eager and self._unions[union][0]:
            payload = self._payloads[self._unions[union][0]]
            block = self._reader.map(payload.stream)
            if block is not None:
                self._blocks[union] = block
                self._mapped_unions[union] = Mapped(payload, weakref.ref(block))
                self.mapped.append(self._mapped_unions[union])
        item = self._mapped_unions.get(union)
        if item is not None and item not in self._unnamed:
            self._unnamed.append(item)
        return self._blocks.get(union)

    def _fill(self, union: int, target: Any) -> None:
        """Read the union's bytes into ``target``, which becomes its block."""
        payload, offset, length = self._unions[union]
        if payload:
            with self._damage_costs_the_object():
                self._reader.read_into(self._payloads[payload].stream, target)
        else:
            memoryview(target).cast("B")[:] = self._small_bytes(offset, length)
        self._blocks[union] = target

    @contextlib.contextmanager
    def _damage_costs_the_object(self) -> Iterator[None]:
        """Where something is salvaged; otherwise it costs the snapshot."""
        try:
            yield
        except DamagedError as error:
            if self._salvage:
                raise LostMemoryError(f"damaged on disk: {error}") from error
            raise

    def _small_bytes(self, offset: int, length: int) -> memoryview:
        if self._small is None:
            stream = self._payloads[0].stream
            if self._salvage:
                self._small = self._reader.read_what_is_whole(stream)
            else:
                self._small = self._reader.read(stream), []
        data, holes = self._small
        for start, end, reason in holes:
            if start < offset + length and offset < end:
                raise LostMemoryError(f"damaged on disk: {reason}")
        return memoryview(data)[offset : offset + length]


def _is_storage(block: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(block, torch.UntypedStorage)


def _numpy_over(storage: Any) -> Any:
    import torch

    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
