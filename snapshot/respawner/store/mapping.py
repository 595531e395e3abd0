"""Private mappings of packs: a restored tensor lies in the page cache until somebody writes to it.

A page is read when it is first touched, and copied by the kernel when it is first written to; the pack never
changes. Deleting a mapped pack is safe (the file lives as long as the mapping), cutting it is not: whoever
then touches a lost page gets SIGBUS. So packs are mapped only where the file is long enough, and only on
file systems on which nobody else can take the file away.

What lies in `MappedMemory` cannot be resized in place: ``tensor.resize_`` and ``array.resize`` raise, and
``x = x.clone()`` or ``x = x.copy()`` is what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import Any

from ..manifest import CHUNK_BYTES, RAW, Stream

WORTH_MAPPING_BYTES = 1 << 20
"""Smaller streams are read at once: they stay resizable, and are checked before anybody sees them."""

MOST_PIECES = 16384
"""Mappings of this process at a time; the kernel allows 65530 (vm.max_map_count), and others need some too."""

_NETWORK_FILE_SYSTEMS = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb2",
    0xFF534D42: "cifs",
    0x01021997: "9p",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
}
"""``f_type`` of statfs(2): here another machine may delete a pack under the mapping, or the server may go."""

_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)

_pieces = 0
"""Extents mapped now, in this process."""


class MappedMemory(mmap.mmap):
    """One stream's memory, zeros where nothing was mapped over it. Owned by whatever lies on it.

    Python's own anonymous mapping reserves the addresses and gives them back; pieces of packs are laid
    over it.
    """

    address: int
    pieces: int = 0

    @classmethod
    def reserve(cls, length: int) -> MappedMemory:
        """Raises `OSError` or `ValueError` where there is no room for so many addresses."""
        memory = cls(-1, length, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE, prot=_WRITABLE)
        memory.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return memory

    def lay(self, position: int, descriptor: int, offset: int, length: int) -> None:
        """Map ``length`` bytes of a file at ``position``. Raises `OSError`; then this memory is of no use."""
        global _pieces
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
        address = self.address + position
        if _libc.mmap(address, length, _WRITABLE, flags, descriptor, offset) != address:
            error = ctypes.get_errno()
            raise OSError(error, f"{length} bytes at {offset} cannot be mapped: {os.strerror(error)}")
        self.pieces += 1
        _pieces += 1

    def expect_random_access(self, expected: bool) -> None:
        """Whether touching a page reads only that one from the disk, or what lies around it as well."""
        with contextlib.suppress(OSError):
            self.madvise(mmap.MADV_RANDOM if expected else mmap.MADV_NORMAL)

    def __del__(self) -> None:
        global _pieces
        _pieces -= self.pieces


def may_map(folder: Path) -> bool:
    """Whether files of this folder can be mapped without fear that they are taken away."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) < 8:
        return False
    buffer = (ctypes.c_long * 32)()
    if _libc.statfs(os.fsencode(folder), ctypes.byref(buffer)) != 0:
        return False
    return buffer[0] & 0xFFFFFFFF not in _NETWORK_FILE_SYSTEMS


def is_worth_mapping(stream: Stream) -> bool:
    """Whether the stream is large, lies on whole pages, and needs no more pieces than we may have."""
    if stream.length < WORTH_MAPPING_BYTES:
        return False
    position = raw = 0
    for extent in stream.extents:
        if extent.encoding == RAW:
            raw += 1
            if position % CHUNK_BYTES or extent.offset % mmap.PAGESIZE or not extent.length:
                return False
        position += extent.length
    return 0 < raw <= MOST_PIECES - _pieces
