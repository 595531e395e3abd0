"""Which chunks of mapped memory nobody has written to since the restore: their digests are known.

A page of a private mapping is a page of the file until the first write, whoever writes and by whatever way
(the processor traps it); then it is anonymous memory and never again a page of the file. The kernel tells
in ``/proc/self/pagemap``: a page that is neither in memory nor swapped out has not been touched or was
dropped clean, one that is in memory says whether it belongs to a file. Without this the first capture after
a restore would read and hash every byte that was just mapped.

It counts only where a test on the pack itself shows that this kernel tells the truth (see `is_truthful`);
elsewhere nothing is known, and everything is hashed.
"""

from __future__ import annotations

import bisect
import mmap
import os
import sys
import weakref
from dataclasses import dataclass

from ..manifest import CHUNK_BYTES, DIGEST_BYTES, Stream
from .codec import RAW
from .mapping import MappedMemory

_ENTRY_BYTES = 8
_PRESENT, _SWAPPED, _FILE = 0x80, 0x40, 0x20
"""In the highest byte of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst): bits 63, 62 and 61."""

_WRITTEN = bytes(bool(top & _SWAPPED or (top & _PRESENT and not top & _FILE)) for top in range(256))
"""Translates that byte to 1 where the page may have been written to. What we do not know counts as written."""

_READ_PAGES = 1 << 20


@dataclass(frozen=True)
class _Known:
    memory: weakref.ref[MappedMemory]
    stream: Stream
    algorithm: str

    def digests(self, first: int, count: int) -> list[bytes | None]:
        """Of that many chunks from the ``first`` one on; None where the chunk was not mapped."""
        stored = self.stream.digests
        digests: list[bytes | None] = [
            stored[start : start + DIGEST_BYTES]
            for start in range(first * DIGEST_BYTES, (first + count) * DIGEST_BYTES, DIGEST_BYTES)
        ]
        index = -first
        for extent in self.stream.extents:
            if extent.encoding != RAW and 0 <= index < count:
                digests[index] = None
            index += extent.chunk_count
        return digests


_known: dict[int, _Known] = {}
_sorted: list[int] | None = None
"""The keys of that in order, None where they have changed since."""


def remember(memory: MappedMemory, stream: Stream, algorithm: str) -> None:
    """``memory`` holds that stream, and nothing has been written to what is mapped of it."""
    address = memory.address
    _known[address] = _Known(weakref.ref(memory, lambda _: _drop(address)), stream, algorithm)
    _drop_order()


def forget(memory: MappedMemory) -> None:
    """Its digests are not to be believed: a chunk on disk is not what its manifest says."""
    _drop(memory.address)


def known_digests(address: int, length: int, algorithm: str) -> list[bytes | None]:
    """For each chunk of the memory at ``address`` its digest, or None where it must be hashed.

    Chunks are counted from ``address``. To be asked while nothing writes to that memory, as for hashing it.
    """
    unknown: list[bytes | None] = [None] * -(-length // CHUNK_BYTES)
    found = _containing(address, length)
    if found is None:
        return unknown
    start, known = found
    memory = known.memory()  # keeps the mapping while we look
    first, rest = divmod(address - start, CHUNK_BYTES)
    if memory is None or rest or known.algorithm != algorithm:
        return unknown
    digests = known.digests(first, len(unknown))
    if length % CHUNK_BYTES and address + length != start + known.stream.length:
        digests[-1] = None  # the stored chunk goes on behind it
    try:
        written = _written_pages(address, length)
    except OSError:
        return unknown
    pages = CHUNK_BYTES // mmap.PAGESIZE
    for index in range(len(digests)):
        if written.find(1, index * pages, (index + 1) * pages) >= 0:
            digests[index] = None
    return digests


def is_truthful(descriptor: int) -> bool:
    """Whether this kernel tells for this file which pages of a mapping were written to.

    Tried on two pages of the file itself, mapped privately: the first is read, then written; the second is
    left alone. Changes nothing of the file.
    """
    if sys.byteorder != "little" or CHUNK_BYTES % mmap.PAGESIZE:
        return False
    page = mmap.PAGESIZE
    try:
        if os.fstat(descriptor).st_size < 2 * page:
            return False
        memory = MappedMemory.reserve(2 * page)
        memory.lay(0, descriptor, 0, 2 * page)
        seen = [_written_pages(memory.address, 2 * page)]
        same = memory[0]
        seen.append(_written_pages(memory.address, 2 * page))
        memory[0] = same  # a write that changes nothing is a write as well
        seen.append(_written_pages(memory.address, 2 * page))
        if hasattr(mmap, "MADV_PAGEOUT"):
            memory.madvise(mmap.MADV_PAGEOUT)
            seen.append(_written_pages(memory.address, 2 * page))
        seen.append(_written_pages(memory.address, 2 * page))
    except (OSError, ValueError):
        return False
    return seen == [b"\0\0", b"\0\0"] + [b"\1\0"] * (len(seen) - 2)


def _drop(address: int) -> None:
    _known.pop(address, None)
    _drop_order()


def _drop_order() -> None:
    global _sorted
    _sorted = None


def _containing(address: int, length: int) -> tuple[int, _Known] | None:
    """The mapping that all of that memory lies in, and where it starts."""
    global _sorted
    found = _known.get(address)
    start = address
    if found is None:
        starts = _sorted
        if starts is None:
            starts = _sorted = sorted(_known)
        index = bisect.bisect(starts, address) - 1
        if index < 0:
            return None
        start = starts[index]
        found = _known.get(start)
    if found is None or address + length > start + found.stream.length:
        return None
    return start, found


def _written_pages(address: int, length: int) -> bytes:
    """One byte a page: 1 where it may have been written to. ``address`` is at the beginning of a page."""
    first = address // mmap.PAGESIZE
    count = -(-length // mmap.PAGESIZE)
    parts = []
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        for start in range(0, count, _READ_PAGES):
            wanted = min(_READ_PAGES, count - start) * _ENTRY_BYTES
            entries = os.pread(file.fileno(), wanted, (first + start) * _ENTRY_BYTES)
            if len(entries) != wanted:
                raise OSError(f"/proc/self/pagemap ends after {len(entries)} of {wanted} bytes")
            parts.append(entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_WRITTEN))
    return b"".join(parts)
