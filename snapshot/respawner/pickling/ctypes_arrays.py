"""Arrays of ctypes, whose classes are made on the fly and so cannot be found by name.

What holds pointers is refused by ctypes itself.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .libraries import Reducer
from .regions import Note, RegionTable


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    return _reduce_array if issubclass(cls, ctypes.Array) and cls.__bases__ == (ctypes.Array,) else None


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


def _set_array(array: Any, state: tuple[dict[str, Any], bytes]) -> None:
    array.__setstate__(*state)
