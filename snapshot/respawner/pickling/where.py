"""Finds the way from a variable to objects nested in it, for messages: ``cache['locks'][2]``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import islice
from types import FunctionType
from typing import Any

_MOST_OBJECTS = 5_000
"""Looked at for one variable: at most some 20 ms, after every cell while something in it cannot be saved."""
_MOST_STEPS = 20


def paths_from(targets: list[tuple[Any, str]], roots: dict[str, Any]) -> list[str]:
    """For objects with the name of a variable through which each is reached; its own variable's, if it has one."""
    own = {id(value): name for name, value in reversed(roots.items())}
    paths = [own.get(id(obj), "") for obj, _ in targets]
    by_name: dict[str, list[int]] = {}
    for number, (_, name) in enumerate(targets):
        if not paths[number]:
            by_name.setdefault(name, []).append(number)
    for name, numbers in by_name.items():
        found = paths_to([targets[number][0] for number in numbers], roots.get(name), name)
        for number, path in zip(numbers, found, strict=True):
            paths[number] = path
    return paths


def paths_to(targets: list[Any], root: Any, name: str) -> list[str]:
    """The shortest ways, or just the variable's name where the search through plain containers is in vain."""
    wanted = {id(target) for target in targets}
    found: dict[int, str] = {}
    reached: list[tuple[Any, int, str]] = [
        (root, -1, name)
    ]  # object, where its holder stands here, last step
    seen = {id(root)}
    position = 0
    while position < len(reached) and len(found) < len(wanted):
        obj = reached[position][0]
        if id(obj) in wanted:
            found[id(obj)] = _path(reached, position)
        with contextlib.suppress(RuntimeError):  # a thread of the user's changes that container
            for step, part in islice(_parts(obj), _MOST_OBJECTS - len(reached)):
                if id(part) not in seen:
                    seen.add(id(part))
                    reached.append((part, position, step))
        position += 1
    return [found.get(id(target), name) for target in targets]


def _path(reached: list[tuple[Any, int, str]], position: int) -> str:
    steps: list[str] = []
    while position >= 0:
        _, position, step = reached[position]
        steps.append(step)
    steps.reverse()
    if len(steps) > _MOST_STEPS:
        steps[_MOST_STEPS // 2 : -_MOST_STEPS // 2] = ["…"]
    return "".join(steps)


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    cls = type(obj)  # isinstance() would ask the user's __class__
    if issubclass(cls, dict):
        for key, value in dict.items(obj):
            yield f"[{_short(key)}]", value
    elif issubclass(cls, list):
        for index in range(list.__len__(obj)):
            yield f"[{index}]", list.__getitem__(obj, index)
    elif issubclass(cls, tuple):
        for index in range(tuple.__len__(obj)):
            yield f"[{index}]", tuple.__getitem__(obj, index)
    elif cls in (set, frozenset):
        for value in obj:
            yield "{…}", value
    elif cls is FunctionType:
        for variable, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False):
            with contextlib.suppress(ValueError):  # not assigned yet
                yield f"'s {variable}", cell.cell_contents
    elif _is_object_array(obj):
        for index, value in enumerate(obj.flat):
            yield f".flat[{index}]", value
    if not issubclass(cls, type):
        try:
            attributes = object.__getattribute__(obj, "__dict__")  # not the user's __getattr__
        except Exception:  # none, or a property of the user's
            return
        if type(attributes) is dict:
            for key, value in attributes.items():
                yield f".{key}", value


def _is_object_array(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(obj) is numpy.ndarray and obj.dtype == object


def _short(key: Any) -> str:
    return repr(key)[:40] if type(key) in (str, int, float, bool, bytes) else f"<{type(key).__name__}>"
