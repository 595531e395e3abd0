"""When a waiting request is likely to be served: only where something that is known says so.

Known are: sessions on their way out, the ends of bookings, and, where sessions take turns, the end of a turn. How long
a notebook runs is not known, and not guessed.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from dataclasses import dataclass

from .free import Sort
from .model import Ask, Kind, Lease, Request, State, Suspension
from .placement import ANYWHERE
from .queueing import Walk


@dataclass(frozen=True, slots=True)
class Chance:
    """Where and when a request is served the earliest, and what ends then."""

    when: float
    host: str
    lease: Lease | None
    event: str
    """"booking", "turn", "suspending", "kept" (a booking of others ends) or "free"."""


class Availability:
    """Devices and when they are known to come free; whoever is booked takes them from those behind."""

    def __init__(self, walk: Walk, out: tuple[Suspension, ...]) -> None:
        self.walk = walk
        self.view = walk.view
        self._leaving = {suspension.lease_id for suspension in out} | self.view.suspending
        self._times: dict[int, tuple[float, str, Lease | None]] = {}
        for lease in self.view.leases.values():
            self._note_lease(lease)
        self._note_free()
        self._places: defaultdict[Sort, defaultdict[str, list[tuple[float, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        """By sort and host: (when it comes free, device), the first to come free first."""
        for at, (when, _, _) in self._times.items():
            self._places_of(at).append((when, at))
        for hosts in self._places.values():
            for places in hosts.values():
                places.sort()

    def book(self, request: Request) -> Chance | None:
        """The earliest known chance of this request, or None. Its devices are no longer there for later ones."""
        ask = request.ask
        if ask.kind == Kind.SHARE:
            return None
        by_host: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        for sort in self.view.matching(ask):
            for host, places in self._places[sort].items():
                if ask.host in ("", host):
                    by_host[host if ask.one_host else ANYWHERE] += self._first_of(places, ask)
        best = min(
            (
                (sorted(times)[ask.count - 1][0], host)
                for host, times in by_host.items()
                if len(times) >= ask.count
            ),
            default=None,
        )
        if best is None:
            return None
        taken = [at for _, at in sorted(by_host[best[1]])[: ask.count]]
        when, event, lease = self._times[taken[-1]]
        for at in taken:
            self._occupy(at, best[0])
        return Chance(when, best[1], lease, event)

    def _first_of(self, places: list[tuple[float, int]], ask: Ask) -> list[tuple[float, int]]:
        if ask.uuids:
            places = [place for place in places if self.view.devices[place[1]].uuid in ask.uuids]
        return places[: ask.count]

    def _places_of(self, at: int) -> list[tuple[float, int]]:
        return self._places[self.view.sorts[at]][self.view.devices[at].host]

    def _occupy(self, at: int, when: float) -> None:
        rules, places = self.view.rules, self._places_of(at)
        places.remove((self._times[at][0], at))
        if rules.preempt:
            turn = max(rules.least_run_seconds, rules.slice_seconds)
            self._times[at] = (when + turn, "turn", None)
            insort(places, (when + turn, at))
        else:
            del self._times[at]

    def _note_lease(self, lease: Lease) -> None:
        known = self._end_of(lease)
        for uuid in lease.uuids if known and not lease.share_bytes else ():
            at = self.view.position.get(uuid)
            if known and at is not None and not self.view.devices[at].cordon:
                self._times[at] = (known[0], known[1], lease)

    def _end_of(self, lease: Lease) -> tuple[float, str] | None:
        rules, now = self.view.rules, self.walk.now
        if lease.id in self._leaving:
            return now + rules.suspend_cost_seconds, "suspending"
        if not lease.preemptible:
            return None
        ends: list[tuple[float, str]] = []
        if lease.ends is not None:
            ends.append((max(now, lease.ends), "booking"))
        if (
            rules.preempt
            and lease.state == State.RUNNING
            and (not lease.cell_running or rules.interrupt_cells)
        ):
            turn = (rules.slice_seconds - lease.attained_seconds) / max(1, len(lease.uuids))
            ends.append((max(now, lease.since + max(rules.least_run_seconds, turn)), "turn"))
        return min(ends) if ends else None

    def _note_free(self) -> None:
        """What is free and not granted: kept for a booking until its end, or for somebody in front."""
        booked_until = min((booking.end for booking in self.walk.bookings.near), default=None)
        for pool in self.view.pools.values():
            for positions in pool.hosts.values():
                for at in positions:
                    if booked_until is None:
                        self._times[at] = (self.walk.now, "free", None)
                    else:
                        self._times[at] = (booked_until, "kept", None)
