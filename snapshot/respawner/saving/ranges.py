"""Stretches of memory, to ask whether a chunk lies in them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Ranges:
    """Made of ``(address, length in bytes)`` in any order; those that meet or overlap count as one."""

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, length in sorted(stretches):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], start + length)
            elif length:
                self._starts.append(start)
                self._ends.append(start + length)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def cover(self, address: int, length: int) -> bool:
        """Whether all of it lies in one of them."""
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and address + length <= self._ends[index]
