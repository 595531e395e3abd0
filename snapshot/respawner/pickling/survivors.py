"""Objects that could not be saved, but still live: a restore in the same process brings back themselves.

Every lost object gets a token in its pickle. It leads back to the object in the process that made the
snapshot, for as long as somebody holds the object, and nowhere else: the token names the process by a random
number and its pid. The state that a `%restore` replaces is held whole, until the next one, so that undoing
brings back its locks, files and generators too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from collections.abc import Iterator
from typing import Any


class Survivors:
    """Weak references, but for what is `holding`."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._run = f"{self._pid}-{secrets.token_hex(8)}"
        self._next = 0
        self._holding = False
        self._numbers: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._objects: dict[int, weakref.ref[Any] | _Held] = {}
        self._held: dict[int, Any] = {}
        self._held_before: dict[int, Any] = {}

    def token(self, obj: Any) -> str:
        """The same for the same object, so that an unchanged state is pickled to the same bytes.

        Empty for an object that can neither be referred to weakly nor is held: its address alone might be
        another object's later.
        """
        known = self._numbers.get(id(obj))
        if known is not None and known[1]() is obj:
            number = known[0]
        else:
            try:
                reference: weakref.ref[Any] | _Held = weakref.ref(obj)
            except TypeError:
                if not self._holding:
                    return ""
                reference = _Held(obj)
            number = self._next
            self._next += 1
            if isinstance(reference, weakref.ref):
                self._numbers[id(obj)] = number, reference
            self._objects[number] = reference
        if self._holding:
            self._held[number] = obj
        return f"{self._run}:{number}"

    def find(self, token: str) -> Any | None:
        """The object of that token, None where it is another process's or gone."""
        run, _, number = token.partition(":")
        ours = run == self._run and os.getpid() == self._pid  # not a forked child, which has copies
        reference = self._objects.get(int(number)) if ours else None
        return reference() if reference is not None else None

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Keep what gets a token now alive, until this has been called twice more.

        Twice, because undoing is a restore as well: it holds the state that it replaces while it looks for
        the objects of the one before.
        """
        for number in self._held_before:
            if isinstance(self._objects.get(number), _Held):
                del self._objects[number]
        self._held_before, self._held = self._held, {}
        self._numbers = {key: known for key, known in self._numbers.items() if known[1]() is not None}
        self._objects = {number: ref for number, ref in self._objects.items() if ref() is not None}
        self._holding = True
        try:
            yield
        finally:
            self._holding = False


class _Held:
    """Stands for a weak reference to an object that allows none."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def __call__(self) -> Any:
        return self._obj


SURVIVORS = Survivors()
"""This process's."""
