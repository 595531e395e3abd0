"""Finds the object whose reduction is enormous, or makes new objects for ever.

Used only once there is a reason to look (a pickle grows beyond its limit, a variable takes seconds, the
nesting is deep), because it costs about as much again as the reduction itself.
"""

from __future__ import annotations

import gc
import sys
from itertools import islice
from operator import length_hint
from typing import Any

_MOST_GENERATIONS = 1000
_MOST_LOOKED_AT = 1000

_CONTAINERS: tuple[type, ...] = (tuple, list, dict, set, type(iter([])))


def _references(objects: list[Any]) -> list[int]:
    return [sys.getrefcount(obj) for obj in objects]


_container = [object()]
_HELD_ONCE = _references(gc.get_referents(_container))[0]
"""What `_references` counts for an object that only one container holds, and that container's listing."""


class Lineage:
    """Which objects were made by the reduction of which, for how many generations."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any, int]] = {}  # holds the object too, so that its id stays its own

    def never_ending(self, obj: Any, reduced: tuple[Any, ...]) -> Any | None:
        """The first of a thousand generations, each made by reducing the one before; usually None."""
        _, first, generation = self._made.pop(id(obj), (obj, obj, 0))
        if generation >= _MOST_GENERATIONS:
            return first
        for child in _made_just_now(reduced):
            self._made[id(child)] = child, first, generation + 1
        return None


def _made_just_now(reduced: tuple[Any, ...]) -> list[Any]:
    """What the reduction holds and nobody else does: only objects that were made for it."""
    found: list[Any] = []
    queue: list[Any] = [reduced]
    while queue and len(found) < _MOST_LOOKED_AT:
        parts = gc.get_referents(queue.pop())
        for part, count in zip(parts, _references(parts), strict=True):
            if count <= _HELD_ONCE and gc.is_tracked(part):
                if type(part) not in _CONTAINERS:
                    found.append(part)
                elif length_hint(part) > _MOST_LOOKED_AT:
                    continue
                queue.append(part)
    return found


def weight(part: Any, depth: int = 4) -> int:
    """About how many bytes a reduction takes in the pickle, large memory of arrays and tensors not counted."""
    if isinstance(part, bytes | bytearray | str):
        return len(part)
    if isinstance(part, dict):
        below = [item for pair in islice(dict.items(part), _MOST_LOOKED_AT) for item in pair]
    elif isinstance(part, list | tuple | set | frozenset):
        below = list(islice(part, _MOST_LOOKED_AT))
    else:
        return 1
    return 2 * len(part) + (sum(weight(item, depth - 1) for item in below) if depth else 0)
