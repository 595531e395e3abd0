"""Which sessions have run long enough to make room, who has had most first."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator

from .free import Sort
from .model import Lease
from .view import View


class Ripe:
    """Leases of one sort and width that began at `latest` or earlier, who has had most first.

    They are looked up as far as somebody asks, and only once in a decision.
    """

    def __init__(
        self, view: View, now: float, kind: tuple[Sort, int], latest: float, chosen: set[int]
    ) -> None:
        self._view = view
        self._now = now
        self._kind = kind
        self._latest = latest if view.rules.preempt else float("-inf")
        self._chosen = chosen
        self._entries = self._candidates(kind)
        self._next = len(self._entries) - 1
        self._found: list[tuple[float, int]] = []
        self._first = 0
        """All before it are chosen."""

    def down_to(self, least: float) -> Iterator[tuple[float, int]]:
        """(-attained, id) of those who have had `least` seconds for each of their devices and are not chosen."""
        at = self._first
        while at < len(self._found) or self._find(least):
            entry = self._found[at]
            if -entry[0] < least:
                return
            if entry[1] not in self._chosen:
                yield entry
            elif at == self._first:
                self._first += 1
            at += 1

    def warned(self) -> list[int]:
        """Those of them whose user has been told, and who are not chosen."""
        return [
            lease_id
            for lease_id in sorted(self._view.warned)
            if self._view.served_kind(self._view.leases[lease_id]) == self._kind
            and lease_id not in self._chosen
            and self._is_ripe(self._view.leases[lease_id])
        ]

    def most(self, least: float) -> float:
        """What the first has had; -∞ where nobody has had `least`."""
        first = next(self.down_to(least), None)
        return -first[0] if first else float("-inf")

    def _candidates(self, kind: tuple[Sort, int]) -> list[tuple[float, int]]:
        """All, or only those that began early enough where they are few: many have just come back."""
        every, begun = self._view.served[kind], self._view.begun[kind]
        early = bisect_right(begun, (self._latest, sys.maxsize))
        if self._view.ending or early * 4 > len(every):
            return every
        return sorted(self._view.served_entry(self._view.leases[lease_id]) for _, lease_id in begun[:early])

    def _find(self, least: float) -> bool:
        """Whether there is one more with as much."""
        while self._next >= 0:
            at_zero, lease_id = self._entries[self._next]
            if at_zero + self._now < least:
                return False
            self._next -= 1
            if self._is_ripe(self._view.leases[lease_id]):
                self._found.append((-(at_zero + self._now), lease_id))
                return True
        return False

    def _is_ripe(self, lease: Lease) -> bool:
        if lease.cell_running and not self._view.rules.interrupt_cells:
            return False
        return lease.since <= self._latest or is_over(lease, self._now)


def is_over(lease: Lease, now: float) -> bool:
    return lease.ends is not None and lease.ends <= now
