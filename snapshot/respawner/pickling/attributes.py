"""What an object of the notebook holds, taken and put without asking the code of its class for anything."""

from __future__ import annotations

import copyreg
import dis
import types
from typing import Any

_slot_names: Any = copyreg._slotnames  # type: ignore[attr-defined]


def attributes_of(obj: Any) -> Any:
    """As the state that pickle makes of them: a dict, or a pair of a dict or None and one of the slots."""
    try:
        attributes = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        attributes = None
    slots = {}
    for name in _slot_names(type(obj)):
        try:
            slots[name] = object.__getattribute__(obj, name)
        except AttributeError:  # not set
            continue
    return (attributes, slots) if slots else attributes


def may_share_its_dict(cls: type) -> bool:
    """Whether a method gives instances another ``__dict__``: one that they share, or a dict's instances themselves."""
    functions = [
        getattr(value, "__func__", value)
        for base in cls.__mro__
        if base.__flags__ & _HEAP_TYPE
        for value in vars(base).values()
    ]
    codes = [function.__code__ for function in functions if isinstance(function, types.FunctionType)]
    return any(_stores_dict(code) for code in codes)


def _stores_dict(code: types.CodeType) -> bool:
    if "__dict__" in code.co_consts:  # setattr(self, "__dict__", …)
        return "setattr" in code.co_names or "__setattr__" in code.co_names
    return "__dict__" in code.co_names and any(
        step.opname == "STORE_ATTR" and step.argval == "__dict__" for step in dis.get_instructions(code)
    )


_HEAP_TYPE = 1 << 9


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def set_attributes(obj: Any, state: Any) -> None:
    """What unpickling does with a state."""
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        object.__getattribute__(obj, "__dict__").update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def set_whole_dict(obj: Any, state: Any) -> None:
    """The state's dictionary itself becomes the object's, not a copy: others may hold it."""
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes is not None:
        object.__setattr__(obj, "__dict__", attributes)
    set_attributes(obj, (None, slots))


def made_by(base: Any, cls: Any, *arguments: Any) -> Any:
    """An object of the notebook's class ``cls`` by the ``__new__`` of one of its bases; by its own where that one is
    a library's and wants arguments."""
    try:
        return base.__new__(cls, *arguments)
    except TypeError:
        return cls.__new__(cls, *arguments)
