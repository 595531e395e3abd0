"""Which reducers the libraries get that are not worth a place in the pickler's own table.

Asked once for each type that a capture meets. A library's module is imported only when an object whose class
descends from that library turns up, so the user has imported the library already.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from .regions import Note, RegionTable

Reducer = Callable[[Any], Any]

_MODULES = {
    "_ctypes": "ctypes_arrays",
    "matplotlib": "pyplot_figures",
    "numpy": "array_subclasses",
    "pandas": "pandas_blocks",
    "polars": "polars_series",
    "pyarrow": "arrow_buffers",
    "tqdm": "progress_bars",
}


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    """How to pickle objects of that type, None where the library's own way is right."""
    for base in cls.__mro__[:-1]:
        module = _MODULES.get(str(getattr(base, "__module__", "")).partition(".")[0])
        if module is None:
            continue
        try:
            ours = importlib.import_module(f"{__package__}.{module}")
        except (ImportError, AttributeError):  # a version of the library that we do not know
            return None
        reducer = ours.reducer_for(cls, regions, note)
        return None if reducer is None else functools.partial(_reduce, reducer)
    return None


def _reduce(reducer: Reducer, obj: Any) -> Any:
    """Ours, or the library's own where a version has things under other names than those we know."""
    try:
        return reducer(obj)
    except (AttributeError, TypeError):
        return obj.__reduce_ex__(5)
