"""One storage on a device as a part of a state that is being saved."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..manifest import CHUNK_BYTES
from .hardware import room_on
from .known import Place
from .lane import Lane, flat, lane_of
from .ring import Piece


@dataclass
class DeviceMemory:
    """``made_there``: a digest of each chunk by the device, at the capture; None where it could make none.

    ``ready``: of a copy that is ours alone, the event of its being made."""

    device: str
    address: int
    length: int
    flat: Any
    made_there: list[bytes] | None = None
    ready: Any = None

    @classmethod
    def of(cls, storage: Any) -> DeviceMemory:
        return cls(str(storage.device), storage.data_ptr(), storage.nbytes(), flat(storage))

    def let_go(self) -> None:
        """Nothing will be read any more; a cell may be waiting for that memory."""
        self.flat = None

    @property
    def lane(self) -> Lane:
        return lane_of(self.device)

    def chunks(self) -> Iterator[tuple[Place, bytes | None]]:
        """Yield each chunk's place and what the device made of it."""
        for index, start in enumerate(range(0, self.length, CHUNK_BYTES)):
            place = Place(self.device, self.address + start, min(CHUNK_BYTES, self.length - start))
            yield place, self.made_there[index] if self.made_there is not None else None

    def piece(self, address: int, length: int) -> Piece:
        return Piece(self.flat, address - self.address, length)

    def part(self, address: int, length: int) -> Any:
        return self.flat[address - self.address : address - self.address + length]


_MOST_BYTES = 256 << 20

Part = tuple[DeviceMemory, int, int]
"""Neighbouring chunks: address and bytes."""


def look(memories: Sequence[DeviceMemory]) -> None:
    """Have their devices make their digests."""
    for device in dict.fromkeys(memory.device for memory in memories):
        its = [memory for memory in memories if memory.device == device]
        for memory, made in zip(its, its[0].lane.digests([memory.flat for memory in its]), strict=True):
            memory.made_there = made


def copy_out(places: Sequence[Part], targets: Sequence[int]) -> bool:
    """Copy places of one device to addresses of the host, and return whether all of it still is what it was at the
    capture: the device makes its digests again, after the copies."""
    pieces = [memory.piece(address, length) for memory, address, length in places]

    def put(number: int, at: int) -> None:
        ctypes.memmove(targets[number], at, pieces[number].length)

    ready = places[0][0].ready
    places[0][0].lane.read(pieces, put, after=ready if all(m.ready is ready for m, _, _ in places) else None)
    runs = _neighbours(places)
    return _are_as_captured(runs, [memory.part(address, length) for memory, address, length in runs])


def copy_there(places: Sequence[Part]) -> tuple[list[DeviceMemory], bool]:
    """Copies on the device itself of those places, all of one device, for which there is room, the first ones first; and
    whether they are what these places were at the capture.

    That takes a fiftieth of the time that the bytes take to cross the bus.
    """
    room = room_on(places[0][0].device)
    ends = itertools.accumulate(length for _, _, length in places)
    fitting = places[: sum(end <= room for end in ends)]
    runs = _neighbours(fitting)
    if not runs:
        return [], True
    copies, ready = runs[0][0].lane.copy_there([memory.piece(at, length) for memory, at, length in runs])
    found = [
        DeviceMemory(memory.device, address, length, copy, ready=ready)
        for (memory, address, length), copy in zip(runs, copies, strict=False)
    ]
    return found, _are_as_captured(runs[: len(copies)], copies)


def _are_as_captured(runs: Sequence[Part], parts: Sequence[Any]) -> bool:
    """Whether the bytes in ``parts`` are what the devices' digests at the capture say of these places; True where there are none."""
    known = [
        (memory.made_there[first : first - (-length // CHUNK_BYTES)], part)
        for (memory, address, length), part in zip(runs, parts, strict=True)
        if memory.made_there is not None
        for first in [(address - memory.address) // CHUNK_BYTES]
    ]
    if not known:
        return True
    now = runs[0][0].lane.digests([part for _, part in known])
    return all(made is None or made == before for made, (before, _) in zip(now, known, strict=True))


def _neighbours(places: Sequence[Part]) -> list[Part]:
    """The same with places that touch as one, up to a size: each copy is given back when all of it has been read."""
    runs: list[Part] = []
    for memory, address, length in places:
        touches = bool(runs) and runs[-1][0] is memory and runs[-1][1] + runs[-1][2] == address
        if touches and runs[-1][2] + length <= _MOST_BYTES:
            runs[-1] = memory, runs[-1][1], runs[-1][2] + length
        else:
            runs.append((memory, address, length))
    return runs
