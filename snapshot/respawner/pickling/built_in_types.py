"""Types that are written in C and cannot be found by the name that they bear, and ctypes' classes.

Without this they would be taken for classes of the notebook, and made again out of their methods.
"""

from __future__ import annotations

import ctypes
import threading
import types
from typing import Any

_ctypes: Any = ctypes
_HIDDEN: dict[str, type] = {
    "lock": type(threading.Lock()),
    "RLock": type(threading.RLock()),
    "structure": type(ctypes.Structure),
    "union": type(ctypes.Union),
    "array": type(ctypes.Array),
    "simple": type(ctypes.c_int),
    "pointer": type(_ctypes._Pointer),
    "function": type(_ctypes._CFuncPtr),
}
_LAYOUT = (
    "_pack_",
    "_align_",
    "_layout_",
    "_anonymous_",
    "_fields_",
)
"""Of structures, in the order in which they must be set: the fields decide."""
_AT_ONCE = ("_type_", "_length_", "_argtypes_", "_restype_", "_flags_")
_MADE = ("__dict__", "__weakref__", "_swappedbytes_")
_IN_C = (types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType)
_HEAP_TYPE = 1 << 9


def reduce_built_in(cls: Any) -> Any:
    """For a class that cannot be found by its name; None where it was made by a class statement."""
    for name, hidden in _HIDDEN.items():
        if cls is hidden:
            return _hidden, (name,)
    if isinstance(cls, tuple(_HIDDEN.values())):
        return _reduce_of_ctypes(cls)
    if not cls.__flags__ & _HEAP_TYPE or any(
        isinstance(value, _IN_C) and value.__objclass__ is cls for value in vars(cls).values()
    ):
        raise TypeError(f"a built-in type that cannot be found as {cls.__module__}.{cls.__qualname__}")
    return None


def _reduce_of_ctypes(cls: Any) -> Any:
    own = vars(cls)
    if issubclass(cls, _ctypes._Pointer) and cls.__bases__ == (_ctypes._Pointer,):
        return _ctypes.POINTER, (cls._type_,)
    if issubclass(cls, ctypes.Array) and cls.__bases__ == (ctypes.Array,):
        return _array_class, (cls._type_, cls._length_)
    for order, other in (("__ctype_be__", "__ctype_le__"), ("__ctype_le__", "__ctype_be__")):
        if own.get(order) is cls and own.get(other, cls) is not cls:  # numbers in the other byte order
            return getattr, (own[other], order)
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    names |= {name: own[name] for name in _AT_ONCE if name in own}
    fields = [field[0] for field in own.get("_fields_", ())]
    layout = {name: own[name] for name in _LAYOUT if name in own}
    rest = {k: v for k, v in own.items() if k not in (*names, *layout, *fields, *_MADE)}
    return _class_of_ctypes, (cls.__name__, cls.__bases__, names), (layout, rest), None, None, _set_layout


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _hidden(name: str) -> type:
    return _HIDDEN[name]


def _array_class(item: Any, length: int) -> Any:
    return item * length


def _class_of_ctypes(name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
    return type(bases[0])(name, bases, dict(names))


def _set_layout(cls: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for part in state:
        for name, value in part.items():
            setattr(cls, name, value)
