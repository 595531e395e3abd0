"""Arrays: their memory as regions, views as views of the same owner.

Only exact ``numpy.ndarray`` objects; for subclasses see `array_subclasses`. Arrays of objects go numpy's own
way through the pickle, but views of them stay views. Imported only after the user has imported numpy.
"""

from __future__ import annotations

import ctypes
from array import array as python_array
from typing import Any

import numpy as np

from ..store.mapping import MappedMemory
from . import memory
from .mapped_files import MappedFiles, reduce_mapped
from .regions import RegionTable

_numpy: Any = np
_BUFFERS = (bytes, bytearray, python_array, ctypes.Array)
"""Memory of Python's own: an array over it is a view of that object, not of a region."""
_byte_bounds = _numpy.lib.array_utils.byte_bounds if hasattr(np.lib, "array_utils") else _numpy.byte_bounds


def reduce_array(array: Any, regions: RegionTable, storage_of: Any, files: MappedFiles) -> Any:
    """How to pickle ``array``. ``storage_of(tensor)`` reduces a torch tensor's storage to a region."""
    if array.dtype.hasobject:
        return _reduce_objects(array)
    base = array.base
    if base is None or type(base) is MappedMemory:
        return _reduce_owner(array, regions)
    if isinstance(base, memoryview) and _is_buffer(base.obj):
        base = base.obj
    if type(base) is np.ndarray:
        if _flat(base) is not None:
            return _view, (base, *_geometry(array, _address(base)))
    elif _is_buffer(base):
        return _view_of_buffer, (base, *_geometry(array, _address(np.frombuffer(memoryview(base), np.uint8))))
    elif storage_of is not None and (found := storage_of(base)) is not None:
        region, address = found
        return _view_of_region, (region, *_geometry(array, address))
    elif (file := files.under(base)) is not None:
        return reduce_mapped(array, file)
    return _reduce_extent(array, regions)


def _is_buffer(base: Any) -> bool:
    """Not a ctypes array over memory that it does not own, as mapped packs are."""
    return isinstance(base, _BUFFERS) and getattr(base, "_b_needsfree_", 1) == 1


def _reduce_objects(array: Any) -> Any:
    """An array of objects is there before its items, which may be views of it; views have their owner's
    items, whole. All else (objects in fields, texts of any length) goes numpy's way, as a copy."""
    base = array.base
    if base is None and array.dtype == object and (array.flags.c_contiguous or array.flags.f_contiguous):
        order = "C" if array.flags.c_contiguous else "F"
        state = array.reshape(-1, order=order).tolist(), array.flags.writeable
        return _objects, (array.shape, order), state, None, None, _set_objects
    if not isinstance(base, np.ndarray) or base.dtype != array.dtype or _flat(base) is None or not array.size:
        return NotImplemented
    items, rest = divmod(_address(array) - _address(base), array.itemsize)
    inside = 0 <= items < base.size and not rest and not any(step % array.itemsize for step in array.strides)
    if type(array.dtype).__name__ == "StringDType" or not inside:
        return NotImplemented
    return _view_of_objects, (base, array.shape, array.strides, items, array.flags.writeable)


def _reduce_owner(array: Any, regions: RegionTable) -> Any:
    if array.nbytes == 0:
        return _empty, (array.shape, array.dtype, array.flags.writeable)
    order = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else None
    if order is None:
        return _reduce_extent(array, regions)
    region = regions.add(_address(array), array.nbytes, "numpy", _about(array), array)
    return _own, (region, array.shape, array.dtype, order, array.flags.writeable)


def _reduce_extent(array: Any, regions: RegionTable) -> Any:
    """Memory whose owner we do not know (a file mapping, another library): what the array covers of it."""
    if array.nbytes == 0:
        return _empty, (array.shape, array.dtype, array.flags.writeable)
    low, high = _byte_bounds(array)
    region = regions.add(low, high - low, "numpy", _about(array), array)
    return _view_of_region, (region, *_geometry(array, low))


def _address(array: Any) -> int:
    return array.__array_interface__["data"][0]


def _geometry(array: Any, origin: int) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.strides, _address(array) - origin, array.flags.writeable


def _about(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _flat(array: Any) -> Any | None:
    """``array`` as one that numpy takes as a buffer, None where its memory has gaps."""
    if array.flags.c_contiguous:
        return array
    return array.T if array.flags.f_contiguous else None


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _empty(shape: tuple[int, ...], dtype: Any, writeable: bool) -> Any:
    return _with_flag(np.empty(shape, dtype), writeable)


def _own(region: int, shape: tuple[int, ...], dtype: Any, order: Any, writeable: bool) -> Any:
    array = memory.current().own_array(region, shape, dtype, order)
    if array is None:
        buffer, start = memory.current().buffer(region)
        array = np.ndarray(shape, dtype, buffer=buffer, offset=start, order=order)
    return _with_flag(array, writeable)


def _view(owner: Any, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool) -> Any:
    flat = _flat(owner)
    if not owner.flags.writeable and writeable:
        owner.flags.writeable = True
        view = np.ndarray(shape, dtype, buffer=flat, offset=offset, strides=strides)
        owner.flags.writeable = False
        return view
    return _with_flag(np.ndarray(shape, dtype, buffer=flat, offset=offset, strides=strides), writeable)


def _objects(shape: Any, order: Any) -> Any:
    return np.empty(shape, object, order)


def _set_objects(array: Any, state: tuple[list[Any], bool]) -> None:
    items, writeable = state
    flat: Any = np.empty(0, object)
    flat.__setstate__(
        (1, (len(items),), flat.dtype, False, items)
    )  # takes arrays among the items as they are
    array.reshape(-1, order="A")[:] = flat
    _with_flag(array, writeable)


def _view_of_objects(owner: Any, shape: Any, strides: Any, first: int, writeable: bool) -> Any:
    flat = _flat(owner).reshape(-1)[first:]  # type: ignore[union-attr]
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=writeable)


def _view_of_buffer(buffer: Any, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool) -> Any:
    return _with_flag(np.ndarray(shape, dtype, buffer=buffer, offset=offset, strides=strides), writeable)


def _view_of_region(region: int, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool) -> Any:
    buffer, start = memory.current().buffer(region)
    view = np.ndarray(shape, dtype, buffer=buffer, offset=start + offset, strides=strides)
    return _with_flag(view, writeable)


def _with_flag(array: Any, writeable: bool) -> Any:
    if not writeable:
        array.flags.writeable = False
    return array
