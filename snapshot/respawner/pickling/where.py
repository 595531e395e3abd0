"""Finds the way from a variable to objects nested in it, for messages: ``cache['locks'][2]``."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from types import FunctionType
from typing import Any

_MOST_OBJECTS = 30_000
"""Looked at for one variable: some 10 ms, after every cell while something in it cannot be saved."""


def paths_to(targets: list[Any], root: Any, name: str) -> list[str]:
    """The shortest ways, or just the variable's name where the search through plain containers is in vain."""
    wanted = {id(target) for target in targets}
    found: dict[int, str] = {}
    queue: deque[tuple[Any, str]] = deque([(root, name)])
    seen = {id(root)}
    while queue and len(found) < len(wanted) and len(seen) < _MOST_OBJECTS:
        obj, path = queue.popleft()
        if id(obj) in wanted:
            found[id(obj)] = path
        for step, part in _parts(obj):
            if id(part) not in seen:
                seen.add(id(part))
                queue.append((part, path + step))
    return [found.get(id(target), name) for target in targets]


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        for key, value in dict.items(obj):
            yield f"[{_short(key)}]", value
    elif isinstance(obj, list):
        for index in range(list.__len__(obj)):
            yield f"[{index}]", list.__getitem__(obj, index)
    elif isinstance(obj, tuple):
        for index in range(tuple.__len__(obj)):
            yield f"[{index}]", tuple.__getitem__(obj, index)
    elif type(obj) in (set, frozenset):
        for value in obj:
            yield "{…}", value
    elif type(obj) is FunctionType:
        for variable, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False):
            with contextlib.suppress(ValueError):  # not assigned yet
                yield f"'s {variable}", cell.cell_contents
    elif _is_object_array(obj):
        for index, value in enumerate(obj.flat):
            yield f".flat[{index}]", value
    if not isinstance(obj, type):
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
