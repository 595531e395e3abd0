"""What reservations keep free: counts, not certain devices, so that a booking never moves anybody."""

from __future__ import annotations

from collections.abc import Iterable

from .free import Sort
from .model import Ask, Kind, Lease, Request, Reservation
from .view import View


class Bookings:
    """The reservations that matter at `now`: within their time, or shortly before it."""

    def __init__(self, view: View, now: float) -> None:
        self.view = view
        self.now = now
        lead = view.rules.booking_lead_seconds
        self.near = [r for r in view.reservations if r.start - lead <= now < r.end]
        self._kept: dict[tuple[frozenset[str], bool], dict[Sort, int]] = {}
        self._members: dict[str, list[Lease]] = {}
        self._endable: dict[int, int] = {}

    def active_for(self, groups: Iterable[str], ask: Ask) -> Reservation | None:
        """The booking within its time that a request of these groups draws on."""
        for booking in self.near:
            now_theirs = booking.group in groups and booking.start <= self.now and ask.kind == Kind.GPU
            if now_theirs and self.need(booking) >= ask.count and self._overlaps(booking, ask):
                return booking
        return None

    def is_drawn_on_by(self, lease: Lease) -> bool:
        """Whether a booking within its time would be short of GPUs without this lease."""
        return any(
            booking.group in lease.groups
            and booking.start <= self.now
            and (held := self._held(lease, booking)) > 0
            and self._short_of(booking) + held > 0
            for booking in self.near
        )

    def kept_from(self, request: Request) -> dict[Sort, int]:
        """Free devices that this request may not have, by sort."""
        if not self.near:
            return {}
        key = (frozenset(request.groups) & {b.group for b in self.near}, request.preemptible)
        if key not in self._kept:
            self._kept[key] = self._count_kept(*key)
        return self._kept[key]

    def forget(self) -> None:
        """Count anew: a grant has changed what is held."""
        self._kept.clear()

    def need(self, booking: Reservation) -> int:
        """GPUs of the booking that its group does not hold yet."""
        return max(0, self._short_of(booking))

    def _short_of(self, booking: Reservation) -> int:
        """The same, below 0 where the group holds more."""
        held = sum(self._held(lease, booking) for lease in self._leases_of(booking.group))
        for other in self.near:  # what another booking of the group counts already
            if other is booking:
                break
            if other.group == booking.group:
                held -= min(held, other.count)
        return booking.count - held

    def granted(self, groups: Iterable[str], uuids: tuple[str, ...]) -> None:
        """A grant of this decision counts as held."""
        ghost = Lease(0, 0, "", "", Ask(Kind.GPU), uuids, self.now, tuple(groups))
        for group in {booking.group for booking in self.near} & set(ghost.groups):
            self._leases_of(group).append(ghost)
        self.forget()

    def _count_kept(self, groups: frozenset[str], preemptible: bool) -> dict[Sort, int]:
        kept: dict[Sort, int] = {}
        for booking in self.near:
            if booking.group in groups or (
                booking.start > self.now and self._ends_before(booking, preemptible)
            ):
                continue
            need = self.need(booking) - (self._can_be_ended(booking) if booking.start > self.now else 0)
            for sort in sorted(self._sorts(booking), key=lambda s: -self.view.pools[s].free):
                part = max(0, min(need, self.view.pools[sort].free - kept.get(sort, 0)))
                if part:
                    kept[sort] = kept.get(sort, 0) + part
                    need -= part
        return kept

    def _ends_before(self, booking: Reservation, preemptible: bool) -> bool:
        """Whether a session that starts now can be suspended in time for the booking."""
        rules = self.view.rules
        ready = self.now + rules.least_run_seconds + rules.suspend_cost_seconds
        return rules.preempt and preemptible and ready <= booking.start

    def _can_be_ended(self, booking: Reservation) -> int:
        """GPUs of others that are free by the booking's start or can be made so."""
        if booking.id not in self._endable:
            rules, sorts = self.view.rules, set(self._sorts(booking))
            self._endable[booking.id] = sum(
                self._of_sorts(lease, sorts)
                for lease in self.view.leases.values()
                if booking.group not in lease.groups
                and (
                    lease.suspending or _ends_by(lease, booking.start, rules.preempt, rules.least_run_seconds)
                )
            )
        return self._endable[booking.id]

    def _leases_of(self, group: str) -> list[Lease]:
        if group not in self._members:
            leases = self.view.leases.values()
            self._members[group] = [
                lease for lease in leases if group in lease.groups and not lease.suspending
            ]
        return self._members[group]

    def _held(self, lease: Lease, booking: Reservation) -> int:
        return self._of_sorts(lease, set(self._sorts(booking)))

    def _of_sorts(self, lease: Lease, sorts: set[Sort]) -> int:
        places = [self.view.position.get(uuid) for uuid in lease.uuids]
        return sum(at is not None and self.view.sorts[at] in sorts for at in places)

    def _sorts(self, booking: Reservation) -> tuple[Sort, ...]:
        return self.view.matching(Ask(Kind.GPU, model=booking.model))

    def _overlaps(self, booking: Reservation, ask: Ask) -> bool:
        return not set(self._sorts(booking)).isdisjoint(self.view.matching(ask))


def _ends_by(lease: Lease, start: float, preempt: bool, least_run_seconds: float) -> bool:
    if not lease.preemptible:
        return False
    if lease.ends is not None and lease.ends <= start:
        return True
    return preempt and lease.since + least_run_seconds <= start
