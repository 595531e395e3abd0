"""How long one object's own code may take, how much it may return, and what is known of those that overdo it.

An object that is given up for that is remembered, so that the next cell does not wait for it again. It gets
another chance when a hundred times the deadline is over (so waiting never takes more than about a hundredth
of the time), and at every ``%snapshot``. What a running cell's safe point finds is not remembered: the cell may
hold the lock that the object waits for, and how often it is tried is the pace's business.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Iterator
from typing import Any

from ..container_memory import memory_use
from ..contract import MOST_OBJECT_BYTES_ENV, OBJECT_SECONDS_ENV

_DEFAULT_SECONDS = 5.0
_RESTORE_FACTOR = 6
"""Losing an object for good is worse than a wait at the start, so restoring is more patient."""
_FORGET_AFTER = 100
_ENOUGH_OF_A_TYPE = 2
_SPARE_BYTES = 64 << 20


class TakesTooLong(BaseException):  # not an error of anybody who catches errors
    """Raised in the middle of an object's own code, by `watch`."""


class Again(BaseException):
    """The pass must begin again: the object that stood in its way is remembered, or is looked for now."""


def object_seconds(restoring: bool = False) -> float:
    """The most that one object's own code may take; 0 for no limit."""
    try:
        seconds = float(os.environ.get(OBJECT_SECONDS_ENV, ""))
    except ValueError:
        seconds = _DEFAULT_SECONDS
    return max(0.0, seconds) * (_RESTORE_FACTOR if restoring else 1)


def most_object_bytes() -> int:
    """The most that one object's reduction may hold: what the environment says, else a quarter of free memory."""
    try:
        return int(float(os.environ.get(MOST_OBJECT_BYTES_ENV, "")))
    except ValueError:
        return free_bytes() // 4


def free_bytes() -> int:
    """Memory that this process may still take: the machine's, or what is left of the container's."""
    use = memory_use()
    return 1 << 62 if use is None else use.free_bytes


def memory_is_left() -> bool:
    """Whether a `MemoryError` was about one object's wish rather than about the machine."""
    try:
        bytearray(_SPARE_BYTES)
    except MemoryError:
        return False
    return True


class Overdone:
    """Objects that were given up for time or size, by identity; and by type, once several of one type were."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, type, str, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def remember(self, obj: Any, reason: str) -> None:
        until = time.monotonic() + max(60.0, _FORGET_AFTER * object_seconds())
        try:
            reference: Any = weakref.ref(obj)
        except TypeError:
            reference = None  # told apart by its address and type only
        self._known[id(obj)] = reference, type(obj), reason, until

    def reason(self, obj: Any) -> str | None:
        """Why ``obj`` is not tried, None where it may be."""
        known = self._known.get(id(obj))
        if known is not None and known[1] is type(obj) and (known[0] is None or known[0]() is obj):
            return known[2]
        same_type = [reason for _, cls, reason, _ in self._known.values() if cls is type(obj)]
        return f"like others of its type: {same_type[0]}" if len(same_type) >= _ENOUGH_OF_A_TYPE else None

    def types(self) -> set[type]:
        """Types whose objects must be asked for with `reason`; forgets what has had its time."""
        now = time.monotonic()
        gone = [key for key, (ref, _, _, until) in self._known.items() if until < now or (ref and not ref())]
        for key in gone:
            del self._known[key]
        return {cls for _, cls, _, _ in self._known.values()}

    @contextlib.contextmanager
    def for_now(self) -> Iterator[None]:
        """What is remembered inside is forgotten at the end: a running cell may hold the lock that an object wants."""
        before = dict(self._known)
        try:
            yield
        finally:
            self._known = {key: known for key, known in self._known.items() if key in before}

    def forget(self) -> None:
        self._known.clear()


OVERDONE = Overdone()
"""This process's."""


def another_chance() -> None:
    """Try everything again at the next capture."""
    OVERDONE.forget()
