"""One storage on a device as a part of a state that is being saved."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..manifest import CHUNK_BYTES
from .known import Place
from .lane import Lane, flat, lane_of
from .ring import Piece


@dataclass
class DeviceMemory:
    """``made_there``: a digest of each chunk by the device, at the capture; None where it could make none."""

    device: str
    address: int
    length: int
    flat: Any
    made_there: list[bytes] | None = None

    @classmethod
    def of(cls, storage: Any) -> DeviceMemory:
        return cls(str(storage.device), storage.data_ptr(), storage.nbytes(), flat(storage))

    def let_go(self) -> None:
        """Nothing will be read any more; a cell may be waiting for that memory."""
        self.flat = None

    @property
    def lane(self) -> Lane:
        return lane_of(self.device)

    def look(self) -> None:
        """Have the device make its digests."""
        self.made_there = self.lane.digests(self.flat)

    def chunks(self) -> Iterator[tuple[Place, bytes | None]]:
        """Yield each chunk's place and what the device made of it."""
        for index, start in enumerate(range(0, self.length, CHUNK_BYTES)):
            place = Place(self.device, self.address + start, min(CHUNK_BYTES, self.length - start))
            yield place, self.made_there[index] if self.made_there is not None else None

    def piece(self, address: int, length: int) -> Piece:
        return Piece(self.flat, address - self.address, length)

    def is_as_captured(self, address: int, length: int) -> bool:
        """Whether some neighbouring chunks are still what the digests at the capture say; True where there are none."""
        if self.made_there is None:
            return True
        start = address - self.address
        first = start // CHUNK_BYTES
        now = self.lane.digests(self.flat[start : start + length])
        return now is None or now == self.made_there[first : first + len(now)]


def copy_out(places: Sequence[tuple[DeviceMemory, int, int]], targets: Sequence[int]) -> bool:
    """Copy ``(memory, address, length)`` of one device to addresses of the host, and return whether all of it still is
    what it was at the capture: the device makes its digests again, after the copies."""
    pieces = [memory.piece(address, length) for memory, address, length in places]

    def put(number: int, at: int) -> None:
        ctypes.memmove(targets[number], at, pieces[number].length)

    places[0][0].lane.read(pieces, put)
    return all(memory.is_as_captured(address, length) for memory, address, length in _neighbours(places))


def _neighbours(places: Sequence[tuple[DeviceMemory, int, int]]) -> list[tuple[DeviceMemory, int, int]]:
    """The same with places that touch as one."""
    runs: list[tuple[DeviceMemory, int, int]] = []
    for memory, address, length in places:
        if runs and runs[-1][0] is memory and runs[-1][1] + runs[-1][2] == address:
            runs[-1] = memory, runs[-1][1], runs[-1][2] + length
        else:
            runs.append((memory, address, length))
    return runs
