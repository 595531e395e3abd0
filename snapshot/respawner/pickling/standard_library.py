"""Objects of the standard library that its own pickling loses, empties or refuses.

Caches keep their contents, exceptions what they carry whatever their
constructor takes. What they were wrapped around (functions, classes) comes from `notebook_code`.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import functools
import gc
import random
import re
import struct
import types
import typing
from collections.abc import Callable
from typing import Any

from .ctypes_arrays import reduce_library
from .generated_methods import Parameters, reduce_field, reduce_parameters
from .late_hashes import when_hashable
from .memory_views import reduce_memory_view

Reducer = Callable[[Any], Any]


def reducer_for(cls: type) -> Reducer | None:
    """How to pickle objects of that type, None where it is not one of ours."""
    if issubclass(cls, BaseException) and _reduces_itself_by_its_arguments(cls):
        return _reduce_exception
    return None


# Caches ------------------------------------------------------------------------------------------------


def _reduce_cached_function(cached: Any) -> Any:
    """``functools.lru_cache``: its own reduction names it by module and name, and forgets the contents."""
    if cached.__module__ != "__main__" and "<locals>" not in cached.__qualname__:
        return cached.__reduce__()
    state = (cached.__wrapped__, dict(cached.__dict__), _contents(cached))
    return _cache, (cached.cache_parameters(),), state, None, None, _fill_cache


def _contents(cached: Any) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
    """Arguments, keywords and result of each entry, the oldest first; none if they cannot be made out.

    The cache is visible to the garbage collector only: the entries of a bounded cache (key, result and, since
    Python 3.9, their type), then the dictionary of the keys, further on the mark that stands in keys before
    the keywords.
    """
    count = cached.cache_info().currsize
    if not count:
        return []
    parts = gc.get_referents(cached)
    if parts[0] is type(cached):
        del parts[0]
    typed = cached.cache_parameters()["typed"]
    marks = [part for part in parts if type(part) is object]
    if cached.cache_parameters()["maxsize"] is None:
        pairs = list(parts[0].items()) if type(parts[0]) is dict else []
    else:
        step = 3 if isinstance(parts[2], type) else 2
        table = parts[count * step] if count * step < len(parts) else None
        if type(table) is not dict or len(table) != count:
            return []
        pairs = [(parts[i], parts[i + 1]) for i in range(0, count * step, step)]
    return [(*_arguments(key, marks, typed), result) for key, result in pairs]


def _arguments(key: Any, marks: list[Any], typed: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call that a key was made of, the reverse of `functools._make_key`."""
    if type(key) in (int, str):
        return (key,), {}
    key = tuple(key)
    at = next((i for i, part in enumerate(key) if any(part is mark for mark in marks)), None)
    if at is None:
        return (key[: len(key) // 2] if typed else key), {}
    after = key[at + 1 :]
    count = (len(after) - at) // 3 if typed else len(after) // 2
    names = after[: 2 * count : 2]
    return key[:at], dict(zip(names, after[1 : 2 * count : 2], strict=True))


def _reduce_cached_property(cached: Any) -> Any:
    """Without the lock that Python up to 3.11 puts into it."""
    state = {key: value for key, value in vars(cached).items() if key not in ("lock", "func")}
    return type(cached), (cached.func,), state


def _reduce_partial_method(partial: Any) -> Any:
    return _partial_method, (partial.func, partial.args, partial.keywords)


def _reduce_sort_key(key: Any) -> Any:
    """What ``functools.cmp_to_key`` returns, or one of the keys that this makes of an item."""
    compare, *item = (part for part in gc.get_referents(key) if part is not type(key))
    return _sort_key, (compare, *item[:1])


# Views and constants -----------------------------------------------------------------------------------


def _reduce_dictionary_view(view: Any) -> Any:
    """``d.keys()`` stays a view of ``d``, not of a copy."""
    [mapping] = gc.get_referents(view)
    return _dictionary_view, (mapping, type(view).__name__.rpartition("_")[2])


def _reduce_mapping_proxy(proxy: Any) -> Any:
    [mapping] = gc.get_referents(proxy)
    if type(mapping) is dict and isinstance(mapping.get("__dict__"), types.GetSetDescriptorType):
        mapping = dict(mapping)  # a class's own dictionary, which cannot be reached from outside
    return types.MappingProxyType, (mapping,)


def _constant(name: str) -> Reducer:
    return lambda constant: name


# What is made of something that is known -----------------------------------------------------------------


def _reduce_struct(layout: struct.Struct) -> Any:
    return struct.Struct, (layout.format,)


def _reduce_system_random(source: Any) -> Any:
    return random.SystemRandom, ()


def _reduce_match(match: Any) -> Any:
    """Found again in the same text, by the first way of searching that finds the same groups."""
    # The last is the one that may take very long where the others do not.
    pos, start = match.pos, match.start()
    ways = [("search", pos), ("match", pos), ("match", start), ("fullmatch", pos)]
    for way, begin in ways:
        if _is_same(match, _match(match.re, match.string, way, begin, match.endpos)):
            return _match, (match.re, match.string, way, begin, match.endpos)
    raise TypeError("cannot pickle 're.Match' object")


def _is_same(one: Any, other: Any) -> bool:
    return other is not None and one.regs == other.regs


# Exceptions --------------------------------------------------------------------------------------------


def _reduces_itself_by_its_arguments(cls: type) -> bool:
    reduce: Any = cls.__reduce__
    return isinstance(reduce, types.MethodDescriptorType) and cls.__reduce_ex__ is object.__reduce_ex__


def _reduce_exception(error: Any) -> Any:
    """Not by calling its class with ``args``, which a constructor of its own may not take."""
    _, arguments, *state = error.__reduce__()
    known = {name: getattr(error, name) for name in ("__cause__", "__context__", "__suppress_context__")}
    return _exception, (type(error), arguments), (known, *state), None, None, _set_exception_state


# Typing ------------------------------------------------------------------------------------------------


def _reduce_parameter_specification(parameter: Any) -> Any:
    return _type_parameter, (type(parameter).__name__, parameter.__name__, parameter.__bound__)


def _reduce_type_variable_tuple(parameter: Any) -> Any:
    return _type_parameter, ("TypeVarTuple", parameter.__name__, None)


def _reduce_new_type(made: Any) -> Any:
    state = {key: value for key, value in vars(made).items() if key != "__supertype__"}
    return typing.NewType, (made.__name__, made.__supertype__), state


_MAPPINGS: tuple[Any, ...] = ({}, collections.OrderedDict())
REDUCERS: dict[type, Reducer] = {
    functools._lru_cache_wrapper: _reduce_cached_function,
    functools.cached_property: _reduce_cached_property,
    functools.partialmethod: _reduce_partial_method,
    type(functools.cmp_to_key(lambda one, other: 0)): _reduce_sort_key,
    types.MappingProxyType: _reduce_mapping_proxy,
    ctypes.CDLL: reduce_library,
    ctypes.PyDLL: reduce_library,
    memoryview: reduce_memory_view,
    Parameters: reduce_parameters,
    dataclasses.Field: reduce_field,
    random.SystemRandom: _reduce_system_random,
    re.Match: _reduce_match,
    struct.Struct: _reduce_struct,
    **{
        type(getattr(table, kind)()): _reduce_dictionary_view
        for table in _MAPPINGS
        for kind in ("keys", "values", "items")
    },
    **{
        type(getattr(dataclasses, name)): _constant(name)
        for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")
    },
    typing.ParamSpec: _reduce_parameter_specification,
    typing.NewType: _reduce_new_type,
}
if hasattr(typing, "TypeVarTuple"):
    REDUCERS[typing.TypeVarTuple] = _reduce_type_variable_tuple


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _cache(parameters: dict[str, Any]) -> Any:
    """A cache around a partial without a function, which gets one when the contents are in."""
    return functools.lru_cache(**parameters)(functools.partial(_nothing))


def _nothing() -> None:
    """Stands in a cache's partial until the function is there."""


def _fill_cache(cached: Any, state: tuple[Any, dict[str, Any], list[Any]]) -> None:
    _, _, contents = state
    keys = [part for arguments, keywords, _ in contents for part in (*arguments, *keywords.values())]
    when_hashable(keys, lambda: _fill_cache_now(cached, *state))


def _fill_cache_now(cached: Any, function: Any, attributes: dict[str, Any], contents: list[Any]) -> None:
    partial = cached.__wrapped__
    try:
        for arguments, keywords, result in contents:
            partial.__setstate__((_returning(result), (), {}, {}))
            with contextlib.suppress(Exception):  # a key that cannot be made again is only computed again
                cached(*arguments, **keywords)
    finally:  # a hash that does not return must not leave a function that answers always the same
        partial.__setstate__((function, (), {}, {}))
        cached.__dict__.update(attributes)


def _returning(result: Any) -> Callable[..., Any]:
    return lambda *arguments, **keywords: result


def _partial_method(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partialmethod(function, *arguments, **keywords)


def _sort_key(compare: Any, *item: Any) -> Any:
    return functools.cmp_to_key(compare)(*item) if item else functools.cmp_to_key(compare)


def _dictionary_view(mapping: Any, kind: str) -> Any:
    return getattr(mapping, kind)()


def _fill_weak_set(weak: Any, items: list[Any]) -> None:
    """In older snapshots of version 1."""
    weak.update(items)


def _match(pattern: Any, text: Any, way: str, start: int, end: int) -> Any:
    return getattr(pattern, way)(text, start, end)


def _exception(cls: Any, arguments: tuple[Any, ...]) -> Any:
    base: Any = next(base for base in cls.__mro__ if not base.__flags__ & (1 << 9))  # the built-in one
    error = base.__new__(cls, *arguments)
    base.__init__(error, *arguments)
    return error


def _set_exception_state(error: Any, state: tuple[Any, ...]) -> None:
    known, *more = state
    for part in more:
        BaseException.__setstate__(error, part)
    for name, value in known.items():
        setattr(error, name, value)


def _type_parameter(kind: str, name: str, bound: Any) -> Any:
    make: Any = getattr(typing, kind)
    return make(name, bound=bound) if bound is not None else make(name)
