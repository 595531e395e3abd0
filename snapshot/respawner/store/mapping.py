"""Streams mapped from their packs: the state is there at once, its bytes come when they are touched.

A mapping is private: what the user writes stays in the process's memory, the pack is never changed. Deleting
a mapped pack is harmless (the file lives on until it is unmapped); cutting or overwriting one is not, and
nobody does that (see FORMAT.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from typing import Any

from ..manifest import CHUNK_BYTES, RUNS, ZERO, Stream
from .pack import ALIGNMENT, PackReader

LEAST_BYTES = 1 << 20
"""Smaller streams are read: a mapping costs some microseconds, and pages."""
_MOST_PIECES = 1024
"""Extents of one stream; a process may have 65,530 mappings, and scattered changes make many extents."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value


def can_be_mapped(stream: Stream) -> bool:
    """Whether the stream's chunks lie in packs page by page as they shall lie in memory."""
    extents = stream.extents
    return (
        stream.length >= LEAST_BYTES
        and len(extents) <= _MOST_PIECES
        and mmap.PAGESIZE <= ALIGNMENT
        and all(extent.encoding in RUNS and extent.offset % ALIGNMENT == 0 for extent in extents)
        and all(extent.length % CHUNK_BYTES == 0 for extent in extents[:-1])
    )


def map_stream(stream: Stream, pack_of: Any) -> Any | None:
    """The stream's bytes as a writable buffer, or None where the file system does not map.

    ``pack_of(number)`` opens a `PackReader`. The memory is unmapped when the last object that uses the
    buffer is gone. Raises `DamagedError` where a pack is too short: touching it would end the process.
    """
    for extent in stream.extents:
        if extent.encoding == ZERO:
            continue
        pack_of(extent.pack).check_length(extent.offset + extent.length)
    reserve = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    writable = mmap.PROT_READ | mmap.PROT_WRITE  # zeros stay what is reserved here
    base = _libc.mmap(None, stream.length, writable, reserve, -1, 0)
    if base == _FAILED:
        return None
    address = base
    for extent in stream.extents:
        if extent.encoding == ZERO:
            address += extent.length  # what is reserved is zero
            continue
        pack: PackReader = pack_of(extent.pack)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        placed = _libc.mmap(address, extent.length, protection, flags, pack.descriptor, extent.offset)
        if placed == _FAILED:
            _libc.munmap(base, stream.length)
            return None
        address += extent.length
    buffer = (ctypes.c_char * stream.length).from_address(base)
    finalizer = weakref.finalize(buffer, _libc.munmap, base, stream.length)
    finalizer.atexit = False  # whoever still uses it at the end of the process may go on
    return buffer


def read_ahead(descriptor: int) -> None:
    """Tell the system that the file will be read from the beginning to the end."""
    with contextlib.suppress(OSError):  # advice only
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
