"""Weak references: to the same object if it is part of the state, else dead ones.

The target goes into the pickle with the reference. After the restore only what else is part of the state
holds it; where nothing does, it dies, and the reference is as dead as it would be without its object.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from .late_hashes import when_hashable


def _reduce_reference(reference: Any) -> tuple[Any, ...]:
    target = reference()
    if target is None:
        return _dead, ()
    callback = reference.__callback__
    return weakref.ref, (target,) if callback is None else (target, callback)


def _reduce_method(reference: Any) -> tuple[Any, ...]:
    method = reference()
    return (_dead, ()) if method is None else (weakref.WeakMethod, (method,))


def _reduce_proxy(proxy: Any) -> tuple[Any, ...]:
    try:
        target = proxy.__repr__.__self__  # a proxy hands everything on, so this is bound to its target
    except ReferenceError:
        return _dead_proxy, ()
    return weakref.proxy, (target,)


def _reduce_mapping(mapping: Any) -> tuple[Any, ...]:
    return type(mapping), (), list(mapping.items()), None, None, _fill_mapping


def _reduce_set(members: Any) -> tuple[Any, ...]:
    return weakref.WeakSet, (), list(members), None, None, _fill


REDUCERS: dict[type, Callable[[Any], Any]] = {
    weakref.ref: _reduce_reference,
    weakref.WeakMethod: _reduce_method,
    weakref.ProxyType: _reduce_proxy,
    weakref.CallableProxyType: _reduce_proxy,
    weakref.WeakValueDictionary: _reduce_mapping,
    weakref.WeakKeyDictionary: _reduce_mapping,
    weakref.WeakSet: _reduce_set,
}


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


class _Gone:
    """Dies at once, for references whose object had died."""


def _dead() -> Any:
    return weakref.ref(_Gone())


def _dead_proxy() -> Any:
    return weakref.proxy(_Gone())


def _fill(members: Any, items: list[Any]) -> None:
    when_hashable(items, lambda: members.update(items))


def _fill_mapping(mapping: Any, items: list[tuple[Any, Any]]) -> None:
    when_hashable([key for key, _ in items], lambda: mapping.update(items))
