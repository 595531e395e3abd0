"""Finds the way from a variable to an object nested in it, for messages: ``cache['locks'][2]``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

_MOST_OBJECTS = 100_000


def path_to(target: Any, root: Any, name: str) -> str:
    """The shortest way, or just the variable's name where the search through plain containers is in vain."""
    queue: deque[tuple[Any, str]] = deque([(root, name)])
    seen = {id(root)}
    while queue and len(seen) < _MOST_OBJECTS:
        obj, path = queue.popleft()
        if obj is target:
            return path
        for step, part in _parts(obj):
            if id(part) not in seen:
                seen.add(id(part))
                queue.append((part, path + step))
    return name


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        for key, value in dict.items(obj):
            yield f"[{_short(key)}]", value
    elif isinstance(obj, list | tuple):
        for index, value in enumerate(obj):
            yield f"[{index}]", value
    elif isinstance(obj, set | frozenset):
        for value in obj:
            yield "{…}", value
    elif not isinstance(obj, type):
        try:
            attributes = object.__getattribute__(obj, "__dict__")  # not the user's __getattr__
        except AttributeError:
            return
        for key, value in attributes.items():
            yield f".{key}", value


def _short(key: Any) -> str:
    return repr(key)[:40] if isinstance(key, str | int | float | bool | bytes) else f"<{type(key).__name__}>"
