"""Members of sets and keys of dictionaries that are hashed before they have their state, and what they wait for.

Where an object holds a set that holds the object, the set is filled first, and the class's own ``__hash__``
would fail, or answer wrongly for the empty object. So meanwhile such objects are hashed and compared by their
identity, and when everything is there each container that holds one is filled again, in its order. The same
for instances that are hashed while their class has no methods yet.

Only classes whose ``__hash__`` is written in Python need that; theirs is replaced while objects are made.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from .placeholder import losses_note
from .unpicklable import one_line_reason, type_name

_LEFT_ALONE = {*sys.stdlib_module_names, "torch", "numpy"}
"""Libraries whose objects have what their hash needs as soon as they are made."""
_UNORDERED: tuple[type, ...] = (set, frozenset)
_HASHED: tuple[type, ...] = (set, frozenset, dict)
_HEAP_TYPE = 1 << 9
_OF_OBJECT = object.__basicsize__
"""Bytes before an object's own fields: 16, but in builds without a global lock."""


class LateHashes:
    """Of one pass of an unpickler."""

    def __init__(self) -> None:
        self._waiting: dict[int, Any] = {}
        self._answers = 0
        """How often an identity was given instead of a hash."""
        self._unfinished: set[type] = set()
        self._replaced: list[tuple[type, str, Any]] = []
        self._looked_at: set[type] = set()
        self._slots: dict[type, list[Any]] = {}
        self._thread = threading.get_ident()
        self._later: list[Callable[[], None]] = []

    # Classes ------------------------------------------------------------------------------------------

    def class_is_made(self, cls: type) -> None:
        """It has no methods yet: its instances wait."""
        self._unfinished.add(cls)

        def by_identity(obj: Any) -> int:
            return self._identity(obj)

        type.__setattr__(cls, "__hash__", by_identity)

    def class_is_about_to_be_filled(self, cls: type) -> None:
        if cls in self._unfinished:
            self._unfinished.discard(cls)
            with contextlib.suppress(AttributeError):
                type.__delattr__(cls, "__hash__")

    def class_is_there(self, cls: Any) -> None:
        """Replace its hash and its comparison, and those of its bases, where these are Python functions."""
        if not isinstance(cls, type) or cls in self._looked_at:
            return
        self._looked_at.add(cls)
        bases = [base for base in cls.__mro__ if base.__flags__ & _HEAP_TYPE and not _is_left_alone(base)]
        if not any(isinstance(vars(base).get("__hash__"), types.FunctionType) for base in bases):
            return
        for base in bases:
            if base not in self._unfinished:
                self._replace(base, "__hash__", self._patient_hash)
                self._replace(base, "__eq__", self._patient_comparison)

    def _replace(self, cls: type, name: str, wrapped: Callable[[Any], Any]) -> None:
        function = vars(cls).get(name)
        if isinstance(function, types.FunctionType) and function.__code__ not in GUARDED_HASHES:
            self._replaced.append((cls, name, function))
            type.__setattr__(cls, name, wrapped(function))

    def put_back(self) -> None:
        for cls in list(self._unfinished):
            self.class_is_about_to_be_filled(cls)
        for cls, name, function in reversed(self._replaced):
            type.__setattr__(cls, name, function)
        self._replaced.clear()

    def _patient_hash(self, function: Any) -> Any:
        def hash_of(obj: Any) -> int:
            if threading.get_ident() != self._thread:  # whose objects are none of those that are made here
                return int(function(obj))
            if self._is_waiting(obj):
                return self._identity(obj)
            answers = self._answers
            found: int = function(obj)
            return found if self._answers == answers else self._identity(obj)

        return hash_of

    def _patient_comparison(self, function: Any) -> Any:
        def is_equal(obj: Any, other: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(obj, other)
            if self._is_waiting(obj) or id(other) in self._waiting:
                return obj is other
            return function(obj, other)

        return is_equal

    # Objects ------------------------------------------------------------------------------------------

    def _identity(self, obj: Any) -> int:
        self._waiting[id(obj)] = obj
        self._answers += 1
        return object.__hash__(obj)

    def _is_waiting(self, obj: Any) -> bool:
        return id(obj) in self._waiting or self._is_empty(obj)

    def _is_empty(self, obj: Any) -> bool:
        cls = type(obj)
        try:
            if object.__getattribute__(obj, "__dict__"):
                return False
        except AttributeError:
            if not self._slots_of(cls):  # nothing could come later
                return False
        return not any(_is_set(slot, obj) for slot in self._slots_of(cls))

    def _slots_of(self, cls: type) -> list[Any]:
        if cls not in self._slots:
            members = [value for base in cls.__mro__ for value in vars(base).values()]
            self._slots[cls] = [m for m in members if isinstance(m, types.MemberDescriptorType)]
        return self._slots[cls]

    def when_hashable(self, keys: list[Any], fill: Callable[[], None]) -> None:
        """Call ``fill`` at once, or in the end where one of the keys waits."""
        answers = self._answers
        for key in keys:
            with contextlib.suppress(Exception):
                hash(key)
        if self._answers == answers:
            fill()
        else:
            self._later.append(fill)

    # The end ------------------------------------------------------------------------------------------

    def fill_again(self) -> None:
        """Everything is there: every container that holds what waited gets its members anew."""
        if not self._waiting:
            return
        affected = dict(self._waiting)
        containers = _containers_of(affected)
        contents = [_contents(container) for container in containers]
        self.put_back()
        for obj in affected.values():
            if isinstance(obj, tuple):
                _forget_hash(obj)
        order = _inner_ones_first(containers, contents)
        for index in order:
            _fill(containers[index], contents[index])
        for fill in self._later:
            _call_last(fill)


_current: ContextVar[LateHashes | None] = ContextVar("respawner_late_hashes", default=None)


@contextlib.contextmanager
def hashes_wait() -> Iterator[None]:
    """Around an unpickler's work. The user's names must be there when this ends."""
    late = LateHashes()
    token = _current.set(late)
    try:
        yield
        late.fill_again()
    finally:
        late.put_back()
        _current.reset(token)


def current() -> LateHashes | None:
    return _current.get()


def when_hashable(keys: list[Any], fill: Callable[[], None]) -> None:
    """See `LateHashes.when_hashable`; at once where nothing is being restored."""
    late = _current.get()
    if late is None:
        fill()
    else:
        late.when_hashable(keys, fill)


def _is_left_alone(cls: type) -> bool:
    return str(getattr(cls, "__module__", "")).partition(".")[0] in _LEFT_ALONE


def _is_set(slot: Any, obj: Any) -> bool:
    try:
        slot.__get__(obj)
    except AttributeError:
        return False
    return True


def _containers_of(affected: dict[int, Any]) -> list[Any]:
    """Sets and dictionaries with an affected member; tuples and frozensets that hold one are affected themselves."""
    tuples, hashed = [], []
    for obj in gc.get_objects():
        cls = type(obj)
        if issubclass(cls, tuple):
            tuples.append(obj)
        elif issubclass(cls, _HASHED):
            hashed.append(obj)
    immutable = [*tuples, *(obj for obj in hashed if isinstance(obj, frozenset))]
    grows = True
    while grows:
        found = [
            o for o in immutable if id(o) not in affected and any(id(p) in affected for p in _members(o))
        ]
        affected.update((id(obj), obj) for obj in found)
        grows = bool(found)
    return [obj for obj in hashed if any(id(part) in affected for part in _members(obj))]


def _members(obj: Any) -> list[Any]:
    base: Any = next(base for base in (tuple, set, frozenset, dict) if isinstance(obj, base))
    return list(base.__iter__(obj))


def _contents(container: Any) -> list[Any]:
    if isinstance(container, collections.OrderedDict):
        return list(collections.OrderedDict.items(container))
    return list(dict.items(container)) if isinstance(container, dict) else _members(container)


def _inner_ones_first(containers: list[Any], contents: list[list[Any]]) -> list[int]:
    """Frozensets before what they are members of, for their hash is made of their members'."""
    index_of = {id(container): index for index, container in enumerate(containers)}
    order: dict[int, None] = {}
    for start in sorted(
        range(len(containers)), key=lambda index: not isinstance(containers[index], frozenset)
    ):
        below = [start]
        while below:
            index = below[-1]
            inner = [] if index in order else _frozensets_in(contents[index], index_of)
            missing = [n for n in inner if n not in order and n not in below]
            below += missing
            if not missing:
                order[below.pop()] = None
    return list(order)


def _frozensets_in(parts: list[Any], index_of: dict[int, int]) -> list[int]:
    found = [index_of[id(part)] for part in parts if isinstance(part, frozenset) and id(part) in index_of]
    for part in parts:
        if isinstance(part, tuple):
            found += _frozensets_in(list(part), index_of)
    return found


def _fill(container: Any, contents: list[Any]) -> None:
    keys = [key for key, _ in contents] if isinstance(container, dict) else contents
    try:
        _hash_all(keys)
        # Once beside it: where a hash or a comparison fails, what the container holds must not be gone.
        _fill_copy(keys)
    except BaseException as error:  # the user's own code, which may not return
        reason = _reason(error)
        losses_note(f"a {type_name(type(container))} holds what cannot be found in it: {reason}")
        return
    if isinstance(container, collections.OrderedDict):
        collections.OrderedDict.clear(container)
        for key, value in contents:
            collections.OrderedDict.__setitem__(container, key, value)
    elif isinstance(container, dict):
        dict.clear(container)
        dict.update(container, contents)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, contents)
    else:
        _fill_frozenset(container, contents)


def _reason(error: BaseException) -> str:
    return one_line_reason(error) if isinstance(error, Exception) else "its hash does not return"


def _call_last(fill: Callable[[], None]) -> None:
    """Of a container that fills itself. What it raises costs only its contents."""
    try:
        fill()
    except BaseException as error:  # the user's own code, which may not return
        losses_note(f"what a cache or a weak container held is not there: {_reason(error)}")


def _fill_copy(keys: list[Any]) -> None:
    dict.fromkeys(keys)


def _hash_all(keys: list[Any]) -> None:
    for key in keys:
        hash(key)


def _fill_frozenset(container: Any, contents: list[Any]) -> None:
    """It has the memory of a set and forbids only the methods, so it is called one for a moment."""
    if type(container) is not frozenset or _OF_OBJECT != 16:
        losses_note(f"a {type_name(type(container))} holds what cannot be found in it")
        return
    as_set: Any = container
    its_class = ctypes.c_void_p.from_address(id(container) + _OF_OBJECT // 2)
    its_class.value = id(set)
    try:
        set.clear(as_set)  # forgets the hash as well
        set.update(as_set, contents)
    finally:
        its_class.value = id(frozenset)


def _forget_hash(obj: tuple[Any, ...]) -> None:
    """Tuples remember theirs since Python 3.14, in the field behind their length."""
    if tuple.__basicsize__ > _OF_OBJECT + 8 and _OF_OBJECT == 16:
        ctypes.c_ssize_t.from_address(id(obj) + _OF_OBJECT + 8).value = -1


def _code_of(method: Any, inner: str) -> types.CodeType:
    codes = (part for part in method.__code__.co_consts if isinstance(part, types.CodeType))
    return next(code for code in codes if code.co_name == inner)


GUARDED_HASHES: set[types.CodeType] = {
    _code_of(LateHashes._patient_hash, "hash_of"),
    _code_of(LateHashes._patient_comparison, "is_equal"),
    _hash_all.__code__,
    _fill_copy.__code__,
    _call_last.__code__,
}
"""Functions that call the user's: see `watch`."""
