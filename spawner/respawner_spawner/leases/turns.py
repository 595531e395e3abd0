"""Whose session is suspended so that another gets its turn. A suspended session loses nothing but time.

Only where `rules.preempt` is on, the session may be preempted, it has run for `min_run_seconds` and no cell runs
(unless `interrupt_cells`). Then, in this order of grounds: a lower priority; a borrower, when the waiting account is
below its guarantee; others, when the waiting group has a booking now; and whoever has had `slice_seconds` of GPU time
more than the one that waits (least attained service: nobody knows how long a session runs, but short ones have had
little, so short work passes long work). A session whose booking is over may go also without `rules.preempt`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain

from .free import Sort
from .model import Ask, Kind, Lease, Request, Suspension
from .placement import ANYWHERE
from .queueing import Walk, least_cost
from .view import View


def suspensions(walk: Walk) -> tuple[Suspension, ...]:
    """For those whom `walk` could not serve, in their order."""
    view = walk.view
    if len(view.queue) == len(walk.grants):
        return ()
    if not view.rules.preempt and not any(
        _is_over(view.leases[lease_id], walk.now) for lease_id in view.ending
    ):
        return ()
    turns = Turns(walk)
    walk.in_order(turns.make_room)
    return tuple(turns.out)


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits, as a comparison with those who run needs it."""

    request: Request
    priority: int
    account: str
    attained: float
    """GPU-seconds that it has had, less those that it has waited for since."""
    guaranteed: bool
    """Its account is below its guarantee."""
    booked: bool
    fills: bool
    """At least half of what it needs is free and of no use to others: served, it keeps more GPUs busy."""

    @property
    def least(self) -> float:
        """What a session must have had for each of its GPUs, in seconds, before its turn ends for this one's sake; the
        rules' slice comes on top."""
        return 0.0 if self.fills else self.attained


class Turns:
    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.view: View = walk.view
        self.now = walk.now
        self.out: list[Suspension] = []
        self._chosen: set[int] = set()
        self._room = Room(walk)
        self._wanted = dict(self.view.wanted)
        """Devices that those who wait ask for, by the number that one asks for."""
        for grant in walk.grants.values():
            self._wanted[len(grant.uuids)] -= len(grant.uuids)
        self._refused: dict[tuple[int, str, int], float] = {}
        """The least attained service for which there was nobody to suspend, by ask, account and priority."""
        self._given: defaultdict[str, int] = defaultdict(int)
        """What accounts lose by the suspensions so far."""
        self._ripe: dict[tuple[Sort, int, float], Ripe] = {}
        self._places: dict[int, dict[int, list[str]]] = {}
        """By ask and lease, what `Room.hosts_of` says."""

    def make_room(self, request: Request) -> bool:
        """Whether there will be room for it, because of suspensions under way or ordered here."""
        if request.ask.kind == Kind.SHARE or self.walk.over_limit(request, least_cost(request.ask)):
            return False
        waiter = self._waiter(request)
        account = waiter.account if self.view.limits else ""
        key = (self.view.ask_ids[request.id], account, waiter.priority)
        special = waiter.guaranteed or waiter.booked or waiter.fills
        if not special and waiter.attained >= self._refused.get(key, float("inf")):
            return False
        victims = self._victims(waiter)
        if victims is None:
            if not special:
                self._refused[key] = waiter.attained
            return False
        for lease in victims:
            self._chosen.add(lease.id)
            self._given[self.view.account(lease)] += self.view.cost(lease.uuids)
            self.out.append(Suspension(lease.id, request.id, self._why(lease, waiter)))
            self._room.add(lease)
        self._room.claim(request.ask)
        self._wanted[request.ask.count] -= request.ask.count
        return True

    def _wanted_by_narrow(self, count: int) -> int:
        """Devices that are asked for by those who can use what a wider session leaves."""
        return sum(devices for width, devices in self._wanted.items() if width <= count)

    def _waiter(self, request: Request) -> Waiter:
        view, account = self.view, self.view.account(request)
        waited = max(0.0, self.now - request.submitted)
        return Waiter(
            request,
            view.priority(request),
            account,
            max(0.0, request.attained_seconds / request.ask.count - waited),
            view.guarantee(account) > 0 and view.over_guarantee(account) + least_cost(request.ask) <= 0,
            self.walk.bookings.active_for(request.groups, request.ask) is not None,
            request.ask.count > 1 and 2 * self._room.count(request.ask) >= request.ask.count,
        )

    def _victims(self, waiter: Waiter) -> list[Lease] | None:
        """The fewest that make room together with what is free or soon free; None where that is not enough.

        None as well where more GPUs would come free than all who wait could use.
        """
        ask = waiter.request.ask
        if self._room.host_for(ask) is not None:
            return []
        found: list[Lease] = []
        there: dict[str, int] = {}
        anywhere = fits_anywhere(ask)
        for lease in self._in_preference(waiter):
            if not self._may_suspend(lease, waiter):
                continue
            found.append(lease)
            for host in self._hosts_of(lease, waiter.request):
                place = ANYWHERE if anywhere else host
                if place not in there:
                    there[place] = self._room.at(place, ask)
                there[place] += 1
                if there[place] >= ask.count:
                    return self._unless_wasteful(self._needed(found, waiter.request, place), ask)
        return None

    def _hosts_of(self, lease: Lease, request: Request) -> list[str]:
        known = self._places.setdefault(self.view.ask_ids[request.id], {})
        if lease.id not in known:
            known[lease.id] = self._room.hosts_of(lease, request.ask)
        return known[lease.id]

    def _unless_wasteful(self, leases: list[Lease], ask: Ask) -> list[Lease] | None:
        devices = sum(len(lease.uuids) for lease in leases)
        return leases if devices <= max(ask.count, self._wanted_by_narrow(ask.count)) else None

    def _needed(self, found: list[Lease], request: Request, host: str) -> list[Lease]:
        """Without those that are on other hosts or more than needed."""
        here = [lease for lease in found if host == ANYWHERE or host in self._hosts_of(lease, request)]
        if len(here) == 1:
            return here
        helps = {lease.id: self._helps(lease, request, host) for lease in here}
        surplus = self._room.at(host, request.ask) + sum(helps.values()) - request.ask.count
        for lease in list(here):
            if helps[lease.id] <= surplus:
                surplus -= helps[lease.id]
                here.remove(lease)
        return here

    def _helps(self, lease: Lease, request: Request, host: str) -> int:
        hosts = self._hosts_of(lease, request)
        return len(hosts) if host == ANYWHERE else hosts.count(host)

    def _in_preference(self, waiter: Waiter) -> Iterator[Lease]:
        """Who has had most first; those that hold more than is needed last."""
        sorts = self.view.matching(waiter.request.ask)
        lower = any(priority < waiter.priority for priority in self.view.lease_priorities)
        everybody = lower or waiter.guaranteed or waiter.booked or bool(self.view.ending)
        least = 0.0 if everybody else waiter.least + self.view.rules.slice_seconds
        for wide in (False, True):
            lists = [
                self._ripe_for(waiter, sort, width).down_to(least)
                for (sort, width), entries in self.view.served.items()
                if entries and sort in sorts and (width > waiter.request.ask.count) == wide
            ]
            for _, lease_id in merge(*lists) if len(lists) > 1 else chain(*lists):
                yield self.view.leases[lease_id]

    def _ripe_for(self, waiter: Waiter, sort: Sort, width: int) -> Ripe:
        """Who holds more than is needed runs for so much longer: it needs as many at once to come back."""
        longer = max(1.0, width / waiter.request.ask.count)
        key = (sort, width, longer)
        if key not in self._ripe:
            age = self.view.rules.min_run_seconds * longer
            self._ripe[key] = Ripe(self.view, self.now, self.view.served[sort, width], age, self._chosen)
        return self._ripe[key]

    def _may_suspend(self, lease: Lease, waiter: Waiter) -> bool:
        """Of a lease that is ripe."""
        priority = self.view.priority(lease)
        if priority != waiter.priority:
            return priority < waiter.priority
        if _is_over(lease, self.now):
            return True
        if self.view.limits:
            account = self.view.account(lease)
            left = self.view.over_guarantee(account) - self._given[account] - self.view.cost(lease.uuids)
            if account != waiter.account and self.view.guarantee(account) and left < 0:
                return False  # it would fall below its guarantee
        if waiter.booked and not self.walk.bookings.active_for(lease.groups, lease.ask):
            return True
        if waiter.guaranteed and self.view.account(lease) != waiter.account:
            return True
        return lease.attained_at(self.now) / len(lease.uuids) >= waiter.least + self.view.rules.slice_seconds

    def _why(self, lease: Lease, waiter: Waiter) -> str:
        hours = lease.attained_at(self.now) / max(1, len(lease.uuids)) / 3600
        return (
            f"has had its GPUs for {hours:.1f} h; {waiter.request.user} waits for {waiter.request.ask.count}"
        )


class Ripe:
    """Leases of one sort and width that have run for `age` seconds, who has had most first.

    They are looked up as far as somebody asks, and only once in a decision.
    """

    def __init__(
        self, view: View, now: float, entries: list[tuple[float, int]], age: float, chosen: set[int]
    ) -> None:
        self._view = view
        self._now = now
        self._entries = entries
        self._next = len(entries) - 1
        self._latest = now - age
        self._chosen = chosen
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
        rules = self._view.rules
        if lease.cell_running and not rules.interrupt_cells:
            return False
        return (rules.preempt and lease.since <= self._latest) or _is_over(lease, self._now)


class Room:
    """Devices that are free, or will be when those on their way out are gone, less what was claimed."""

    def __init__(self, walk: Walk) -> None:
        self.view = walk.view
        self._hosts: dict[Sort, dict[str, int]] | None = None
        self._total = {sort: pool.free for sort, pool in self.view.pools.items()}
        self._soon: list[int] = []
        for lease_id in sorted(self.view.suspending):
            self.add(self.view.leases[lease_id])

    def count(self, ask: Ask) -> int:
        """Those that would help `ask`; on one host where it needs that."""
        if fits_anywhere(ask):
            return self.at(ANYWHERE, ask)
        return max(self._rooms(ask).values(), default=0)

    def add(self, lease: Lease) -> None:
        for uuid in lease.uuids:
            at = self.view.position.get(uuid)
            if at is None or self.view.devices[at].cordon:
                continue
            self._total[self.view.sorts[at]] += 1
            self._soon.append(at)
            if self._hosts is not None:
                self._count(self._hosts, at)

    def host_for(self, ask: Ask) -> str | None:
        """A host with room for it; `ANYWHERE` where it does not matter which."""
        if fits_anywhere(ask):
            return ANYWHERE if self.at(ANYWHERE, ask) >= ask.count else None
        return min((host for host, room in self._rooms(ask).items() if room >= ask.count), default=None)

    def _rooms(self, ask: Ask) -> dict[str, int]:
        """By host, the devices there that would help `ask`; not those without any."""
        rooms: dict[str, int] = {}
        for sort in self.view.matching(ask):
            for host, devices in self._by_host()[sort].items():
                if devices and ask.host in ("", host):
                    rooms[host] = rooms.get(host, 0) + devices
        return rooms

    def at(self, host: str, ask: Ask) -> int:
        """Devices there that would help `ask`."""
        if host == ANYWHERE:
            return sum([self._total[sort] for sort in self.view.matching(ask)])
        if ask.host not in ("", host):
            return 0
        by_host = self._by_host()
        return sum([by_host[sort].get(host, 0) for sort in self.view.matching(ask)])

    def hosts_of(self, lease: Lease, ask: Ask) -> list[str]:
        """One entry for each device of it that would help `ask`."""
        places = [self.view.position[uuid] for uuid in lease.uuids if uuid in self.view.position]
        sorts = self.view.matching(ask)
        named = [at for at in places if not ask.uuids or self.view.devices[at].uuid in ask.uuids]
        return [
            self.view.devices[at].host
            for at in named
            if self.view.sorts[at] in sorts and not self.view.devices[at].cordon
        ]

    def claim(self, ask: Ask) -> None:
        """Later ones do not count on it as well."""
        host, left = self.host_for(ask), ask.count
        for sort in self.view.matching(ask):
            part = min(left, self._total[sort])
            if self._hosts is not None and host not in (None, ANYWHERE):
                part = min(part, self._hosts[sort].get(str(host), 0))
                self._hosts[sort][str(host)] = self._hosts[sort].get(str(host), 0) - part
            self._total[sort] -= part
            left -= part

    def _by_host(self) -> dict[Sort, dict[str, int]]:
        if self._hosts is None:
            pools = self.view.pools.items()
            self._hosts = {sort: {host: len(at) for host, at in pool.hosts.items()} for sort, pool in pools}
            for at in self._soon:
                self._count(self._hosts, at)
        return self._hosts

    def _count(self, hosts: dict[Sort, dict[str, int]], at: int) -> None:
        of_sort, host = hosts[self.view.sorts[at]], self.view.devices[at].host
        of_sort[host] = of_sort.get(host, 0) + 1


def fits_anywhere(ask: Ask) -> bool:
    return not ask.uuids and not ask.host and (ask.count == 1 or not ask.one_host)


def _is_over(lease: Lease, now: float) -> bool:
    return lease.ends is not None and lease.ends <= now
