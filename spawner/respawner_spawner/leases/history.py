"""What was: the audit log, ended requests, and the readings that accounting adds up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

from sqlalchemy import insert, select, update

from . import schema
from .books import LIVE, Books, Change, devices_of, standing_of_row
from .model import State
from .records import Entry, Standing, Use

LONGEST_GAP_SECONDS = 120.0
"""A reading stands for the time since the one before, but not for more: what nobody saw is not counted as used."""


class History(Books):
    """The ledger's methods about the past."""

    def audit(
        self,
        subject: str | None = None,
        *,
        since: float | None = None,
        before_id: int | None = None,
        most: int = 100,
    ) -> list[Entry]:
        """Changes, the newest first.

        :param before_id: the last `Entry.id` of the page before.
        """
        a = schema.audit.c
        query = select(schema.audit).order_by(a.id.desc()).limit(most)
        if subject is not None:
            query = query.where(a.subject == subject)
        if since is not None:
            query = query.where(a.at >= since)
        if before_id is not None:
            query = query.where(a.id < before_id)
        with self.database.read() as connection:
            return [Entry(*row) for row in connection.execute(query)]

    def note(self, action: str, subject: str, by: str, reason: str = "") -> None:
        """Write something into the audit log that changes nothing in the ledger (an admin stopped a server)."""
        with self._change() as change:
            change.note(action, subject, by, reason)

    def ended(self, holder: str | None = None, most: int = 100) -> list[Standing]:
        """Requests that have ended, the last first."""
        r = schema.requests.c
        query = select(schema.requests).where(r.state == State.ENDED).order_by(r.ended_at.desc(), r.id.desc())
        if holder is not None:
            query = query.where(r.holder == holder)
        with self.database.read() as connection:
            rows = connection.execute(query.limit(most)).all()
            held = devices_of(connection, [row.id for row in rows])
            return [standing_of_row(row, held.get(row.id, ()), self.clock()) for row in rows]

    def note_activity(
        self, holder: str, idle_seconds: float, cell_running: bool = False, now: float | None = None
    ) -> bool:
        """How long neither GPU nor kernel has worked, as the session's watcher sees it. False without a running lease.

        Like all readings it stands in no audit log.
        """
        with self._change(now) as change:
            row = change.open_request(holder)
            if row is None or row.state != State.RUNNING:
                return False
            change.set(row.id, busy_at=change.now - max(0.0, idle_seconds), cell_running=cell_running)
            return True

    def note_use(self, readings: Iterable[Use], now: float | None = None) -> int:
        """Add utilisation to the books: each reading counts since the last one of its session and device.

        :returns: how many belonged to a lease.
        """
        readings = list(readings)
        with self._change(now) as change:
            r, h = schema.requests.c, schema.holdings.c
            live = change.connection.execute(
                select(r.holder, h.uuid, h.request_id, h.since)
                .join(schema.holdings, h.request_id == r.id)
                .where(LIVE)
            )
            known = {(row.holder, row.uuid): row for row in live}
            found = [(known[key], use) for use in readings if (key := (use.holder, use.uuid)) in known]
            for holding, use in found:
                _add_use(change, holding.request_id, holding.since, use)
            return len(found)


def _add_use(change: Change, request_id: int, since: float, use: Use) -> None:
    u = schema.use.c
    mine = (u.request_id == request_id, u.uuid == use.uuid)
    days = {row.day: row for row in change.connection.execute(select(schema.use).where(*mine))}
    last = max([since, *(row.last_sample for row in days.values())])
    start = max(last, change.now - LONGEST_GAP_SECONDS)
    utilisation = min(1.0, max(0.0, use.utilisation))
    for day, seconds, until in split_by_day(start, change.now):
        if day in days:
            change.connection.execute(
                update(schema.use)
                .where(*mine, u.day == day)
                .values(
                    busy_seconds=u.busy_seconds + seconds * utilisation,
                    sampled_seconds=u.sampled_seconds + seconds,
                    last_sample=until,
                )
            )
        else:
            change.connection.execute(
                insert(schema.use).values(
                    request_id=request_id,
                    uuid=use.uuid,
                    day=day,
                    busy_seconds=seconds * utilisation,
                    sampled_seconds=seconds,
                    last_sample=until,
                )
            )


def split_by_day(start: float, end: float) -> Iterator[tuple[str, float, float]]:
    """(UTC day as "2026-11-25", seconds in it, its end or `end`) for each day that the interval touches."""
    while start < end:
        day = dt.datetime.fromtimestamp(start, dt.UTC).date()
        midnight = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC).timestamp()
        until = min(end, midnight)
        yield day.isoformat(), until - start, until
        start = until
