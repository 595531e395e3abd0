"""Arrays that lie in files (``numpy.memmap``): by reference, the file is not copied into the snapshot.

So an earlier snapshot shows the file as it is at the restore; where it was written to since, the report says
so. What was changed in memory only (mode ``c``) and what a deleted file holds goes into the snapshot.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from .placeholder import Placeholder
from .regions import Note
from .remarks import remark


class MappedFile:
    """One mapping of a file, shared by the arrays that lie in it."""

    def __init__(self, mapping: mmap.mmap, path: str, offset: int, writable: bool) -> None:
        self.mapping = mapping
        self.path = path
        self.offset = offset
        self.writable = writable
        buffer: Any = np.frombuffer(mapping, np.uint8)
        self.address: int = buffer.__array_interface__["data"][0]

    def __reduce__(self) -> tuple[Any, ...]:
        found = Path(self.path).stat()
        return _mapping, (self.path, self.offset, len(self.mapping), self.writable, found.st_mtime_ns)


class MappedFiles:
    """The mappings that one capture meets."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._found: dict[int, MappedFile | None] = {}

    def under(self, array: Any) -> MappedFile | None:
        """The mapping that ``array`` lies in, None where its memory must be saved."""
        while isinstance(array, np.ndarray):
            if isinstance(array, np.memmap):
                mapping: Any = array._mmap  # type: ignore[attr-defined]
                if mapping is None:
                    return None
                if id(mapping) not in self._found:
                    self._found[id(mapping)] = self._examined(array, mapping)
                return self._found[id(mapping)]
            array = array.base
        return None

    def _examined(self, array: Any, mapping: mmap.mmap) -> MappedFile | None:
        if array.filename is None or array.mode == "c":
            return None
        path = os.fspath(array.filename)
        start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
        file = MappedFile(mapping, path, start, array.mode != "r")
        if not Path(path).exists() or _was_deleted(file.address):
            self._note(f"its file {path} was deleted, so its contents are in the snapshot")
            return None
        self._note(f"its contents are in {path}, not in the snapshot")
        if file.writable:
            threading.Thread(target=_flush, args=(path,), name="respawner-flush-memmap", daemon=True).start()
        return file


def reduce_mapped(array: Any, file: MappedFile) -> tuple[Any, ...]:
    """A view of the mapping, of the class that ``array`` has."""
    offset = array.__array_interface__["data"][0] - file.address
    geometry = (array.dtype, array.shape, array.strides, offset, array.flags.writeable)
    state = {key: value for key, value in getattr(array, "__dict__", {}).items() if key != "_mmap"}
    return _mapped, (file, type(array), *geometry), state, None, None, _set_attributes


def _was_deleted(address: int) -> bool:
    """Whether the file mapped there has lost its name (another file may have it by now)."""
    start = f"{address:x}-"
    with contextlib.suppress(OSError), open("/proc/self/maps", errors="replace") as maps:
        return any(line.lstrip("0").startswith(start) and line.endswith(" (deleted)\n") for line in maps)
    return False


def _flush(path: str) -> None:
    """Bring what was written through the mapping to the disk, beside the user's work."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _mapping(path: str, offset: int, length: int, writable: bool, mtime_ns: int) -> MappedFile:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise FileNotFoundError(
            f"its file {path} is not there any more ({error.strerror}): put it back and %restore again"
        ) from None
    if found.st_size < offset + length:
        raise ValueError(
            f"its file {path} has {found.st_size} bytes and had {offset + length} when it was mapped"
        )
    if found.st_mtime_ns != mtime_ns:
        remark(f"{path} was written to after the snapshot: the arrays in it show what it holds now")
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    with open(path, "r+b" if writable else "rb") as file:
        return MappedFile(
            mmap.mmap(file.fileno(), length, access=access, offset=offset), path, offset, writable
        )


def _mapped(
    file: MappedFile, cls: type, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool
) -> Any:
    if isinstance(file, Placeholder):
        raise FileNotFoundError(file.__dict__["respawner_reason"])
    array: Any = np.ndarray(shape, dtype, buffer=file.mapping, offset=offset, strides=strides)
    if array.flags.writeable and not writeable:
        array.flags.writeable = False
    if cls is not np.ndarray:
        array = array.view(cls)
        if isinstance(array, np.memmap):
            array._mmap = file.mapping  # type: ignore[attr-defined]
    return array


def _set_attributes(array: Any, state: dict[str, Any]) -> None:
    if state:
        array.__dict__.update(state)
        if state.get("mode") == "w+":
            array.mode = "r+"  # opening it so again would empty it
