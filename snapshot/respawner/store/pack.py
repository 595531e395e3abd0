"""Append-only files of chunks. A pack knows nothing of what it holds: only manifests do.

Every chunk starts at a multiple of `ALIGNMENT`, so that packs can be mapped and written with direct I/O.
Bytes behind the last chunk that a manifest names are left-overs of a crash, or of a manifest that is gone: then some
kernel may have them mapped, and would die by SIGBUS if they were cut off. So only what this very writer has added since
its last publish is ever cut off (see `TimelineWriter`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import DamagedError, NewerFormatError
from .files import fsync_folder, remove

MAGIC = b"RSPNPACK"
VERSION = 1
ALIGNMENT = 4096
HEADER = struct.Struct("<8sII16s")
_BUFFER_BYTES = 8 << 20
"""Large enough for the disk's full speed, small enough to be no matter; a multiple of `ALIGNMENT`."""


def align(offset: int) -> int:
    """The first place at or after ``offset`` where a chunk may start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def pack_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.pack"


class PackWriter:
    """Appends to one pack. One thread at a time; nothing is on disk before `sync`.

    Chunks are gathered in a buffer and written past the page cache (``O_DIRECT``) where the file system
    can, so that saving gigabytes neither pushes the user's data out of the cache nor waits for the kernel
    to write it back. A pack may be longer than its last chunk by the zeros of a last page.
    """

    def __init__(self, folder: Path, number: int, timeline_uuid: bytes, end: int = 0) -> None:
        """Make the pack, or with ``end`` open it. Raises `FileExistsError` where one that is to be made is there.

        Behind ``end`` there must be nothing but the zeros of a last page, or what was added by this process and
        never published: it is cut off.
        """
        self.number = number
        self.path = pack_path(folder, number)
        self._buffer, self._spare = _Buffer(), _Buffer()
        self._filled = 0
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="respawner-write")
        self._writing: Future[None] | None = None
        try:
            make = 0 if end else os.O_CREAT | os.O_EXCL
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | make, 0o600)
        except OSError:
            self._writes.shutdown()
            raise
        try:
            if not end:
                header = HEADER.pack(MAGIC, VERSION, number, timeline_uuid)
                _write_all(self._fd, header.ljust(ALIGNMENT, b"\0"), 0)
                end = ALIGNMENT
                fsync_folder(folder)
            os.ftruncate(self._fd, end)
        except BaseException:
            self.close()
            if make:
                with contextlib.suppress(OSError):
                    remove(self.path)
            raise
        self._start = align(end)
        """Where in the pack the buffer's first byte belongs."""
        with contextlib.suppress(OSError):  # a file system without direct I/O
            fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_DIRECT)

    @property
    def end(self) -> int:
        """Where the next chunk will lie."""
        return self._start + self._filled

    def append(self, data: Any) -> int:
        """Add one chunk (at most `_BUFFER_BYTES`) and return its offset."""
        view = memoryview(data).cast("B")
        target, _ = self.room(len(view))
        target[:] = view
        return self.added(len(view))

    def room(self, length: int) -> tuple[memoryview, int]:
        """Where to put the next chunk's bytes, as a view and as an address; then call `added`."""
        if length > _BUFFER_BYTES:
            raise ValueError(f"a chunk of {length} bytes, more than the buffer's {_BUFFER_BYTES}")
        if self._filled + length > _BUFFER_BYTES:
            self.write_out()
        buffer = self._buffer
        return buffer.view[self._filled : self._filled + length], buffer.address + self._filled

    def added(self, length: int) -> int:
        """The next chunk's bytes are in their place; returns its offset in the pack."""
        offset = self.end
        filled = self._filled + length
        self._filled = align(filled)
        self._buffer.view[filled : self._filled] = bytes(self._filled - filled)
        return offset

    def write_out(self) -> None:
        """Hand the buffer to the file; the next one is filled while this one is written.

        Raises what went wrong with the one before.
        """
        self._wait()
        view = self._buffer.view[: self._filled]
        try:
            self._writing = self._writes.submit(self._write, view, self._start)
        except RuntimeError:  # the interpreter is ending: pools start no more threads
            self._write(view, self._start)
        self._buffer, self._spare = self._spare, self._buffer
        self._start += self._filled
        self._filled = 0

    def _write(self, view: memoryview, offset: int) -> None:
        try:
            _write_all(self._fd, view, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Promised by open, refused by write: NFS and some overlays do that.
            fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
            _write_all(self._fd, view, offset)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def sync(self) -> None:
        """Everything appended so far is durable when this returns."""
        if self._filled:
            self.write_out()
        self._wait()
        os.fdatasync(self._fd)

    def truncate(self, end: int) -> None:
        """Forget everything behind ``end``."""
        self._filled = 0
        with contextlib.suppress(OSError):  # what it was is behind the end anyway
            self._wait()
        os.ftruncate(self._fd, end)
        self._start = align(end)

    def close(self) -> None:
        """What has not been written out is forgotten."""
        self._writes.shutdown()
        os.close(self._fd)


class _Buffer:
    """Memory at a page's beginning, as direct I/O wants it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BUFFER_BYTES)
        self.view = memoryview(self._memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))


class PackReader:
    """Reads chunks of one pack. Raises `DamagedError` where the file is not what the manifest needs."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = pack_path(folder, number)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.path} is missing") from error
        try:
            self._check_header(number)
        except BaseException:
            os.close(self._fd)
            raise

    def _check_header(self, number: int) -> None:
        header = os.pread(self._fd, HEADER.size, 0)
        if len(header) < HEADER.size:
            raise DamagedError(f"{self.path} is too short for a pack: {len(header)} bytes")
        magic, version, own_number, _ = HEADER.unpack(header)
        if magic != MAGIC:
            raise DamagedError(f"{self.path} does not start with {MAGIC!r}")
        if version > VERSION:
            raise NewerFormatError(f"{self.path} has pack version {version}; this Respawner reads {VERSION}")
        if own_number != number:
            raise DamagedError(f"{self.path} says that it is pack {own_number}")

    @property
    def descriptor(self) -> int:
        return self._fd

    def check_length(self, end: int) -> None:
        """Raise `DamagedError` where the pack ends before ``end``: touching a mapping of it would kill us."""
        size = os.fstat(self._fd).st_size
        if size < end:
            raise DamagedError(f"{self.path} ends at {size}, {end - size} bytes too early")

    def read_ahead(self, offset: int, length: int) -> None:
        """Have the kernel read that into its page cache, without waiting for it."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``, or raise `DamagedError` where the pack ends before."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise DamagedError(f"{self.path} cannot be read at {offset + done}: {error}") from error
            if count == 0:
                raise DamagedError(
                    f"{self.path} ends at {offset + done}, {len(buffer) - done} bytes too early"
                )
            done += count

    def close(self) -> None:
        os.close(self._fd)


def _write_all(descriptor: int, data: Any, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count
