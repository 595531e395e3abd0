"""Subclasses of ``numpy.ndarray``: a view of plain memory, and the attributes of the object. Rows likewise.

numpy's own way copies the memory into the pickle and forgets attributes. Classes that bring a reduction of
their own keep it, except masked arrays, whose data and mask would come back as copies. Imported only after
the user has imported numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .libraries import Reducer
from .mapped_files import MappedFiles, reduce_mapped
from .regions import Note, RegionTable

_OWN_WAY = ("__reduce__", "__reduce_ex__", "__setstate__")


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    if cls in (np.void, np.record):
        return _reduce_row
    if not issubclass(cls, np.ndarray) or cls is np.ndarray:
        return None
    if issubclass(cls, np.memmap):
        files = regions.shared(MappedFiles, note)
        return lambda array: _reduce_memmap(array, files)
    inherits = all(getattr(cls, name) is getattr(np.ndarray, name) for name in _OWN_WAY)
    return _reduce_subclass if inherits or cls is np.ma.MaskedArray else None


def _reduce_memmap(array: Any, files: MappedFiles) -> tuple[Any, ...]:
    file = files.under(array)
    return _reduce_subclass(array) if file is None else reduce_mapped(array, file)


def _reduce_subclass(array: Any) -> tuple[Any, ...]:
    """The plain view is taken afresh; sharing is found by address, or by the base it has."""
    plain_class: Any = vars(array)["_baseclass"] if type(array) is np.ma.MaskedArray else np.ndarray
    plain = np.ndarray.view(array, plain_class)
    state = {key: value for key, value in getattr(array, "__dict__", {}).items() if key != "_mmap"}
    return _subclass, (type(array), plain), state, None, None, _set_attributes


def _reduce_row(row: Any) -> Any:
    """A row taken from a structured array is a view of it, though numpy pickles it as a copy."""
    base = row.base
    if not isinstance(base, np.ndarray) or row.dtype.hasobject or not base.flags.c_contiguous:
        return row.__reduce_ex__(5)
    offset = _address(np.frombuffer(row.data, np.uint8)) - _address(base)
    if not 0 <= offset <= base.nbytes - row.dtype.itemsize:
        return row.__reduce_ex__(5)
    return _row, (np.ndarray((), row.dtype, buffer=np.ndarray.view(base, np.ndarray), offset=offset),)


def _address(array: Any) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _subclass(cls: type, plain: Any) -> Any:
    return np.ndarray.view(plain, cls)


def _row(cell: Any) -> Any:
    return cell[()]


def _set_attributes(array: Any, state: dict[str, Any]) -> None:
    if state:
        array.__dict__.update(state)
