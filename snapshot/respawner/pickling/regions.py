"""The memory of arrays and tensors, found while pickling, by address.

Reducers of arrays and storages call `RegionTable.add` and put the number they get into the pickle. Several
regions may overlap (``torch.from_numpy`` shares an array's memory, but nothing links the two objects):
after the pickle is written, overlapping regions are merged into unions, and each union is stored once.
So what shared memory shares it again after a restore, whichever library it came from.

The stream ``regions`` of a snapshot maps the numbers: little-endian unsigned 64-bit integers,

    number of unions, number of regions,
    for each union: payload's id (0: the payload of all small unions), offset in that payload, length,
    for each region: union, offset in that union, length.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

Shared = TypeVar("Shared")
Note = Callable[[str], None]

SMALL_BYTES = 64 * 1024
"""Unions below this share one payload: a payload costs about 150 bytes of manifest and a page of the pack."""


@dataclass
class Region:
    """``device``: whose memory it is, as ``cuda:0``; the host's where that is empty."""

    address: int
    length: int
    kind: str
    about: str
    device: str = ""


def view_at(address: int, length: int) -> memoryview:
    """That memory, not a copy. Nothing keeps it alive."""
    pointer: Any = (ctypes.c_char * length).from_address(address)
    return memoryview(pointer).cast("B")


@dataclass
class Union:
    """Memory without gaps that one or more regions lie in."""

    start: int
    end: int
    first: Region

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def device(self) -> str:
        return self.first.device

    def memory(self) -> memoryview:
        """The bytes themselves, not a copy. Valid while the region table keeps its owners; not of a device's."""
        return view_at(self.start, self.length)


class RegionTable:
    """Collects regions during one capture and keeps their owners alive, so that no address is reused."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._numbers: dict[tuple[str, int, int], int] = {}
        self.owners: list[Any] = []
        """Keeps the memory where it is for as long as it is kept itself."""
        self._shared: dict[Any, Any] = {}
        self.belongs_on: dict[str, str | None] = {}
        """Devices that the state's tensors are on or come from, with their UUID."""

    def add(self, address: int, length: int, kind: str, about: str, owner: Any, device: str = "") -> int:
        """The number of that region; the same memory gets the same number."""
        key = (device, address, length)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.regions)
            self.regions.append(Region(address, length, kind, about, device))
            self.owners.append(owner)
        return number

    def shared(self, make: Callable[[Note], Shared], note: Note) -> Shared:
        """The one object of that class that belongs to this capture; reducers of several types share it."""
        if make not in self._shared:
            self._shared[make] = make(note)
        found: Shared = self._shared[make]
        return found

    def merge(self) -> tuple[list[Union], array[int]]:
        """Return the unions in the order of their first region's number, and for each region its union.

        A device's union has the memory of its longest region (`covering`).
        """
        by_address = sorted(
            range(len(self.regions)),
            key=lambda n: (self.regions[n].device, self.regions[n].address, -self.regions[n].length, n),
        )
        groups: list[list[int]] = []
        device, end = "", -1
        for number in by_address:
            region = self.regions[number]
            stop = region.address + region.length
            # On a device one storage covers the union: there is no other way to its bytes.
            overlaps = region.device == device and (stop <= end if device else region.address < end)
            if overlaps:
                groups[-1].append(number)
                end = max(end, stop)
            else:
                groups.append([number])
                device, end = region.device, stop
        groups.sort(key=min)
        unions = []
        union_of = array("Q", bytes(8 * len(self.regions)))
        for index, group in enumerate(groups):
            members = [self.regions[number] for number in group]
            start = min(member.address for member in members)
            stop = max(member.address + member.length for member in members)
            unions.append(Union(start, stop, self.regions[min(group)]))
            for number in group:
                union_of[number] = index
        return unions, union_of

    def covering(self, union: Union) -> Any:
        """The owner of the region that is all of the union."""
        return self.owners[self._numbers[union.device, union.start, union.length]]

    def rows(self, unions: list[Union], union_of: array[int], places: list[tuple[int, int]]) -> bytes:
        """The stream ``regions``. ``places``: for each union its payload's id and its offset in that."""
        words = array("Q", (len(unions), len(self.regions)))
        for (payload, offset), union in zip(places, unions, strict=True):
            words.extend((payload, offset, union.length))
        for number, region in enumerate(self.regions):
            index = union_of[number]
            words.extend((index, region.address - unions[index].start, region.length))
        return _little_endian(words).tobytes()


def parse_rows(data: bytes | bytearray) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """The unions and the regions of a stream ``regions``. Raises ValueError where it is malformed."""
    words = array("Q")
    words.frombytes(bytes(data))
    _little_endian(words)
    if len(words) < 2 or len(words) != 2 + 3 * (words[0] + words[1]):
        raise ValueError(f"a region table of {len(words)} words")
    rows = list(_triples(words))
    return rows[: words[0]], rows[words[0] :]


def _triples(words: array[int]) -> Iterator[tuple[int, int, int]]:
    values = iter(words[2:])
    return zip(values, values, values, strict=True)


def _little_endian(words: array[int]) -> array[int]:
    if sys.byteorder == "big":
        words.byteswap()
    return words
