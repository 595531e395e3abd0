"""Leases: granted, claimed, suspended, ended. The rule that no device has two holders is kept here and in the schema."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from . import schema
from .admin import UNKNOWN, Admin, host_target, put_cordon
from .books import LIVE, OPEN, Change, devices_of, lease_of_row, request_of_row, standing_of_row, wait_of_row
from .ends import with_ends
from .model import Ask, Cluster, Decision, Device, Grant, Kind, Lease, Rules, State
from .records import EndReason, HeldByAnother, NoLease, Standing, ask_as_json, ask_of_json
from .requests import Requests, enqueue, service_of
from .starts import nothing_runs

log = logging.getLogger(__name__)
SLOT_HELD_SECONDS = Rules().slot_held_seconds
GIVEN = schema.requests.c.state.in_([State.GRANTED, State.RUNNING])


class Stale(Exception):
    """The world has changed since the decision was made."""


class Leases(Requests, Admin):
    """The ledger's methods about leases."""

    def cluster(
        self, devices: Iterable[Device], now: float | None = None, rules: Rules | None = None
    ) -> Cluster:
        """All that the policy looks at, of one moment: `devices` as the agents tell, the rest from the ledger."""
        now = self.clock() if now is None else now
        with self.database.read() as connection:
            rows = connection.execute(
                select(schema.requests).where(OPEN).order_by(schema.requests.c.id)
            ).all()
            held = devices_of(connection, [row.id for row in rows])
            leases = tuple(lease_of_row(row, held[row.id]) for row in rows if row.fence is not None)
            known = tuple(_shared_later(self._with_admins_marks(connection, devices), leases))
            since = min([lease.since for lease in leases] + [now])
            bookings = list(self._reservations(connection, since))
            leases = with_ends(leases, known, bookings)
            return Cluster(
                devices=known,
                leases=leases,
                queue=tuple(
                    request_of_row(row) for row in rows if row.fence is None and not row.waits_for_cell
                ),
                limits=tuple(self._limits(connection)),
                reservations=tuple(booking for booking in bookings if booking.end > now),
                rules=rules or Rules(),
            )

    def apply(self, decision: Decision, now: float | None = None) -> list[Lease]:
        """Make the decision's grants, each in a transaction of its own, and write down why the others wait.

        A grant that no longer fits (request cancelled, device taken, cordoned or unshared since the decision was
        made) is left out; the next decision sees why. Several schedulers at once do no harm.

        :returns: the new leases. Suspensions are the caller's to carry out.
        """
        granted = []
        for grant in decision.grants:
            try:
                with self._change(now) as change:
                    granted.append(_grant(change, grant))
            except (Stale, IntegrityError) as reason:
                log.info("Request %s is not granted %s: %s", grant.request_id, grant.uuids, reason)
        self._note_waits(decision.waits)
        return granted

    def claim(self, holder: str, by: str = "spawner", *, fence: int | None = None) -> Lease:
        """The session's server starts with its lease. Claiming again is fine.

        :param fence: of the grant that is meant: one that was made since, of other devices, is left alone.
        :raises NoLease: nothing is granted to it, or another lease; the message says what it waits for.
        """
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or row.state == State.QUEUED:
                raise _nothing_granted(holder, row)
            if fence not in (None, row.fence):
                raise NoLease(f"The grant {fence} of {holder} was taken back; it has {row.fence} now")
            if row.state == State.GRANTED:
                values = {"state": State.RUNNING, "claimed_at": change.now, "busy_at": change.now}
                change.set(row.id, **values)
                change.note("claimed", holder, by, request=row.id, fence=row.fence)
                row = change.open_request(holder)
                assert row is not None
            return lease_of_row(row, change.held(row.id))

    def release(
        self,
        holder: str,
        reason: EndReason | str = EndReason.RELEASED,
        *,
        by: str = "spawner",
        detail: str = "",
        fence: int | None = None,
    ) -> Standing | None:
        """End the lease of a session whose container is gone; its devices are free. Repeating is fine.

        A session that was being suspended ends as suspended whatever `reason` says, and queues again in the same
        transaction where `begin_suspend` said with what. A request that only waits, or whose server has not begun to
        start, is left alone: `cancel` ends it.

        :param fence: end it only if it is still this lease (or an older one): a late message ends no newer lease.
        :returns: how the lease ended, or None if there was none.
        """
        reason = EndReason(reason)
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or row.state != State.RUNNING or (fence is not None and row.fence > fence):
                return None
            if row.suspending_since is not None:
                reason, detail = EndReason.SUSPENDED, detail or row.suspend_reason or ""
            change.end(row, reason, by, detail)
            if row.suspending_since is not None and row.comes_back:
                _come_back(change, row, by)
            return _standing(change, row.id)

    def give_up(self, holder: str, reason: str, by: str) -> Standing | None:
        """End the lease of a session that nobody can stop now (its host does not answer).

        Its devices stay cordoned until `reconcile` sees that its container is gone. None if it has no lease.
        """
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or row.fence is None:
                return None
            change.end(row, EndReason.LOST, by, reason)
            for uuid in change.held(row.id):
                why = f"{UNKNOWN}: {holder} was given up while nobody could see whether it still runs"
                put_cordon(change, uuid, why, by)
            nothing_runs(change, schema.starts.c.holder == holder)
            return _standing(change, row.id)

    def stop_wanted(self, holder: str, by: str, reason: str = "its session is stopped") -> None:
        """Somebody stops the session or takes it away, so nothing of it shall come back by itself.

        A suspend that is under way becomes an ordinary stop, and a request that would start it again ends.
        """
        if not self.cancel(holder, by, reason):
            self.abort_suspend(holder, reason, by)

    def withdraw(self, user: str, by: str, reason: str) -> None:
        """The same for all sessions of a user."""
        for standing in self.standings(granted_only=False):
            if standing.request.user == user:
                self.stop_wanted(standing.request.holder, by, reason)

    def forget_host(self, host: str, by: str) -> bool:
        """A host has left for good: its devices are gone (history keeps them), and so are its cordons and its agent; nothing
        of any session counts as being there. False if nobody knows of it.

        :raises HeldByAnother: a lease still has a device of it.
        """
        with self._change() as change:
            d, c, h = schema.devices.c, schema.cordons.c, schema.holdings.c
            rows = change.connection.execute(select(d.uuid, d.parent).where(d.host == host, d.present)).all()
            here = [row.uuid for row in rows]
            targets = {host_target(host), *here, *(row.parent for row in rows if row.parent)}
            held = (
                select(schema.requests.c.holder)
                .join(schema.holdings, h.request_id == schema.requests.c.id)
                .where(LIVE, h.uuid.in_(here))
            )
            if holder := change.connection.scalar(held.limit(1)):
                raise HeldByAnother(
                    f"{holder} has GPUs of {host}: drain it, or give its sessions up where it does not answer"
                )
            gone = change.connection.execute(
                delete(schema.agents).where(schema.agents.c.host == host)
            ).rowcount
            gone += change.connection.execute(
                update(schema.devices).where(d.uuid.in_(here)).values(present=False)
            ).rowcount
            gone += change.connection.execute(
                delete(schema.cordons).where(c.target.in_(sorted(targets)))
            ).rowcount
            nothing_runs(change, schema.starts.c.host == host)
            if gone:
                change.note("host forgotten", host_target(host), by, devices=here)
            return bool(gone)

    def expire(
        self,
        now: float | None = None,
        held_seconds: float = SLOT_HELD_SECONDS,
        *,
        spared: Collection[str] = (),
    ) -> list[Lease]:
        """End leases that were granted `held_seconds` ago and whose server has not begun to start.

        :param spared: holders whose start is under way outside the ledger.
        """
        with self._change(now) as change:
            c = schema.requests.c
            late = and_(
                c.state == State.GRANTED,
                c.granted_at <= change.now - held_seconds,
                c.holder.not_in(spared),
            )
            rows = change.connection.execute(select(schema.requests).where(late)).all()
            ended = [lease_of_row(row, change.held(row.id)) for row in rows]
            for row in rows:
                change.end(
                    row, EndReason.EXPIRED, "scheduler", f"its server did not start within {held_seconds:g} s"
                )
            return ended

    def revoke(self, holder: str, fence: int, reason: str, by: str, *, until_cell_ends: bool = False) -> bool:
        """Take back a grant whose server has not begun to start; the request waits again, at its old place.

        False if the session has not exactly this grant.

        :param until_cell_ends: grant it nothing more before `offer_again`.
        """
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or row.state != State.GRANTED or row.fence != fence:
                return False
            change.connection.execute(delete(schema.holdings).where(schema.holdings.c.request_id == row.id))
            change.set(
                row.id,
                state=State.QUEUED,
                fence=None,
                granted_at=None,
                share_bytes=0,
                wait_position=None,  # of before the grant
                requeued=reason,
                waits_for_cell=until_cell_ends,
            )
            change.note("revoked", holder, by, reason, request=row.id, fence=fence)
            return True

    def waiting_for_cells(self) -> list[Standing]:
        """Requests that are granted nothing until the cell of their session has ended."""
        with self.database.read() as connection:
            query = select(schema.requests).where(
                schema.requests.c.state == State.QUEUED, schema.requests.c.waits_for_cell
            )
            return [standing_of_row(row, (), self.clock()) for row in connection.execute(query)]

    def offer_again(self, holder: str, reason: str, by: str = "scheduler") -> bool:
        """Its cell has ended: it is served again when its turn comes. True if that is new."""
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or not row.waits_for_cell:
                return False
            change.set(row.id, waits_for_cell=False)
            change.note("offered again", holder, by, reason, request=row.id)
            return True

    def leases(self) -> list[Lease]:
        """All leases that hold a device now, the oldest first."""
        return [standing.lease for standing in self.standings() if standing.lease]

    def standings(self, granted_only: bool = True) -> list[Standing]:
        """All open requests with all that is known of them, the oldest grant first."""
        with self.database.read() as connection:
            query = select(schema.requests).where(GIVEN if granted_only else OPEN)
            rows = connection.execute(query.order_by(schema.requests.c.fence, schema.requests.c.id)).all()
            held = devices_of(connection, [row.id for row in rows])
            return [standing_of_row(row, held.get(row.id, ()), self.clock()) for row in rows]

    def adopt(
        self,
        holder: str,
        user: str,
        uuids: Iterable[str],
        fence: int = 0,
        *,
        ask: Ask | None = None,
        groups: Collection[str] = (),
        preemptible: bool = True,
        share_bytes: int = 0,
        by: str = "reconcile",
    ) -> Lease:
        """Write down the lease that a running container's labels prove, where the ledger does not know it.

        A request of the session that waits or is granted gives way. The label's fence stays, so that a session that
        is adopted may go on writing; 0 (labels of version 0.1) takes a new one.

        :raises HeldByAnother: a device is another session's.
        """
        uuids = list(uuids)
        with self._change() as change:
            row = change.open_request(holder)
            if row is not None and row.state == State.RUNNING:
                if sorted(change.held(row.id)) != sorted(uuids):
                    raise HeldByAnother(f"{holder} runs with {uuids}, the ledger says {change.held(row.id)}")
                if groups and not row.groups:
                    row = _set_groups(change, row, groups, by)
                return lease_of_row(row, change.held(row.id))
            if row is not None:
                change.end(row, EndReason.CANCELLED, by, "its session runs already")
            request = enqueue(
                change,
                holder=holder,
                user=user,
                ask=ask or _ask_for(uuids, share_bytes),
                groups=sorted(groups),
                priority=0,
                preemptible=preemptible,
                resumes=False,
                cpu_meanwhile=False,
                attained_seconds=0.0,
                by=by,
            )
            taken = _taken(change, uuids)
            if any(share_bytes == 0 or other.share_bytes == 0 for other in taken):
                others = ", ".join(sorted({f"{other.uuid} is {other.holder}'s" for other in taken}))
                raise HeldByAnother(f"{holder} runs with devices of others: {others}")
            return _hold(change, request.id, uuids, share_bytes, by, "its container runs", "adopted", fence)

    def raise_fence(self, at_least: int, by: str = "reconcile", reason: str = "") -> bool:
        """Let every later grant have a larger fence than `at_least`. True if that changed something."""
        with self._change() as change:
            last = change.connection.scalars(select(schema.ledger.c.last_fence)).one()
            if last >= at_least:
                return False
            change.connection.execute(update(schema.ledger).values(last_fence=at_least))
            change.note("fence raised", "ledger", by, reason, fence=at_least, was=last)
            return True

    def last_fence(self) -> int:
        with self.database.read() as connection:
            return connection.scalars(select(schema.ledger.c.last_fence)).one()

    def flag(self, holder: str, why: str, by: str = "reconcile") -> bool:
        """Tell the admin what nobody could decide about a lease; "" takes it back. True if that is new."""
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or (row.flag or "") == why:
                return False
            change.set(row.id, flag=why)
            change.note("flagged" if why else "flag removed", holder, by, why or row.flag, request=row.id)
            return True

    # Warnings and suspends ------------------------------------------------------------------------------

    def warn(
        self, holder: str, reason: str, reclaim_at: float, by: str = "scheduler", *, for_others: bool = False
    ) -> bool:
        """The session will be suspended at `reclaim_at`; its page shows it. False if it has no running lease.

        :param for_others: it makes room for somebody who waits, and does not just idle.
        """
        with self._change() as change:
            row = _running(change, holder)
            if row is None:
                return False
            change.set(
                row.id,
                warned_at=change.now,
                warning=reason,
                warned_for_others=for_others,
                reclaim_at=reclaim_at,
            )
            change.note("warned", holder, by, reason, request=row.id, reclaim_at=reclaim_at)
            return True

    def snooze(self, holder: str, until: float, by: str) -> Standing | None:
        """Put the warning off. How often and how long is the caller's rule (`Standing.snoozes` counts)."""
        with self._change() as change:
            row = _running(change, holder)
            if row is None:
                return None
            change.set(
                row.id,
                warned_at=None,
                warning=None,
                reclaim_at=None,
                snoozed_until=until,
                snoozes=row.snoozes + 1,
            )
            change.note("snoozed", holder, by, request=row.id, until=until)
            return _standing(change, row.id)

    def withdraw_warning(self, holder: str, reason: str, by: str = "scheduler") -> bool:
        """The session works again, or is not needed any more. True if it had been warned."""
        with self._change() as change:
            row = _running(change, holder)
            if row is None or row.warned_at is None:
                return False
            change.set(row.id, warned_at=None, warning=None, reclaim_at=None)
            change.note("warning withdrawn", holder, by, reason, request=row.id)
            return True

    def begin_suspend(
        self, holder: str, reason: str, comes_back: Ask | None = None, by: str = "scheduler"
    ) -> bool:
        """From now on the policy counts the lease as on its way out. False if there is none that runs.

        :param comes_back: with what the session queues again by itself once its container is gone (preempted, moved,
            drained); None where its user comes for it (reclaimed while idle).
        """
        if comes_back and comes_back.kind is Kind.NONE:
            raise ValueError(
                "A session that goes on without a GPU does not queue: start it when it has stopped"
            )
        with self._change() as change:
            row = _running(change, holder)
            if row is None:
                return False
            change.set(
                row.id,
                suspending_since=change.now,
                suspend_reason=reason,
                comes_back=ask_as_json(comes_back) if comes_back else None,
                suspend_failed_at=None,
                suspend_failure=None,
            )
            change.note("suspending", holder, by, reason, request=row.id, fence=row.fence)
            return True

    def abort_suspend(
        self, holder: str, reason: str, by: str = "scheduler", *, stays_warned: bool = False
    ) -> bool:
        """The session could not be made durable (or works again): it keeps its lease, and the admin sees why.

        :param stays_warned: only a cell has begun meanwhile: the next pause ends the session, without a new warning.
        """
        with self._change() as change:
            row = _running(change, holder)
            if row is None or row.suspending_since is None:
                return False
            told = {} if stays_warned else {"warned_at": None, "warning": None, "reclaim_at": None}
            change.set(
                row.id,
                suspending_since=None,
                suspend_reason=None,
                comes_back=None,
                suspend_failed_at=change.now,
                suspend_failure=reason,
                **told,
            )
            change.note("suspend aborted", holder, by, reason, request=row.id, fence=row.fence)
            return True


def _shared_later(devices: Iterable[Device], leases: Iterable[Lease]) -> Iterator[Device]:
    """A device that was marked as shared while somebody has it as a whole is shared when that lease ends."""
    whole = {uuid for lease in leases if not lease.share_bytes for uuid in lease.uuids}
    for device in devices:
        later = device.shareable_bytes and device.uuid in whole
        yield dataclasses.replace(device, shareable_bytes=0) if later else device


def _grant(change: Change, grant: Grant) -> Lease:
    """:raises Stale: it does not fit any more."""
    row = change.connection.execute(
        select(schema.requests).where(schema.requests.c.id == grant.request_id)
    ).one_or_none()
    if row is None or row.state != State.QUEUED or row.waits_for_cell:
        raise Stale("it does not wait any more, or for its cell")
    ask = ask_of_json(row.ask)
    share_bytes = (grant.share_bytes or ask.share_bytes) if ask.kind is Kind.SHARE else 0
    if len(set(grant.uuids)) != ask.count or len(grant.uuids) != ask.count:
        raise Stale(f"{ask.count} devices are asked for")
    _refuse_cordoned(change, grant.uuids)
    _refuse_taken(change, grant.uuids, share_bytes)
    return _hold(change, row.id, grant.uuids, share_bytes, "scheduler", grant.reason)


def _refuse_cordoned(change: Change, uuids: Iterable[str]) -> None:
    d = schema.devices.c
    targets = set(uuids)
    for device in change.connection.execute(select(schema.devices).where(d.uuid.in_(list(uuids)))):
        targets |= {host_target(device.host), device.parent} - {""}
    found = change.connection.execute(
        select(schema.cordons).where(schema.cordons.c.target.in_(sorted(targets)))
    ).first()
    if found:
        raise Stale(f"{found.target} takes no new leases: {found.reason}")


def _refuse_taken(change: Change, uuids: tuple[str, ...], share_bytes: int) -> None:
    taken = _taken(change, uuids)
    if not share_bytes:
        if taken:
            raise Stale(f"{taken[0].uuid} is {taken[0].holder}'s")
        return
    shareable = change.connection.scalar(
        select(schema.sharing.c.shareable_bytes).where(schema.sharing.c.uuid == uuids[0])
    )
    if any(other.share_bytes == 0 for other in taken):
        raise Stale(f"{uuids[0]} is {taken[0].holder}'s as a whole")
    if sum(other.share_bytes for other in taken) + share_bytes > (shareable or 0):
        raise Stale(f"{uuids[0]} has not so much memory to share")


def _taken(change: Change, uuids: Iterable[str]) -> list[Row[Any]]:
    """Live holdings of these devices, of the GPUs that they are part of, and of their MIG devices."""
    h, d = schema.holdings.c, schema.devices.c
    uuids = list(uuids)
    parents = select(d.parent).where(d.uuid.in_(uuids), d.parent != "")
    children = select(d.uuid).where(d.parent.in_(uuids))
    query = (
        select(h.uuid, h.slot, h.share_bytes, schema.requests.c.holder)
        .join(schema.requests, schema.requests.c.id == h.request_id)
        .where(LIVE, or_(h.uuid.in_(uuids), h.uuid.in_(parents), h.uuid.in_(children)))
    )
    return list(change.connection.execute(query.order_by(h.id)))


def _hold(
    change: Change,
    request_id: int,
    uuids: Iterable[str],
    share_bytes: int,
    by: str,
    reason: str,
    action: str = "granted",
    fence: int = 0,
) -> Lease:
    """Put devices into the request's hands. An adopted one runs already, a granted one does not."""
    uuids = list(uuids)
    for uuid in uuids:
        change.connection.execute(
            insert(schema.holdings).values(
                request_id=request_id,
                uuid=uuid,
                slot=_free_slot(change, uuid) if share_bytes else 0,
                share_bytes=share_bytes,
                part=_part(change, uuid, share_bytes),
                since=change.now,
            )
        )
    fence = fence or change.next_fence()
    runs = {"claimed_at": change.now, "busy_at": change.now} if action == "adopted" else {}
    change.set(
        request_id,
        state=State.RUNNING if runs else State.GRANTED,
        fence=fence,
        granted_at=change.now,
        share_bytes=share_bytes,
        requeued=None,
        **runs,
    )
    row = change.connection.execute(select(schema.requests).where(schema.requests.c.id == request_id)).one()
    change.note(
        action, row.holder, by, reason, request=row.id, fence=fence, uuids=uuids, share_bytes=share_bytes
    )
    return lease_of_row(row, uuids)


def _free_slot(change: Change, uuid: str) -> int:
    h = schema.holdings.c
    used = set(change.connection.scalars(select(h.slot).where(h.uuid == uuid, LIVE)))
    return next(slot for slot in range(1, len(used) + 2) if slot not in used)


def _part(change: Change, uuid: str, share_bytes: int) -> float:
    """How many GPUs the holding counts as: a share's or MIG device's part of the memory, otherwise 1."""
    d = schema.devices.c
    device = change.connection.execute(select(schema.devices).where(d.uuid == uuid)).one_or_none()
    if device is None or not device.memory_bytes:
        return 1.0
    if share_bytes:
        return min(1.0, share_bytes / device.memory_bytes)
    if device.parent:
        siblings = select(d.memory_bytes).where(d.parent == device.parent, d.present)
        return device.memory_bytes / max(device.memory_bytes, sum(change.connection.scalars(siblings)))
    return 1.0


def _come_back(change: Change, row: Row[Any], by: str) -> None:
    enqueue(
        change,
        holder=row.holder,
        user=row.user,
        ask=ask_of_json(row.comes_back),
        groups=row.groups,
        priority=row.priority,
        preemptible=row.preemptible,
        resumes=True,
        cpu_meanwhile=False,
        attained_seconds=service_of(row, change.held(row.id), change.now),
        by=by,
    )


def _set_groups(change: Change, row: Row[Any], groups: Iterable[str], by: str) -> Row[Any]:
    """The request with its groups."""
    change.set(row.id, groups=sorted(groups))
    change.note("groups", row.holder, by, request=row.id, groups=sorted(groups))
    changed = change.open_request(row.holder)
    assert changed is not None
    return changed


def _ask_for(uuids: list[str], share_bytes: int) -> Ask:
    if share_bytes:
        return Ask(Kind.SHARE, share_bytes=share_bytes)
    return Ask(Kind.MIG if uuids and uuids[0].startswith("MIG-") else Kind.GPU, count=len(uuids))


def _running(change: Change, holder: str) -> Row[Any] | None:
    row = change.open_request(holder)
    return row if row is not None and row.state == State.RUNNING else None


def _standing(change: Change, request_id: int) -> Standing:
    row = change.connection.execute(select(schema.requests).where(schema.requests.c.id == request_id)).one()
    return standing_of_row(row, change.held(request_id), change.now)


def _nothing_granted(holder: str, row: Row[Any] | None) -> NoLease:
    if row is None:
        return NoLease(
            f"No GPU is granted to {holder}: ask for one first (the spawn page, or the API's queue)"
        )
    wait = wait_of_row(row)
    why = wait.reason if wait else "it has just been queued"
    return NoLease(f"No GPU is granted to {holder} yet: {why}", wait)
