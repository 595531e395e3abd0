"""Whose session is suspended so that another gets its turn. A suspended session loses nothing but time.

Only where `rules.preempt` is on, the session may be preempted, it has run for `least_run_seconds` and no cell runs
(unless `interrupt_cells`). Then, in this order of grounds: a lower priority; a borrower, when the waiting account is
below its guarantee; others, when the waiting group has a booking now; and whoever has had `slice_seconds` of GPU time
more than the one that waits (least attained service: nobody knows how long a session runs, but short ones have had
little, so short work passes long work). A session whose booking is over may go also without `rules.preempt`. Who has been
warned already comes first among those who may go, so that a choice, once told, changes only where it must.
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
from .ripe import Ripe, is_over
from .room import Room, fills, fits_anywhere
from .view import View


def suspensions(walk: Walk) -> tuple[Suspension, ...]:
    """For those whom `walk` could not serve, in their order."""
    view = walk.view
    if len(view.queue) == len(walk.grants):
        return ()
    if not view.rules.preempt and not any(
        is_over(view.leases[lease_id], walk.now) for lease_id in view.ending
    ):
        return ()
    turns = Turns(walk)
    if turns.hopeful:
        walk.in_order(turns.make_room, hopeful=turns.hopeful)
    return tuple(turns.out)


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits, as a comparison with those who run needs it."""

    request: Request
    priority: int
    account: str
    room: int
    """Devices that it could use and that are free, or soon free."""
    attained: float
    """Seconds that it has had each of its GPUs, less those that it has waited for since."""
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
        self._rooms: dict[int, int] = {}
        """By ask, what `Room.count` says, until something changes."""
        self._wanted = dict(self.view.wanted)
        """Devices that those who wait ask for, by the number that one asks for."""
        for grant in walk.grants.values():
            self._wanted[len(grant.uuids)] -= len(grant.uuids)
        self._refused: dict[tuple[int, str, int], float] = {}
        """The least attained service for which there was nobody to suspend, by ask, account and priority."""
        self._refused_now: dict[tuple[int, str, int], float] = {}
        """The same for those who fill, until a suspension has left more room than was asked for."""
        self._given: defaultdict[str, int] = defaultdict(int)
        """What accounts lose by the suspensions so far."""
        self._only_slices = _only_slices(walk)
        """Whether nobody makes room on other grounds than to have had a slice more."""
        self._ripe: dict[tuple[Sort, int, float], Ripe] = {}
        self.hopeful: dict[int, set[int]] = {}
        """By ask: the requests for which somebody may still make room; the others need not be asked."""
        self._waiting: dict[int, list[Request]] = {}
        """By ask, all who wait."""
        self._places: dict[int, dict[int, list[str]]] = {}
        """By ask and lease, what `Room.hosts_of` says."""
        self._most = self._most_of_sorts()
        self._look_who_may_hope()

    def make_room(self, request: Request) -> bool:
        """Whether there will be room for it, because of suspensions under way or ordered here."""
        ask, ask_id = request.ask, self.view.ask_ids[request.id]
        self._hope(ask_id, self.hopeful[ask_id] - {request.id})
        if self.walk.over_limit(request, least_cost(ask)):
            return False
        waiter = self._waiter(request, self._room_for(ask_id, ask))
        victims = self._victims_unless_refused(waiter)
        if victims is None:
            return False
        for lease in victims:
            self._chosen.add(lease.id)
            self._given[self.view.account(lease)] += self.view.cost(lease.uuids)
            self.out.append(Suspension(lease.id, request.id, self._why(lease, waiter)))
            self._room.add(lease)
        self._room.claim(ask)
        self._wanted[ask.count] -= ask.count
        self._refused_now.clear()
        self._rooms.clear()
        self._hope_anew(surplus=sum(len(lease.uuids) for lease in victims) > ask.count - waiter.room)
        return True

    def _room_for(self, ask_id: int, ask: Ask) -> int:
        if ask_id not in self._rooms:
            self._rooms[ask_id] = self._room.count(ask)
        return self._rooms[ask_id]

    def _look_who_may_hope(self) -> None:
        if self._only_slices and max(self._most.values(), default=0.0) < self.view.rules.slice_seconds:
            return
        for request in self.view.queue.values():
            if request.id not in self.walk.grants and request.ask.kind != Kind.SHARE:
                self._waiting.setdefault(self.view.ask_ids[request.id], []).append(request)
        for ask_id, requests in self._waiting.items():
            self._hope(ask_id, self._in_reach(ask_id, requests))

    def _hope_anew(self, *, surplus: bool) -> None:
        """After suspensions: those for whom there is room now, or nearly.

        :param surplus: more came free than was asked for, so that there may be room for single devices too.
        """
        for ask_id, requests in self._waiting.items():
            ask = requests[0].ask
            if ask.count > 1 or surplus:
                room = self._room_for(ask_id, ask)
                if room >= ask.count or fills(ask, room):
                    self._hope(ask_id, self._in_reach(ask_id, requests))

    def _hope(self, ask_id: int, request_ids: set[int]) -> None:
        if request_ids:
            self.hopeful[ask_id] = request_ids
        else:
            self.hopeful.pop(ask_id, None)

    def _in_reach(self, ask_id: int, requests: list[Request]) -> set[int]:
        """For whom somebody has had enough, or for whom there is room already."""
        ask, room = requests[0].ask, self._room_for(ask_id, requests[0].ask)
        if not self._only_slices or room >= ask.count:
            return {request.id for request in requests}
        most = max([self._most.get(sort, float("-inf")) for sort in self.view.matching(ask)], default=0.0)
        most -= self.view.rules.slice_seconds
        if fills(ask, room):
            return {request.id for request in requests} if most >= 0 else set()
        return {request.id for request in requests if self._attained(request) <= most}

    def _victims_unless_refused(self, waiter: Waiter) -> list[Lease] | None:
        """`_victims`, looked for only once for those who are alike."""
        request = waiter.request
        if waiter.room >= request.ask.count:
            return []
        if waiter.guaranteed or waiter.booked:
            return self._victims(waiter)
        refused = self._refused_now if waiter.fills else self._refused
        account = waiter.account if self.view.limits else ""
        key = (self.view.ask_ids[request.id], account, waiter.priority)
        if waiter.least >= refused.get(key, float("inf")):
            return None
        victims = self._victims(waiter)
        if victims is None:
            refused[key] = waiter.least
            if not waiter.least and self._only_slices:
                self.hopeful.pop(key[0], None)  # nobody can have had less
        return victims

    def _wanted_by_narrow(self, count: int) -> int:
        """Devices that are asked for by those who can use what a wider session leaves."""
        return sum(devices for width, devices in self._wanted.items() if width <= count)

    def _most_of_sorts(self) -> dict[Sort, float]:
        """What the one who has had most has had, of those who could make room."""
        most: dict[Sort, float] = {}
        for sort, width in self.view.served:
            had = self._ripe_for(sort, width, 1.0).most(self.view.rules.slice_seconds)
            most[sort] = max(had, most.get(sort, float("-inf")))
        return most

    def _attained(self, request: Request) -> float:
        """Seconds that it has had each of its GPUs, less those that it has waited for since."""
        if not request.attained_seconds:
            return 0.0
        waited = self.now - request.submitted
        had = request.attained_seconds / request.ask.count
        return had if waited <= 0 else had - waited if had > waited else 0.0

    def _waiter(self, request: Request, room: int) -> Waiter:
        view, account = self.view, self.view.account(request)
        return Waiter(
            request,
            view.priority(request),
            account,
            room,
            self._attained(request),
            view.guarantee(account) > 0 and view.over_guarantee(account) + least_cost(request.ask) <= 0,
            self.walk.bookings.active_for(request.groups, request.ask) is not None,
            fills(request.ask, room),
        )

    def _victims(self, waiter: Waiter) -> list[Lease] | None:
        """The fewest that make room together with what is free or soon free; None where that is not enough.

        None as well where more GPUs would come free than all who wait could use.
        """
        ask = waiter.request.ask
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
        """Those who were warned, then who has had most first; those that hold more than is needed last."""
        sorts = self.view.matching(waiter.request.ask)
        lower = any(priority < waiter.priority for priority in self.view.lease_priorities)
        everybody = lower or waiter.guaranteed or waiter.booked or bool(self.view.ending)
        least = 0.0 if everybody else waiter.least + self.view.rules.slice_seconds
        for wide in (False, True):
            kinds = [
                self._ripe_for(sort, width, max(1.0, width / waiter.request.ask.count))
                for (sort, width), entries in self.view.served.items()
                if entries and sort in sorts and (width > waiter.request.ask.count) == wide
            ]
            warned = [lease_id for ripe in kinds for lease_id in ripe.warned()]
            for lease_id in warned:
                yield self.view.leases[lease_id]
            lists = [ripe.down_to(least) for ripe in kinds]
            for _, lease_id in merge(*lists) if len(lists) > 1 else chain(*lists):
                if lease_id not in warned:
                    yield self.view.leases[lease_id]

    def _ripe_for(self, sort: Sort, width: int, longer: float) -> Ripe:
        """Who holds more than is needed runs for so much longer: it needs as many at once to come back."""
        key = (sort, width, longer)
        if key not in self._ripe:
            latest = self.now - self.view.rules.least_run_seconds * longer
            self._ripe[key] = Ripe(self.view, self.now, (sort, width), latest, self._chosen)
        return self._ripe[key]

    def _may_suspend(self, lease: Lease, waiter: Waiter) -> bool:
        """Of a lease that is ripe."""
        priority = self.view.priority(lease)
        if priority != waiter.priority:
            return priority < waiter.priority
        if is_over(lease, self.now):
            return True
        if self.view.limits:
            account = self.view.account(lease)
            left = self.view.over_guarantee(account) - self._given[account] - self.view.cost(lease.uuids)
            if account != waiter.account and self.view.guarantee(account) and left < 0:
                return False  # it would fall below its guarantee
        if waiter.booked and not self.walk.bookings.is_drawn_on_by(lease):
            return True
        if waiter.guaranteed and self.view.account(lease) != waiter.account:
            return True
        return lease.attained_at(self.now) / len(lease.uuids) >= waiter.least + self.view.rules.slice_seconds

    def _why(self, lease: Lease, waiter: Waiter) -> str:
        if is_over(lease, self.now):
            return f"its booking is over; {waiter.request.user} waits for {waiter.request.ask.count}"
        hours = lease.attained_at(self.now) / max(1, len(lease.uuids)) / 3600
        return (
            f"has had its GPUs for {hours:.1f} h; {waiter.request.user} waits for {waiter.request.ask.count}"
        )


def _only_slices(walk: Walk) -> bool:
    view = walk.view
    priorities = view.lease_priorities.keys() | view.lines.keys()
    guaranteed = any(limit.guarantee for limit in view.limits.values())
    return len(priorities) <= 1 and not (guaranteed or walk.bookings.near or view.ending)
