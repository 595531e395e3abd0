"""What all parts of the ledger stand on: a transaction that knows the time and writes the audit log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from . import schema
from .database import Database
from .model import Lease, Request, State, Wait
from .records import EndReason, Standing, ask_of_json

OPEN = schema.requests.c.state != State.ENDED
LIVE = schema.holdings.c.until.is_(None)


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction that changes something. It commits as a whole or not at all."""

    connection: Connection
    now: float

    def note(self, action: str, subject: str, by: str, reason: str = "", /, **data: Any) -> None:
        """Write the change into the audit log; every change does."""
        self.connection.execute(
            insert(schema.audit).values(
                at=self.now, by=by, action=action, subject=subject, reason=reason, data=data
            )
        )

    def open_request(self, holder: str) -> Row[Any] | None:
        return self.connection.execute(
            select(schema.requests).where(schema.requests.c.holder == holder, OPEN)
        ).one_or_none()

    def set(self, request_id: int, **values: Any) -> None:
        self.connection.execute(
            update(schema.requests).where(schema.requests.c.id == request_id).values(**values)
        )

    def next_fence(self) -> int:
        """Larger than every one before, also than those that a database restored from a backup has forgotten.

        The clock sees to that: fences are unix seconds, or one more than the last where that is later.
        """
        last = self.connection.scalars(select(schema.ledger.c.last_fence)).one()
        fence = max(last + 1, int(self.now))
        self.connection.execute(update(schema.ledger).values(last_fence=fence))
        return fence

    def held(self, request_id: int) -> list[str]:
        return devices_of(self.connection, [request_id]).get(request_id, [])

    def end(self, row: Row[Any], reason: EndReason, by: str, detail: str = "") -> None:
        """Close a request; its devices are free when the transaction commits."""
        self.connection.execute(
            update(schema.holdings).where(schema.holdings.c.request_id == row.id, LIVE).values(until=self.now)
        )
        self.set(row.id, state=State.ENDED, ended_at=self.now, end_reason=reason, end_detail=detail)
        self.note(reason, row.holder, by, detail, request=row.id, fence=row.fence, was=row.state)


class Books:
    """The database and the clock of a ledger.

    Every method of a ledger is one transaction or a few, says so where it is more than one, and may be called from any
    thread and process.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Open the database, and bring its schema to this version.

        :param clock: unix seconds.
        :raises SchemaTooNew: a later version has written it.
        """
        self.database = Database(url)
        self.clock = clock

    def close(self) -> None:
        """Give the connections back; the ledger can be used again."""
        self.database.close()

    @contextmanager
    def _change(self, now: float | None = None) -> Iterator[Change]:
        with self.database.write() as connection:
            yield Change(connection, self.clock() if now is None else now)


def devices_of(connection: Connection, request_ids: Sequence[int]) -> dict[int, list[str]]:
    """Request → UUIDs that its lease has, or had when it ended, in the order in which they were granted."""
    found: dict[int, list[str]] = {}
    query = select(schema.holdings.c.request_id, schema.holdings.c.uuid).order_by(schema.holdings.c.id)
    if len(request_ids) <= 500:  # SQLite takes some thousand parameters; more is rather the whole table
        query = query.where(schema.holdings.c.request_id.in_(request_ids))
    for request_id, uuid in connection.execute(query):
        found.setdefault(request_id, []).append(uuid)
    return found


def request_of_row(row: Row[Any]) -> Request:
    return Request(
        id=row.id,
        holder=row.holder,
        user=row.user,
        ask=ask_of_json(row.ask),
        submitted=row.submitted,
        groups=tuple(row.groups),
        priority=row.priority,
        preemptible=row.preemptible,
        attained_seconds=row.attained_seconds,
        resumes=row.resumes,
        cpu_meanwhile=row.cpu_meanwhile,
    )


def lease_of_row(row: Row[Any], uuids: Sequence[str]) -> Lease:
    """What does not change from one moment to the next, so that a view that is kept finds it the same."""
    return Lease(
        id=row.id,
        fence=row.fence,
        holder=row.holder,
        user=row.user,
        ask=ask_of_json(row.ask),
        uuids=tuple(uuids),
        since=row.granted_at,
        groups=tuple(row.groups),
        priority=row.priority,
        preemptible=row.preemptible,
        attained_seconds=row.attained_seconds,
        share_bytes=row.share_bytes,
        state=State(row.state),
        cell_running=row.cell_running,
        suspending=row.suspending_since is not None,
        warned=row.warned_at is not None and row.warned_for_others,
    )


def standing_of_row(row: Row[Any], uuids: Sequence[str], now: float) -> Standing:
    granted = row.fence is not None
    busy_at = row.busy_at if row.busy_at is not None else row.claimed_at
    until = now if row.ended_at is None else row.ended_at
    return Standing(
        request=request_of_row(row),
        state=State(row.state),
        wait=wait_of_row(row),
        requeued=row.requeued or "",
        waits_for_cell=row.waits_for_cell,
        lease=lease_of_row(row, uuids) if granted else None,
        idle_seconds=0.0 if busy_at is None else max(0.0, until - busy_at),
        granted_at=row.granted_at,
        claimed_at=row.claimed_at,
        ended_at=row.ended_at,
        end_reason=EndReason(row.end_reason) if row.end_reason else None,
        end_detail=row.end_detail or "",
        warned_at=row.warned_at,
        warning=row.warning or "",
        warned_for_others=row.warned_at is not None and row.warned_for_others,
        reclaim_at=row.reclaim_at,
        snoozed_until=row.snoozed_until,
        snoozes=row.snoozes,
        suspending_since=row.suspending_since,
        suspend_reason=row.suspend_reason or "",
        comes_back=ask_of_json(row.comes_back) if row.comes_back else None,
        suspend_failed_at=row.suspend_failed_at,
        suspend_failure=row.suspend_failure or "",
        flag=row.flag or "",
    )


def wait_of_row(row: Row[Any]) -> Wait | None:
    if row.state != State.QUEUED or row.wait_position is None:
        return None
    return Wait(row.id, row.wait_position, row.wait_reason, row.wait_expected, bool(row.wait_impossible))
