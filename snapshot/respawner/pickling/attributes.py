"""What an object of the notebook holds, taken and put without asking the code of its class for anything."""

from __future__ import annotations

import copyreg
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


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def set_attributes(obj: Any, state: Any) -> None:
    """What unpickling does with a state."""
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        object.__getattribute__(obj, "__dict__").update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def made_by(base: Any, cls: Any, *arguments: Any) -> Any:
    """An object of the notebook's class ``cls`` by the ``__new__`` of one of its bases."""
    return base.__new__(cls, *arguments)
