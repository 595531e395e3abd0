"""Methods that dataclasses and named tuples generate, made again where their code is another Python's."""

from __future__ import annotations

import collections
import dataclasses
import inspect
from typing import Any

from .notebook_code import Unmade
from .placeholder import lost

DATACLASS_REPLACE: Any = getattr(dataclasses, "_replace", None)
"""What dataclasses have as ``__replace__`` since Python 3.13."""
Parameters: Any = dataclasses._DataclassParams  # type: ignore[attr-defined]


def reduce_parameters(parameters: Any) -> tuple[Any, ...]:
    """What ``@dataclass`` was given; later versions take more, and only some have slots for it."""
    names = inspect.signature(Parameters.__init__).parameters
    return _parameters, ({name: getattr(parameters, name) for name in names if name != "self"},)


def reduce_field(field: Any) -> tuple[Any, ...]:
    """Its slots, of which later versions have more."""
    slots = {name: getattr(field, name) for name in dataclasses.Field.__slots__ if hasattr(field, name)}
    return dataclasses.Field.__new__, (dataclasses.Field,), slots, None, None, _set_field


def take_unmade(state: dict[str, Any]) -> dict[str, Unmade]:
    """Remove from what a class's dictionary will be the methods that could not be made."""
    parts = {name: getattr(value, "__func__", value) for name, value in state.items()}
    unmade = {name: part for name, part in parts.items() if isinstance(part, Unmade)}
    for name in unmade:
        del state[name]
    return unmade


def make_again(cls: Any, unmade: dict[str, Unmade]) -> None:
    """For a class that has everything else."""
    if issubclass(cls, tuple) and "_fields" in vars(cls):
        defaults = list(cls._field_defaults.values())
        made = vars(collections.namedtuple(cls.__name__, cls._fields, defaults=defaults))
        for name in unmade:
            if name in made:
                type.__setattr__(cls, name, made[name])
    elif "__dataclass_params__" in vars(cls):
        _generate(cls)
    for name, method in unmade.items():
        if name not in vars(cls):
            type.__setattr__(cls, name, lost(f"{cls.__name__}.{name}", "function", method.reason))


def _generate(cls: Any) -> None:
    """Let `dataclasses` add what is not there; defaults and slots are put back as they were."""
    fields, parameters = cls.__dataclass_fields__, cls.__dataclass_params__
    own = [name for name in cls.__annotations__ if name in fields]
    before = {name: vars(cls)[name] for name in own if name in vars(cls)}
    for name in own:
        type.__setattr__(cls, name, fields[name])
    asked = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
    dataclasses.dataclass(**{name: getattr(parameters, name) for name in asked})(cls)
    for name in own:
        if name in before:
            type.__setattr__(cls, name, before[name])
        elif name in vars(cls):
            type.__delattr__(cls, name)
    cls.__dataclass_params__, cls.__dataclass_fields__ = parameters, fields


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _parameters(given: dict[str, Any]) -> Any:
    """Defaults for what the version of then did not know."""
    missing = {"match_args": True, "kw_only": False, "slots": False, "weakref_slot": False}
    names = [name for name in inspect.signature(Parameters.__init__).parameters if name != "self"]
    return Parameters(**{name: {**missing, **given}[name] for name in names})


def _set_field(field: Any, slots: dict[str, Any]) -> None:
    for name in dataclasses.Field.__slots__:
        setattr(field, name, slots.get(name))
