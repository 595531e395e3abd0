"""The queue: who asks for what, and where each request stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from . import schema
from .books import OPEN, Books, Change, devices_of, request_of_row, standing_of_row, wait_of_row
from .model import Ask, Kind, Request, State, Wait
from .records import EndReason, OpenRequest, Standing, ask_as_json

ESTIMATE_STEP_SECONDS = 30
"""An estimate that moves by less is not written down again."""


class Requests(Books):
    """The ledger's methods about requests."""

    def submit(
        self,
        holder: str,
        user: str,
        ask: Ask,
        *,
        groups: Iterable[str] = (),
        priority: int = 0,
        preemptible: bool = True,
        resumes: bool = False,
        cpu_meanwhile: bool = False,
        by: str = "",
    ) -> Request:
        """Put a session into the queue. The same ask again gives the request that is there already.

        A session that resumes keeps the GPU time that it has had (`attained_seconds`); a new one starts at zero.

        :param by: who did it, for the audit log; default: the user.
        :raises OpenRequest: the session has a lease, or waits with another ask (cancel that first).
        :raises ValueError: `ask` needs no lease, or makes no sense.
        """
        check_ask(ask)
        with self._change() as change:
            found = change.open_request(holder)
            if found:
                return _same_or_refused(found, ask)
            return enqueue(
                change,
                holder=holder,
                user=user,
                ask=ask,
                groups=sorted(groups),
                priority=priority,
                preemptible=preemptible,
                resumes=resumes,
                cpu_meanwhile=cpu_meanwhile,
                attained_seconds=_attained(change, holder) if resumes else 0.0,
                by=by or f"user:{user}",
            )

    def cancel(self, holder: str, by: str = "", reason: str = "") -> Request | None:
        """End a request whose server has not begun to start; None if there is none. Repeating is fine."""
        with self._change() as change:
            row = change.open_request(holder)
            if row is None or row.state == State.RUNNING:
                return None
            change.end(row, EndReason.CANCELLED, by or f"user:{row.user}", reason)
            return request_of_row(row)

    def queue(self) -> list[Standing]:
        """Requests that wait, in the order of the last decision; the newest, not yet decided, come last."""
        c = schema.requests.c
        order = func.coalesce(c.wait_position, 2**31 - 1)
        with self.database.read() as connection:
            query = select(schema.requests).where(c.state == State.QUEUED)
            rows = connection.execute(query.order_by(order, c.submitted, c.id))
            return [standing_of_row(row, (), self.clock()) for row in rows]

    def request_of(self, holder: str) -> Standing | None:
        """The session's open request; None if it neither waits nor holds anything."""
        with self.database.read() as connection:
            row = connection.execute(
                select(schema.requests).where(schema.requests.c.holder == holder, OPEN)
            ).one_or_none()
            if row is None:
                return None
            return standing_of_row(row, devices_of(connection, [row.id]).get(row.id, ()), self.clock())

    def request(self, request_id: int) -> Standing | None:
        """A request by its number, open or ended."""
        with self.database.read() as connection:
            row = connection.execute(
                select(schema.requests).where(schema.requests.c.id == request_id)
            ).one_or_none()
            if row is None:
                return None
            return standing_of_row(row, devices_of(connection, [row.id]).get(row.id, ()), self.clock())

    def set_priority(self, holder: str, priority: int, by: str, reason: str = "") -> bool:
        """Larger goes first. False if the session has no open request."""
        with self._change() as change:
            row = change.open_request(holder)
            if row is None:
                return False
            change.set(row.id, priority=priority)
            change.note("priority", holder, by, reason, priority=priority, was=row.priority)
            return True

    def _note_waits(self, waits: Mapping[int, Wait]) -> None:
        """Write down why each request waits, where that has changed. No change in the audit log's sense."""
        query = select(schema.requests).where(schema.requests.c.state == State.QUEUED)
        with self.database.read() as connection:
            known = {row.id: wait_of_row(row) for row in connection.execute(query)}
        news = [
            wait
            for wait in waits.values()
            if wait.request_id in known and _differs(known[wait.request_id], wait)
        ]
        if not news:
            return
        with self._change() as change:
            for wait in news:
                change.connection.execute(
                    update(schema.requests)
                    .where(schema.requests.c.id == wait.request_id)
                    .values(
                        wait_position=wait.position,
                        wait_reason=wait.reason,
                        wait_expected=wait.expected,
                        wait_impossible=wait.impossible,
                    )
                )


def check_ask(ask: Ask) -> None:
    """:raises ValueError: no lease could answer it."""
    if ask.kind is Kind.NONE:
        raise ValueError("A session without a GPU needs no lease: start it at once")
    if ask.count < 1:
        raise ValueError(f"count = {ask.count}: ask for at least one device")
    if ask.kind is Kind.SHARE and (ask.count != 1 or ask.share_bytes <= 0):
        raise ValueError(
            f"A share is one and has memory: count = {ask.count}, share_bytes = {ask.share_bytes}"
        )


def enqueue(change: Change, *, holder: str, user: str, ask: Ask, by: str, **values: Any) -> Request:
    """Add a request in the caller's transaction."""
    row = change.connection.execute(
        insert(schema.requests)
        .values(
            holder=holder, user=user, ask=ask_as_json(ask), submitted=change.now, state=State.QUEUED, **values
        )
        .returning(schema.requests)
    ).one()
    change.note("submitted", holder, by, request=row.id, ask=row.ask, resumes=row.resumes)
    return request_of_row(row)


def service_of(row: Row[Any], uuids: Iterable[str], until: float) -> float:
    """GPU-seconds that a session has had until `until`, by its present or last request."""
    if row.granted_at is None:
        return row.attained_seconds
    return row.attained_seconds + max(0.0, until - row.granted_at) * len(list(uuids))


def _attained(change: Change, holder: str) -> float:
    c = schema.requests.c
    last = change.connection.execute(
        select(schema.requests).where(c.holder == holder).order_by(c.id.desc()).limit(1)
    ).one_or_none()
    if last is None:
        return 0.0
    return service_of(last, change.held(last.id), last.ended_at)


def _same_or_refused(row: Row[Any], ask: Ask) -> Request:
    known = request_of_row(row)
    if row.state == State.RUNNING:
        raise OpenRequest(f"{row.holder} has a lease already: stop its server first")
    if known.ask != ask:
        raise OpenRequest(f"{row.holder} is {row.state} with another wish: cancel that first")
    return known


def _differs(known: Wait | None, wait: Wait) -> bool:
    if known is None or (known.position, known.reason, known.impossible) != (
        wait.position,
        wait.reason,
        wait.impossible,
    ):
        return True
    if known.expected is None or wait.expected is None:
        return known.expected != wait.expected
    return abs(known.expected - wait.expected) >= ESTIMATE_STEP_SECONDS
