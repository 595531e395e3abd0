"""``memoryview``: over the same object again, so that it still shares its memory.

Views of bytes, arrays and whatever else has a buffer; what is not contiguous only in one dimension.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, cast


class _Buffer(ctypes.Structure):
    """``Py_buffer``, of which only the address is read."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_STRIDED_READ_ONLY = 0x0010 | 0x0008 | 0x0004


def reduce_memory_view(view: memoryview) -> tuple[Any, ...]:
    if isinstance(view.obj, mmap.mmap):
        raise TypeError("cannot pickle 'mmap.mmap' object")
    _check(view)
    whole = memoryview(view.obj)
    if view.nbytes == 0 or not whole.c_contiguous or view.suboffsets:
        return _copy, (view.tobytes(), view.format, view.shape if view.ndim != 1 else None)
    offset = _address(view) - _address(whole)
    if view.c_contiguous:
        return _view, (view.obj, offset, view.nbytes, view.format, view.shape, 1, view.readonly)
    step, rest = divmod(view.strides[0], view.itemsize) if view.strides and view.ndim == 1 else (0, 1)
    if rest or step == 0:
        return _copy, (view.tobytes(), view.format, view.shape if view.ndim != 1 else None)
    extent = (len(view) - 1) * abs(step) + 1
    first = offset if step > 0 else offset - (extent - 1) * view.itemsize
    return _view, (
        view.obj,
        first,
        extent * view.itemsize,
        view.format,
        (extent,),
        step,
        view.readonly,
    )


def _check(view: memoryview) -> None:
    """Raises `TypeError` now, while it can be told, for a format that views are not given again."""
    try:
        memoryview(bytes(view.itemsize)).cast(cast(Any, view.format))
    except ValueError as error:
        raise TypeError(f"a view of items of the format {view.format!r}: {error}") from error


def _address(view: memoryview) -> int:
    buffer = _Buffer()
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get(ctypes.py_object(view), ctypes.byref(buffer), _STRIDED_READ_ONLY | 0x0010)
    try:
        return buffer.buf or 0
    finally:
        release(ctypes.byref(buffer))


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _view(
    owner: Any, offset: int, length: int, layout: str, shape: tuple[int, ...], step: int, readonly: bool
) -> memoryview:
    part: Any = memoryview(owner).cast("B")[offset : offset + length]
    part = part.cast(layout) if len(shape) == 1 else part.cast(layout, shape)
    part = part[::step] if step != 1 else part
    return part.toreadonly() if readonly and not part.readonly else part


def _copy(data: bytes, layout: str, shape: tuple[int, ...] | None) -> memoryview:
    flat: Any = memoryview(data)
    return flat.cast(layout) if shape is None else flat.cast(layout, shape)
