"""Arrays of ctypes, whose classes are made on the fly and so cannot be found by name; libraries and their functions.

Other classes that are made on the fly: `ctypes_classes`. What holds pointers is refused by ctypes itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .libraries import Reducer
from .regions import Note, RegionTable


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    if issubclass(cls, ctypes.Array) and cls.__bases__ == (ctypes.Array,):
        return _reduce_array
    return _reduce_function if issubclass(cls, ctypes._CFuncPtr) else None  # type: ignore[attr-defined]


def reduce_library(library: ctypes.CDLL) -> Any:
    """Loaded again by its name; its functions come back with the types that they were given."""
    functions = [value for value in vars(library).values() if isinstance(value, ctypes._CFuncPtr)]  # type: ignore[attr-defined]
    return type(library), (library._name,), functions, None, None, _set_nothing


def _reduce_function(function: Any) -> Any:
    library = (function._objects or {}).get("0")
    if not isinstance(library, ctypes.CDLL):
        raise TypeError(f"cannot pickle '{type(function).__name__}' object")
    types = function.restype, function.argtypes
    return getattr, (library, function.__name__), types, None, None, _set_types


def _reduce_array(array: Any) -> Any:
    (_, (attributes, data)) = array.__reduce__()[1]
    lengths: list[int] = []
    item: Any = type(array)
    while issubclass(item, ctypes.Array) and item.__bases__ == (ctypes.Array,):
        lengths.append(item._length_)
        item = item._type_
    return _array, (item, tuple(lengths)), (attributes, data), None, None, _set_array


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _array(item: Any, lengths: tuple[int, ...]) -> Any:
    for length in reversed(lengths):
        item = item * length
    return item()


def _set_nothing(library: Any, functions: list[Any]) -> None:
    """The functions have set their types themselves."""


def _set_types(function: Any, types: tuple[Any, Any]) -> None:
    function.restype, function.argtypes = types


def _set_array(array: Any, state: tuple[dict[str, Any], bytes]) -> None:
    array.__setstate__(*state)
