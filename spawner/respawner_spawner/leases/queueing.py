"""One walk along the queue: who is served, and what is kept free for those who do not fit.

A request for many GPUs would wait forever behind small ones that take each GPU as it comes free. So the first that
has waited for `patience_seconds` becomes the *head* of the devices it could use: a host (or, where it may span hosts,
all of them) is emptied for it. Until `pass_seconds` others may still pass: those of accounts that hold less than the
head's will when it is served, and those of its own account. Then it stands in front of everybody of its priority. While
it is far from being served, whoever fits may pass, until twice `pass_seconds`; then nobody.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from .bookings import Bookings
from .free import Sort
from .model import Ask, Grant, Kind, Request
from .placement import ANYWHERE, Barred, place
from .view import WHOLE, Entry, Line, View, needs_a_head, subjects

YOUNG_SECONDS = 2 * 3600.0
"""A session that has run for longer is likely to run for another hour: most sessions are short, and those that are not
are long. In the trace of the benchmark 78 % end within the hour."""

Turn = tuple[Entry, list[Entry], int]
"""Who is next of those who are alike, all of them, and at which place it stands among them."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request for which devices are kept free."""

    request: Request
    account: str
    priority: int
    over_when_served: int
    """What its account will hold above its guarantee, in millionths of a GPU."""
    in_front: float
    """From when on it stands in front."""
    last_pass: float
    """Until when others pass it while it is far from being served."""
    far: bool
    """Whether fewer devices than it lacks are held by young sessions."""
    sorts: tuple[Sort, ...]
    host: str
    """Which one is emptied; `ANYWHERE` where the request may span hosts."""


class Walk:
    """Grants of one decision. Changes the view while it lasts; `applied()` puts it back."""

    def __init__(self, view: View, now: float) -> None:
        self.view = view
        self.now = now
        self.grants: dict[int, Grant] = {}
        self.heads: list[Head] = []
        self.bookings = Bookings(view, now)
        self._hopeless: set[int] = set()
        """Asks that nobody can be granted any more in this walk."""
        self._settled: set[int] = set()
        """Hopeless asks for which no further head is made either."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While it lasts, what was granted counts as taken; afterwards the view is as before."""
        for grant in self.grants.values():
            self._take(self.view.queue[grant.request_id], grant)
        try:
            yield
        finally:
            for grant in reversed(self.grants.values()):
                self._give_back(self.view.queue[grant.request_id], grant)

    def grant(self) -> None:
        if not self.view.anything_free():
            return
        for request in self.overdue():
            self._try(request)
        self.in_order(self._try, self._settled, lambda: not self.view.anything_free())

    def in_order(
        self,
        served: Callable[[Request], bool],
        settled: Collection[int] = (),
        done: Callable[[], bool] = lambda: False,
        hopeful: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        """Offer the waiting requests in order to `served`, which says whether it was.

        An account whose request was served stands further behind. Of requests that are alike the later ones are
        left out when one was not served, and those whose ask is in `settled`. It ends when it is `done`, or when the
        asks of all who wait are settled.

        :param hopeful: by ask, the only requests that are worth an offer; it may change meanwhile. It ends when it is
            empty.
        """
        over_guarantee = self.view.over_guarantee if self.view.limits else self.view.held_by
        for priority in sorted(self.view.lines, reverse=True):
            waiting = self.view.lines[priority]
            lines: dict[str, list[Turn]] = {}
            turns = [
                (over_guarantee(account), entry, account)
                for account, entry in self.view.first[priority].items()
            ]
            heapify(turns)
            while turns:
                if len(settled) >= len(self.view.asks) or (hopeful is not None and not hopeful):
                    return
                account = heappop(turns)[2]
                if account not in lines:
                    lines[account] = _by_turn(waiting[account])
                line = lines[account]
                if not self._serve_one(line, served, settled, hopeful):
                    continue
                if done():
                    return
                if line:
                    heappush(turns, (over_guarantee(account), line[0][0], account))

    def _serve_one(
        self,
        line: list[Turn],
        served: Callable[[Request], bool],
        settled: Collection[int],
        hopeful: Mapping[int, Collection[int]] | None,
    ) -> bool:
        """Whether one of an account could be served; those who were asked are out of `line`."""
        queue, grants, ask_ids = self.view.queue, self.grants, self.view.ask_ids
        while line:
            (_, request_id), alike, at = heappop(line)
            if ask_ids[request_id] in settled:
                continue
            worth_it = hopeful is None or request_id in hopeful.get(ask_ids[request_id], ())
            done = worth_it and request_id not in grants and served(queue[request_id])
            if (done or request_id in grants) and at + 1 < len(alike):
                heappush(line, (alike[at + 1], alike, at + 1))
            if done:
                return True
        return False

    def over_limit(self, request: Request, cost: int) -> str | None:
        """The user or group that would hold more than its limit with `cost` more."""
        if not self.view.limits:
            return None
        for subject in subjects(request.user, request.groups):
            most = self.view.most(subject)
            if most is not None and self.view.held.get(subject, 0) + cost > round(most * WHOLE):
                return subject
        return None

    def barred(self, request: Request) -> Barred:
        """What is free but kept from this request."""
        kept = self.bookings.kept_from(request)
        stopping = [head for head in self.heads if not self._may_pass(request, head)]
        hosts: dict[Sort, set[str]] = {}
        for head in stopping:
            for sort in head.sorts:
                hosts.setdefault(sort, set()).add(head.host)
        return Barred(kept, hosts)

    def head_in_front(self, request: Request) -> Head | None:
        """The one that devices are kept for which this request could use."""
        sorts = self.view.matching(request.ask)
        for head in self.heads:
            if not set(head.sorts).isdisjoint(sorts) and not self._may_pass(request, head):
                return head
        return None

    def overdue(self) -> list[Request]:
        """Large requests that waited for `pass_seconds`: they stand in front of their priority, the oldest first."""
        latest = (self.now - self.view.rules.pass_seconds, sys.maxsize)
        found = self.view.large[: bisect_right(self.view.large, latest)]
        return sorted(
            (self.view.queue[request_id] for _, request_id in found),
            key=lambda request: -self.view.priority(request),
        )

    def _try(self, request: Request) -> bool:
        if request.id in self.grants or self.over_limit(request, least_cost(request.ask)):
            return False
        ask_id = self.view.ask_ids[request.id]
        if ask_id not in self._hopeless:
            uuids = place(self.view, request.ask)
            if uuids is None:
                self._hopeless.add(ask_id)
                if not needs_a_head(request.ask):
                    self._settled.add(ask_id)
            elif self.heads or self.bookings.near:
                uuids = place(self.view, request.ask, self.barred(request))
            if uuids is not None:
                return self._grant(request, uuids)
        if request.submitted + self.view.rules.patience_seconds <= self.now:
            self._make_head(request)
        return False

    def _grant(self, request: Request, uuids: tuple[str, ...]) -> bool:
        share = request.ask.share_bytes if request.ask.kind == Kind.SHARE else 0
        if self.over_limit(request, self.view.cost(uuids, share)):
            return False
        grant = Grant(request.id, uuids, self._why(uuids), share)
        self.grants[request.id] = grant
        self._take(request, grant)
        if self.bookings.near:
            self.bookings.granted(request.groups, uuids)
        return True

    def _why(self, uuids: tuple[str, ...]) -> str:
        hosts = sorted({self.view.devices[self.view.position[uuid]].host for uuid in uuids})
        return f"free on {' and '.join(hosts)}"

    def _make_head(self, request: Request) -> None:
        """Keep devices free for it, if it needs several at once and nobody stands there already."""
        view, ask = self.view, request.ask
        sorts = view.matching(ask)
        if view.ask_ids[request.id] in self._hopeless:
            self._settled.add(view.ask_ids[request.id])
        if not needs_a_head(ask) or any(not set(head.sorts).isdisjoint(sorts) for head in self.heads):
            return
        host = self._host_to_empty(ask, sorts)
        if host:
            account, cost = view.account(request), least_cost(ask)
            over = view.over_guarantee(account) + cost
            in_front = request.submitted + view.rules.pass_seconds
            last_pass = in_front + view.rules.pass_seconds
            far = self._is_far(ask, sorts, host)
            self.heads.append(
                Head(request, account, view.priority(request), over, in_front, last_pass, far, sorts, host)
            )

    def _is_far(self, ask: Ask, sorts: tuple[Sort, ...], host: str) -> bool:
        """Nobody knows how long sessions run; old ones run on, so it takes as many young ones as devices lack."""
        view = self.view
        pools = [view.pools[sort] for sort in sorts]
        lacking = ask.count - sum(pool.free if host == ANYWHERE else pool.count(host) for pool in pools)
        for since, lease_id in reversed(view.by_begin):
            if since <= self.now - YOUNG_SECONDS:
                return lacking > 0
            for uuid in view.leases[lease_id].uuids:
                at = view.position.get(uuid)
                if at is not None and view.sorts[at] in sorts and host in (ANYWHERE, view.devices[at].host):
                    lacking -= 1
            if lacking <= 0:
                return False
        return lacking > 0

    def _host_to_empty(self, ask: Ask, sorts: tuple[Sort, ...]) -> str:
        """The one that has the most free already, of those that are large enough; "" if there is none."""
        rooms = self.view.rooms(ask)
        if not ask.one_host:
            return ANYWHERE if sum(rooms.values()) >= ask.count else ""
        pools = [self.view.pools[sort] for sort in sorts]
        hosts = [host for host, room in rooms.items() if room >= ask.count]
        return max(hosts, key=lambda host: sum(pool.count(host) for pool in pools), default="")

    def _may_pass(self, request: Request, head: Head) -> bool:
        if head.request is request or self.bookings.active_for(request.groups, request.ask):
            return True
        priority = self.view.priority(request)
        if priority != head.priority:
            return priority > head.priority
        if head.far and self.now < head.last_pass:
            return True
        if self.now >= head.in_front:
            return False
        account = self.view.account(request)
        return account == head.account or (
            self.view.over_guarantee(account) + least_cost(request.ask) <= head.over_when_served
        )

    def _take(self, request: Request, grant: Grant) -> None:
        cost = self.view.cost(grant.uuids, grant.share_bytes)
        for subject in subjects(request.user, request.groups):
            self.view.held[subject] += cost
        for uuid in grant.uuids:
            self.view.occupy(uuid, grant.share_bytes)

    def _give_back(self, request: Request, grant: Grant) -> None:
        cost = self.view.cost(grant.uuids, grant.share_bytes)
        for subject in subjects(request.user, request.groups):
            self.view.held[subject] -= cost
            if not self.view.held[subject]:
                del self.view.held[subject]
        for uuid in grant.uuids:
            self.view.vacate(uuid, grant.share_bytes)


def _by_turn(line: Line) -> list[Turn]:
    turns = [(alike[0], alike, 0) for alike in line.values()]
    heapify(turns)
    return turns


def least_cost(ask: Ask) -> int:
    """What it counts at least, before it is known which device: MIG devices and shares count by memory."""
    return ask.count * WHOLE if ask.kind == Kind.GPU else 0
