"""What stands in the namespace for an object that could not be saved or restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import LostObjectError
from .survivors import SURVIVORS


class Placeholder:
    """Says what was here and why it is not; any use as the real object raises `LostObjectError`.

    Every alias of the lost object becomes the same placeholder. It is saved again as it is.
    """

    def __init__(self, path: str, type_name: str, reason: str, origin: str = "") -> None:
        self.__dict__.update(
            respawner_path=path, respawner_type=type_name, respawner_reason=reason, respawner_origin=origin
        )

    def __repr__(self) -> str:
        known = self.__dict__
        return (
            f"<lost {known.get('respawner_type')} at {known.get('respawner_path')}: "
            f"{known.get('respawner_reason')}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return placeholder_from_before, tuple(self.__dict__.values())

    def __setstate__(self, state: Any) -> None:
        """Ignore the state of the object that could not be made."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # protocols are asked for with hasattr everywhere
        raise self._lost(f"has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise self._lost(f"cannot take {name!r}")

    def _lost(self, what: str) -> LostObjectError:
        known = self.__dict__
        origin = known.get("respawner_origin") or "its cell"
        return LostObjectError(
            f"{known.get('respawner_path')} was a {known.get('respawner_type')} that Respawner could not bring "
            f"back ({known.get('respawner_reason')}), so it {what}. Make it again by running {origin}."
        )


@dataclass
class Losses:
    """What one restore did not bring back. ``alive`` are objects that are not the snapshot's but this process's own."""

    now: list[Placeholder] = field(default_factory=list)
    before: list[Placeholder] = field(default_factory=list)
    alive: list[tuple[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_losses: ContextVar[Losses | None] = ContextVar("respawner_losses", default=None)


@contextlib.contextmanager
def losses_counted() -> Iterator[Losses]:
    """Collects what is unpickled as a placeholder in this thread."""
    losses = Losses()
    token = _losses.set(losses)
    try:
        yield losses
    finally:
        _losses.reset(token)


def losses_note(text: str) -> None:
    """For the report of the restore that is under way in this thread."""
    if (losses := _losses.get()) is not None:
        losses.notes.append(text)


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def lost(path: str, type_name: str, reason: str, token: str = "") -> Any:
    """An object that was lost when the snapshot was taken: itself, if this is still its process and it lives."""
    losses = _losses.get()
    survivor = SURVIVORS.find(token) if token else None
    if survivor is not None:
        if losses is not None:
            losses.alive.append((path, survivor))
        return survivor
    placeholder = Placeholder(path, type_name, reason)
    if losses is not None:
        losses.now.append(placeholder)
    return placeholder


def placeholder_from_before(*known: str) -> Placeholder:
    """One that was in the namespace already when the snapshot was taken."""
    placeholder = Placeholder(*known)
    if (losses := _losses.get()) is not None:
        losses.before.append(placeholder)
    return placeholder


class LostClass(type):
    """Type of the stand-ins for classes and functions that cannot be imported any more."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        make: Any = cls.__new__
        return make(cls)


def lost_class(module: str, name: str, reason: str, made: list[Placeholder]) -> type:
    """A class whose instances, however they are made, are placeholders; they are added to ``made``."""

    def make(cls: type, *args: Any, **kwargs: Any) -> Placeholder:
        made.append(Placeholder("?", f"{module}.{name}", reason))
        return made[-1]

    return LostClass(
        name.rpartition(".")[2], (), {"__module__": module, "__qualname__": name, "__new__": make}
    )


def _refusing(operation: str) -> Any:
    def method(self: Placeholder, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._lost(f"cannot be used with {operation}")

    return method


_OPERATIONS = """
    __call__ __iter__ __next__ __len__ __getitem__ __setitem__ __delitem__ __contains__ __enter__ __exit__
    __aenter__ __aexit__ __await__ __aiter__ __anext__ __add__ __sub__ __mul__ __truediv__ __matmul__
    __lt__ __le__ __gt__ __ge__ __float__ __int__ __index__
"""
for _operation in _OPERATIONS.split():
    setattr(Placeholder, _operation, _refusing(_operation))
