"""The newest start of every session, with GPUs or without: its number, and the host of its container.

Leases tell that of sessions with GPUs only. On a cluster a session without any may be started elsewhere as well while its
host is away, and what that host still runs when it is back must not go on beside it.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, insert, select, update

from . import schema
from .books import Books, Change
from .model import State
from .records import Start


class Starts(Books):
    """The ledger's methods about starts."""

    def new_fence(self, holder: str, reason: str, by: str = "spawner") -> int:
        """A fence without a lease: for a session that starts without GPU while an older one of it may still write."""
        with self._change() as change:
            return _new_fence(change, holder, reason, by)

    def started(self, holder: str, fence: int, host: str) -> bool:
        """The session's newest container is the one with this number, there. False, and nothing changes, where the
        ledger knows of a newer one."""
        s = schema.starts.c
        with self._change() as change:
            known = change.connection.scalar(select(s.fence).where(s.holder == holder))
            if known is not None and known > fence:
                return False
            change.connection.execute(delete(schema.starts).where(s.holder == holder))
            change.connection.execute(insert(schema.starts).values(holder=holder, fence=fence, host=host))
            return True

    def container_gone(self, holder: str, fence: int) -> None:
        """The session's container with this number is no more: nothing of it is on any host, as far as anybody knows."""
        with self._change() as change:
            nothing_runs(change, schema.starts.c.holder == holder, schema.starts.c.fence == fence)

    def newest_start(self, holder: str) -> Start | None:
        """None where the session was never started on a cluster, or the database has forgotten it."""
        s = schema.starts.c
        with self.database.read() as connection:
            row = connection.execute(select(s.fence, s.host).where(s.holder == holder)).one_or_none()
            return Start(*row) if row else None

    def outdate(self, holder: str, reason: str, by: str) -> None:
        """Whatever still runs of the session, on a host that nobody reaches now, is stopped when that host is back."""
        with self._change() as change:
            s = schema.starts.c
            runs = (s.holder == holder) & (s.host != "")
            if change.connection.scalar(select(s.fence).where(runs)) is not None:
                fence = _new_fence(change, holder, reason, by)
                change.connection.execute(update(schema.starts).where(runs).values(fence=fence, host=""))

    def has_ended(self, holder: str, fence: int) -> bool:
        """Whether the session had a lease with this number and has it no more, as after `give_up`, or was started again
        since: its container may still run."""
        r, s = schema.requests.c, schema.starts.c
        leases = select(r.state).where(r.holder == holder, r.fence == fence)
        newer = select(s.fence).where(s.holder == holder, s.fence > fence)
        with self.database.read() as connection:
            if set(connection.scalars(leases)) == {State.ENDED}:
                return True
            return connection.scalar(newer) is not None


def nothing_runs(change: Change, *which: ColumnElement[bool]) -> None:
    """Nothing of these sessions is on any host, or what is there counts no more."""
    change.connection.execute(update(schema.starts).where(*which).values(host=""))


def _new_fence(change: Change, holder: str, reason: str, by: str) -> int:
    fence = change.next_fence()
    change.note("fence given", holder, by, reason, fence=fence)
    return fence
