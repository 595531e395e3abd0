"""Open files: by name, mode and position, where that is safe.

Regular files only. Nothing is truncated or created on the way back; a file that was written to is opened
again only if it is the same one and still as long as the position. What was written before a snapshot is
flushed by it, for it would be lost with the process. How a text file treats line ends cannot be asked
from Python, so it comes back with the default (``newline=None``). A closed file comes back closed.
"""

from __future__ import annotations

import io
import os
import stat
from typing import Any

from .placeholder import losses_note, lost
from .survivors import SURVIVORS

FILE_TYPES = (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)


class NotSafeError(Exception):
    """Why a file does not come back; the message is for people."""


def reduce_file(file: Any, variable: str) -> tuple[Any, ...]:
    """Raises `NotSafeError`, or what the file itself raises."""
    raw = _raw_of(file)
    token = SURVIVORS.token(file)
    if file.closed:
        return _closed, (type(file), str(raw.name), raw.mode, getattr(file, "mode", None))
    described = _describe(raw)
    if file is raw:
        return _raw, (variable, token, *described, raw.name, raw.mode, raw.tell())
    if isinstance(file, io.TextIOWrapper):
        position = _tell(file)
        settings = (file.encoding, file.errors, None, file.line_buffering, file.write_through)
        return _text, (variable, token, file.buffer, settings, getattr(file, "mode", None), position)
    if file.writable():
        file.flush()
    return _buffered, (variable, token, type(file), file.raw, file.tell())


def _raw_of(file: Any) -> io.FileIO:
    buffered = file.buffer if isinstance(file, io.TextIOWrapper) else file
    raw = buffered if type(buffered) is io.FileIO else getattr(buffered, "raw", None)
    if type(buffered) not in FILE_TYPES or type(raw) is not io.FileIO:
        raise NotSafeError("an open file that is none on the disk cannot be saved")
    return raw


def _describe(raw: io.FileIO) -> tuple[str, int, int, int]:
    """The file's real path, inode, size and time of change."""
    if isinstance(raw.name, int) or not raw.closefd:
        raise NotSafeError("an open file without a name cannot be saved")
    found = os.fstat(raw.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise NotSafeError(
            "an open file that is not a regular one (a terminal, pipe or device) cannot be saved"
        )
    try:
        path = os.readlink(f"/proc/self/fd/{raw.fileno()}")  # noqa: PTH115  # a link that no path leads to
    except OSError:
        path = os.path.abspath(os.fsdecode(raw.name))  # noqa: PTH100  # the name may be bytes
    if found.st_nlink == 0:
        raise NotSafeError("an open file that has been deleted cannot be saved")
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def _tell(file: io.TextIOWrapper) -> int:
    try:
        return file.tell()
    except OSError as error:
        if "next()" in str(error):
            raise NotSafeError(
                "the position of a text file cannot be told in the middle of a loop over its lines"
            ) from error
        raise


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _closed(cls: Any, name: str, raw_mode: str, mode: str | None) -> Any:
    raw = io.FileIO(os.devnull, "r" if raw_mode == "rb" else "r+")
    raw.name = name
    file: Any = raw
    if cls is not io.FileIO:
        file = io.BufferedReader(raw) if cls is io.TextIOWrapper else cls(raw)
    if cls is io.TextIOWrapper:
        file = io.TextIOWrapper(file, "utf-8")
        file.mode = mode
    file.close()
    return file


def _raw(
    variable: str,
    token: str,
    path: str,
    inode: int,
    size: int,
    changed: int,
    name: Any,
    mode: str,
    position: int,
) -> Any:
    if (living := _living(variable, token)) is not None:
        return living
    try:
        found = os.stat(path)  # noqa: PTH116
        same = found.st_ino == inode or (found.st_size, found.st_mtime_ns) == (size, changed)
        if mode != "rb" and not same:
            raise NotSafeError(f"{path} is another file now, so it is not opened for writing")
        if mode in ("wb", "rb+", "xb", "xb+") and found.st_size < position:
            raise NotSafeError(
                f"{path} is shorter than when it was written to, so it is not opened for writing"
            )
        if not stat.S_ISREG(found.st_mode):
            raise NotSafeError(f"{path} is no regular file any more")
        raw = io.FileIO(path, mode.replace("b", ""), opener=_without_changes)
    except (OSError, NotSafeError) as error:
        reason = str(error) if isinstance(error, NotSafeError) else f"{path}: {error.strerror}"
        return lost(variable, "_io.FileIO", f"an open file, which cannot be opened again: {reason}")
    if mode == "rb" and (found.st_size, found.st_mtime_ns) != (size, changed):
        losses_note(f"{variable}: {path} has changed since the snapshot; it is open at its old position")
    raw.seek(position)
    raw.name = name
    return raw


def _buffered(variable: str, token: str, cls: Any, raw: Any, position: int) -> Any:
    living = _living(variable, token)
    if living is not None or type(raw) is not io.FileIO:
        return raw if living is None else living  # a placeholder stays one
    if raw.closed:
        return lost(variable, cls.__qualname__, "its file was closed")
    file = cls(raw)
    file.seek(position)
    return file


def _text(variable: str, token: str, buffer: Any, settings: Any, mode: str | None, position: int) -> Any:
    living = _living(variable, token)
    if living is not None or type(buffer) not in FILE_TYPES:
        return buffer if living is None else living
    file: Any = io.TextIOWrapper(buffer, *settings)
    file.seek(position)
    file.mode = mode
    return file


def _living(variable: str, token: str) -> Any | None:
    """The very file, if this is still the process that opened it, and it is open."""
    file = SURVIVORS.find(token) if token else None
    if file is None or file.closed:
        return None
    return lost(variable, "", "", token)


def _without_changes(path: str, flags: int) -> int:
    return os.open(path, flags & ~(os.O_TRUNC | os.O_CREAT | os.O_EXCL))
