"""Lists and dictionaries of the notebook's own classes: their items as they are, whatever their methods say.

Pickle asks ``__iter__`` and ``items`` for the items and puts them back by ``append`` and ``__setitem__``; where a
class changes, counts or refuses what passes there, what comes back is another container.
"""

from __future__ import annotations

import types
from typing import Any

from .attributes import attributes_of, may_share_its_dict, set_attributes, set_whole_dict

_ASKED: dict[type, tuple[str, ...]] = {
    list: ("__iter__", "append", "extend", "__new__"),
    dict: ("__iter__", "items", "keys", "__setitem__", "__new__"),
}
_OF_PICKLING = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


def has_code_of_its_own(cls: type) -> bool:
    """Whether that matters: the class, or one between it and the built-in one, has such a method in Python."""
    base = next((base for base in _ASKED if issubclass(cls, base)), None)
    if base is None or any(_is_python(cls, name) for name in _OF_PICKLING):
        return False
    special = any(_is_python(cls, name) for name in _ASKED[base]) or may_share_its_dict(cls)
    return cls.__reduce__ is object.__reduce__ and special


def _is_python(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), types.FunctionType)


def reduce_container(obj: Any) -> tuple[Any, ...]:
    items: Any = list(dict.items(obj)) if isinstance(obj, dict) else list.__getitem__(obj, slice(None))
    return _container, (type(obj),), (attributes_of(obj), items), None, None, _fill_container


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _container(cls: Any) -> Any:
    return dict.__new__(cls) if issubclass(cls, dict) else list.__new__(cls)


def _fill_container(obj: Any, state: tuple[Any, list[Any]]) -> None:
    attributes, items = state
    if isinstance(obj, dict):
        dict.update(obj, items)
    else:
        list.extend(obj, items)
    if attributes is obj:  # each key is an attribute too
        set_whole_dict(obj, obj)
    elif attributes:
        set_attributes(obj, attributes)
