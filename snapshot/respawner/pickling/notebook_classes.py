"""Classes and enums of the notebook, made again without running anything of the notebook.

A class is made empty and then filled with what its ``__dict__`` holds now: attributes set later included,
registries, metaclasses and ``__init_subclass__`` of the notebook not asked again, since what they did is in
the state already. cloudpickle calls them once more, forgets ``__slots__``, and makes an enum's members anew.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import late_hashes
from .generated_methods import DATACLASS_REPLACE, make_again, take_unmade

_HOOKS = ("__init_subclass__", "__pydantic_init_subclass__")
_MADE_BY_TYPE = ("__dict__", "__weakref__", "__annotate_func__", "__annotations_cache__", "_abc_impl")
_OF_ENUM = ("_member_map_", "_value2member_map_", "_unhashable_values_", "_inverted_")


def reduce_class(cls: Any, is_importable: Callable[[Any], bool]) -> Any:
    """For classes that cannot be found by their name."""
    metadata = vars(cls).get("__pydantic_generic_metadata__") or {}
    if metadata.get("origin") is not None:  # pydantic finds it again in its own table
        return _parametrized, (metadata["origin"], metadata["args"])
    meta = type(cls)
    if issubclass(cls, enum.Enum):
        members = [(name, m._name_, _plain_value(m)) for name, m in cls._member_map_.items()]
        parts = (meta, cls.__name__, cls.__bases__, _first_names(cls), members)
        return _enum_class, parts, _enum_state(cls), None, None, _set_class_state
    maker = next(base for base in meta.__mro__ if "__new__" in vars(base) and is_importable(base))
    quiet = tuple(base for base in cls.__mro__[1:] if not is_importable(base))
    arguments = (maker, meta, cls.__name__, cls.__bases__, _first_names(cls), quiet)
    return _class, arguments, _state(cls), None, None, _set_class_state


def reduce_enum_member(member: Any) -> Any:
    """For members of the notebook's enums: by name, or by value where it is a mixture of flags."""
    cls = type(member)
    if cls._member_map_.get(member._name_) is member:
        return _enum_member, (cls, member._name_)
    return cls, (member._value_,)


def _first_names(cls: type) -> dict[str, Any]:
    """What a class must be given when it is made, because it decides about the layout of instances."""
    names: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    if "__slots__" in vars(cls):
        names["__slots__"] = (*_slots(cls), *(n for n in ("__dict__", "__weakref__") if n in vars(cls)))
    if isinstance(vars(cls).get("__dict__"), property):
        names["__dict__"] = vars(cls)["__dict__"]
    return names


def _slots(cls: type) -> list[str]:
    """Names of the slots that the class itself has added."""
    return [
        name
        for name, value in vars(cls).items()
        if isinstance(value, types.MemberDescriptorType)
        and value.__objclass__ is cls
        and value.__name__ == name
    ]


def _state(cls: Any) -> dict[str, Any]:
    left_out = {*_MADE_BY_TYPE, *_slots(cls)}
    state: dict[str, Any] = {"dict": {key: value for key, value in vars(cls).items() if key not in left_out}}
    if state["dict"].get("__replace__") is DATACLASS_REPLACE:  # which older versions have not
        state["dict"].pop("__replace__", None)
    if "__annotate_func__" in vars(cls):  # Python 3.14: evaluated, since the function holds the class's dict
        with contextlib.suppress(NameError):
            state["dict"]["__annotations__"] = dict(cls.__annotations__)
    if isinstance(cls, abc.ABCMeta):
        dump: Any = abc._get_dump  # type: ignore[attr-defined]
        state["registered"] = [found for reference in dump(cls)[0] if (found := reference()) is not None]
    return state


def _enum_state(cls: Any) -> dict[str, Any]:
    state = _state(cls)
    for name in _OF_ENUM:
        state["dict"].pop(name, None)
    if state["dict"].get("_boundary_", cls) is getattr(cls.__mro__[1], "_boundary_", None):
        del state["dict"]["_boundary_"]  # inherited; Python 3.10 has none
    named = {id(member) for member in cls._member_map_.values()}
    state["values"] = [(v, m._name_) for v, m in cls._value2member_map_.items() if id(m) in named]
    state["unhashable"] = list(getattr(cls, "_unhashable_values_", ()))
    state["members"] = {
        name: {**vars(member), "_inverted_": None, "__objclass__": None}
        for name, member in cls._member_map_.items()
        if member._name_ == name
    }
    return state


def _plain_value(member: Any) -> Any:
    """The part of a member that is a number or a text, None where it is a plain object."""
    base = _built_in_base(type(member))
    match base:
        case _ if base is object:
            return None
        case _ if base is str:
            return str.__str__(member)  # not the enum's own
        case _ if base is bytes or base is tuple:
            return base.__getitem__(member, slice(None))
        case _ if base is float:
            return float.__float__(member)
        case _:
            return int.__int__(member) if base is int else base(member)


def _built_in_base(cls: type) -> Any:
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


_HEAP_TYPE = 1 << 9


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _class(
    maker: Any, meta: Any, name: str, bases: tuple[type, ...], names: dict[str, Any], quiet: tuple[type, ...]
) -> type:
    def make() -> type:
        # A metaclass of a library does all that it does; one of the notebook is passed over.
        return (
            meta(name, bases, dict(names)) if maker is meta else maker.__new__(meta, name, bases, dict(names))
        )

    with _silenced(quiet):
        try:
            return _made(make())
        except TypeError:  # a library's hook or metaclass wants what only the class statement had
            with _silenced(tuple(base for one in bases for base in one.__mro__)):
                return _made(type.__new__(meta, name, bases, dict(names)) if maker is meta else make())


def _made(cls: Any) -> Any:
    if (late := late_hashes.current()) is not None:
        late.class_is_made(cls)
    return cls


@contextlib.contextmanager
def _silenced(bases: tuple[type, ...]) -> Iterator[None]:
    """Meanwhile hooks of these classes do nothing when they get a subclass."""
    changed = [
        (base, hook, vars(base)[hook])
        for base in bases
        if isinstance(base, type) and base.__flags__ & _HEAP_TYPE
        for hook in _HOOKS
        if hook in vars(base)
    ]
    try:
        for base, hook, _ in changed:
            type.__setattr__(base, hook, classmethod(lambda cls, **keywords: None))
        yield
    finally:
        for base, hook, value in changed:
            type.__setattr__(base, hook, value)


def _enum_class(
    meta: Any, name: str, bases: tuple[type, ...], names: dict[str, Any], members: list[tuple[str, str, Any]]
) -> Any:
    """The class with its members, which have no attributes yet. An alias has the name of another member."""
    cls: Any = type.__new__(meta, name, bases, dict(names))
    base = _built_in_base(cls)
    made = {
        first: base.__new__(cls) if base is object else base.__new__(cls, value)
        for member, first, value in members
        if member == first
    }
    type.__setattr__(cls, "_member_map_", {member: made[first] for member, first, _ in members})
    return _made(cls)


def _enum_member(cls: Any, name: str) -> Any:
    return cls._member_map_[name]


def _parametrized(origin: Any, arguments: tuple[Any, ...]) -> Any:
    return origin[arguments if len(arguments) != 1 else arguments[0]]


def _set_class_state(cls: Any, state: dict[str, Any]) -> None:
    late = late_hashes.current()
    if late is not None:
        late.class_is_about_to_be_filled(cls)
    if "members" in state:
        _fill_members(cls, state)
    unmade = take_unmade(state["dict"])
    for name, value in state["dict"].items():
        type.__setattr__(cls, name, value)
    if unmade:
        make_again(cls, unmade)
    if DATACLASS_REPLACE and "__dataclass_params__" in state["dict"] and "__replace__" not in vars(cls):
        type.__setattr__(cls, "__replace__", DATACLASS_REPLACE)
    if "__firstlineno__" in state["dict"]:  # setting __module__ after it has removed it
        type.__setattr__(cls, "__firstlineno__", state["dict"]["__firstlineno__"])
    for other in state.get("registered", ()):
        abc.ABCMeta.register(cls, other)
    if late is not None:
        late.class_is_there(cls)


def _fill_members(cls: Any, state: dict[str, Any]) -> None:
    for name, attributes in state["members"].items():
        member = cls._member_map_[name]
        member.__dict__.update(attributes, __objclass__=cls)
    type.__setattr__(cls, "_value2member_map_", {v: cls._member_map_[name] for v, name in state["values"]})
    type.__setattr__(cls, "_unhashable_values_", state["unhashable"])
