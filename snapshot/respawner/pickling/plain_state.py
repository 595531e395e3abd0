"""State of objects whose class defines ``__getattr__`` and no ``__setstate__``.

The unpickler would ask the empty object for ``__setstate__``, and a ``__getattr__`` that hands on to an
attribute (tempfile's wrappers, proxies) fails there: recursion, or a KeyError.
"""

from __future__ import annotations

import sys
from typing import Any


def needs_a_setter(cls: type) -> bool:
    return hasattr(cls, "__getattr__") and not hasattr(cls, "__setstate__")


def with_setter(reduced: Any) -> Any:
    """A reduction that brings its own setter, where it has state and none yet."""
    if not isinstance(reduced, tuple) or len(reduced) < 3 or reduced[2] is None or any(reduced[5:]):
        return reduced
    return (*(*reduced, None, None)[:5], _set_plain_state)


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _set_plain_state(obj: Any, state: Any) -> None:
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        own = object.__getattribute__(obj, "__dict__")
        own.update({sys.intern(key) if type(key) is str else key: value for key, value in attributes.items()})
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)
