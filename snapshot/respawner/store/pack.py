"""Append-only files of chunks. A pack knows nothing of what it holds: only manifests do.

Every chunk starts at a multiple of `ALIGNMENT`, so that packs can be mapped and written with direct I/O.
Bytes behind the last chunk that a manifest names are left-overs of a crash, and are cut off on opening.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from ..errors import DamagedError, NewerFormatError
from .files import fsync_folder

MAGIC = b"RSPNPACK"
VERSION = 1
ALIGNMENT = 4096
HEADER = struct.Struct("<8sII16s")


def align(offset: int) -> int:
    """The first place at or after ``offset`` where a chunk may start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def pack_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.pack"


class PackWriter:
    """Appends to one pack. One thread at a time; nothing is durable before `sync`."""

    def __init__(self, folder: Path, number: int, timeline_uuid: bytes, end: int = 0) -> None:
        """Open the pack, made if it is missing, and cut off whatever lies behind ``end``."""
        self.number = number
        self.path = pack_path(folder, number)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if end < ALIGNMENT:
                header = HEADER.pack(MAGIC, VERSION, number, timeline_uuid)
                os.ftruncate(self._fd, 0)
                _write_all(self._fd, header.ljust(ALIGNMENT, b"\0"), 0)
                end = ALIGNMENT
                fsync_folder(folder)
            os.ftruncate(self._fd, end)
        except BaseException:
            os.close(self._fd)
            raise
        self.end = align(end)

    def append(self, data: Any) -> int:
        """Write one chunk and return its offset."""
        offset = self.end
        _write_all(self._fd, data, offset)
        self.end = align(offset + len(data))
        return offset

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, end: int) -> None:
        """Forget everything behind ``end``."""
        os.ftruncate(self._fd, end)
        self.end = align(end)

    def close(self) -> None:
        os.close(self._fd)


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
