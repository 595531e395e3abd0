"""Whose session is suspended so that another gets its turn. A suspended session loses nothing but time.

Only where `rules.preempt` is on, the session may be preempted, it has run for `min_run_seconds` and no cell runs
(unless `interrupt_cells`). Then, in this order of grounds: a lower priority; a borrower, when the waiting account is
below its guarantee; others, when the waiting group has a booking now; and whoever has had `slice_seconds` of GPU time
more than the one that waits (least attained service: nobody knows how long a session runs, but short ones have had
little, so short work passes long work). A session whose booking is over may go also without `rules.preempt`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from .free import Sort
from .model import Ask, Kind, Lease, Request, State, Suspension
from .placement import ANYWHERE
from .queueing import Walk, least_cost
from .view import Entry, View

Free = dict[Sort, dict[str, int]]


def suspensions(walk: Walk) -> tuple[Suspension, ...]:
    """For those whom `walk` could not serve, in their order."""
    rules, view = walk.view.rules, walk.view
    if not view.queue or not (
        rules.preempt or any(_is_over(lease, walk.now) for lease in view.leases.values())
    ):
        return ()
    turns = Turns(walk)
    walk.in_order(turns.make_room, turns.skips)
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
    booked: bool


class Turns:
    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.view: View = walk.view
        self.now = walk.now
        self.out: list[Suspension] = []
        self._chosen: set[int] = set()
        self._free = self._free_or_soon()
        self._candidates: dict[Sort, list[Lease]] = {}
        self._refused: dict[tuple[int, str, int], float] = {}
        """The least attained service for which there was nobody to suspend, by ask, account and priority."""
        self._given: defaultdict[str, int] = defaultdict(int)
        """What accounts lose by the suspensions so far."""

    def skips(self, entry: Entry) -> bool:
        return entry[1] in self.walk.grants

    def make_room(self, request: Request) -> bool:
        """Whether there will be room for it, because of suspensions under way or ordered here."""
        if self.walk.over_limit(request, least_cost(request.ask)) or request.ask.kind == Kind.SHARE:
            return False
        waiter = self._waiter(request)
        key = (self.view.ask_ids[request.id], waiter.account, waiter.priority)
        if (
            waiter.attained >= self._refused.get(key, float("inf"))
            and not waiter.guaranteed
            and not waiter.booked
        ):
            return False
        victims = self._victims(waiter)
        if victims is None:
            self._refused[key] = min(waiter.attained, self._refused.get(key, float("inf")))
            return False
        for lease in victims:
            self._chosen.add(lease.id)
            self._given[self.view.account(lease)] += self.view.cost(lease.uuids)
            self.out.append(Suspension(lease.id, request.id, self._why(lease, waiter)))
            self._add(lease)
        self._claim(request.ask)
        return True

    def _waiter(self, request: Request) -> Waiter:
        view, account = self.view, self.view.account(request)
        waited = max(0.0, self.now - request.submitted) * request.ask.count
        return Waiter(
            request,
            view.priority(request),
            account,
            max(0.0, request.attained_seconds - waited),
            view.guarantee(account) > 0 and view.over_guarantee(account) + least_cost(request.ask) <= 0,
            self.walk.bookings.active_for(request.groups, request.ask) is not None,
        )

    def _victims(self, waiter: Waiter) -> list[Lease] | None:
        """The fewest that make room together with what is free or soon free; None where that is not enough."""
        ask = waiter.request.ask
        if self._host_with_room(ask, {}) is not None:
            return []
        found: list[Lease] = []
        freed: dict[str, int] = defaultdict(int)
        for lease in self._in_preference(waiter):
            if not self._may_suspend(lease, waiter):
                continue
            found.append(lease)
            for uuid in lease.uuids:
                freed[self._host(uuid)] += 1
            host = self._host_with_room(ask, freed)
            if host is not None:
                return self._needed(found, ask, host)
        return None

    def _needed(self, found: list[Lease], ask: Ask, host: str) -> list[Lease]:
        """Without those that are on other hosts or more than needed."""
        here = [lease for lease in found if host in (ANYWHERE, *map(self._host, lease.uuids))]
        for lease in list(here):
            freed: dict[str, int] = defaultdict(int)
            for other in here:
                for uuid in other.uuids if other is not lease else ():
                    freed[self._host(uuid)] += 1
            if self._host_with_room(ask, freed, host) is not None:
                here.remove(lease)
        return here

    def _in_preference(self, waiter: Waiter) -> list[Lease]:
        """Who has had most first; those that hold more than is needed last."""
        count = waiter.request.ask.count
        leases = [lease for sort in self.view.matching(waiter.request.ask) for lease in self._of_sort(sort)]
        wide = [lease for lease in leases if len(lease.uuids) > count]
        return [lease for lease in leases if len(lease.uuids) <= count] + wide

    def _of_sort(self, sort: Sort) -> list[Lease]:
        if sort not in self._candidates:
            self._sort_candidates()
        return self._candidates.get(sort, [])

    def _sort_candidates(self) -> None:
        self._candidates = {sort: [] for sort in self.view.pools}
        leases = [lease for lease in self.view.leases.values() if self._is_candidate(lease)]
        for lease in sorted(leases, key=lambda lease: (-lease.attained_at(self.now), lease.id)):
            at = self.view.position.get(lease.uuids[0])
            if at is not None:
                self._candidates[self.view.sorts[at]].append(lease)

    def _is_candidate(self, lease: Lease) -> bool:
        rules = self.view.rules
        if not lease.preemptible or lease.suspending or lease.share_bytes or lease.state != State.RUNNING:
            return False
        if lease.cell_running and not rules.interrupt_cells:
            return False
        return _is_over(lease, self.now) or (
            rules.preempt and self.now - lease.since >= rules.min_run_seconds
        )

    def _may_suspend(self, lease: Lease, waiter: Waiter) -> bool:
        if lease.id in self._chosen:
            return False
        priority = self.view.priority(lease)
        if priority != waiter.priority:
            return priority < waiter.priority
        if _is_over(lease, self.now):
            return True
        account = self.view.account(lease)
        left = self.view.over_guarantee(account) - self._given[account] - self.view.cost(lease.uuids)
        if account != waiter.account and self.view.guarantee(account) and left < 0:
            return False  # it would fall below its guarantee
        if waiter.booked and not self.walk.bookings.active_for(lease.groups, lease.ask):
            return True
        if waiter.guaranteed and account != waiter.account:
            return True
        return lease.attained_at(self.now) >= waiter.attained + self.view.rules.slice_seconds

    def _why(self, lease: Lease, waiter: Waiter) -> str:
        hours = lease.attained_at(self.now) / max(1, len(lease.uuids)) / 3600
        return (
            f"has had its GPUs for {hours:.1f} h; {waiter.request.user} waits for {waiter.request.ask.count}"
        )

    # devices that are free, or will be when those on their way out are gone

    def _free_or_soon(self) -> Free:
        free: Free = {
            sort: {host: len(at) for host, at in pool.hosts.items()} for sort, pool in self.view.pools.items()
        }
        for lease_id in self.view.suspending:
            for uuid in self.view.leases[lease_id].uuids:
                self._count(free, uuid)
        return free

    def _add(self, lease: Lease) -> None:
        for uuid in lease.uuids:
            self._count(self._free, uuid)

    def _count(self, free: Free, uuid: str) -> None:
        at = self.view.position.get(uuid)
        if at is not None and not self.view.devices[at].cordon:
            hosts = free[self.view.sorts[at]]
            host = self.view.devices[at].host
            hosts[host] = hosts.get(host, 0) + 1

    def _host_with_room(self, ask: Ask, freed: dict[str, int], only: str = "") -> str | None:
        total = 0
        hosts: dict[str, int] = dict(freed)
        for sort in self.view.matching(ask):
            for host, count in self._free[sort].items():
                hosts[host] = hosts.get(host, 0) + count
        for host in sorted(hosts):
            total += hosts[host]
            if ask.one_host and ask.host in ("", host) and only in ("", host) and hosts[host] >= ask.count:
                return host
        return ANYWHERE if not ask.one_host and total >= ask.count else None

    def _claim(self, ask: Ask) -> None:
        """Later ones do not count on it as well."""
        host = self._host_with_room(ask, {})
        left = ask.count
        for sort in self.view.matching(ask):
            for name in [host] if host not in (None, ANYWHERE) else sorted(self._free[sort]):
                part = min(left, self._free[sort].get(str(name), 0))
                if part:
                    self._free[sort][str(name)] -= part
                    left -= part

    def _host(self, uuid: str) -> str:
        at = self.view.position.get(uuid)
        return self.view.devices[at].host if at is not None else ""


def _is_over(lease: Lease, now: float) -> bool:
    return lease.ends is not None and lease.ends <= now
