"""Who holds which GPU: the leases, in SQL.

The primary key is the device's UUID, so the database itself refuses to grant a device twice. Leases stand a
second time as labels on the containers; `acquire` is told what the labels say, so that a lost or restored
database does not hand out a device that a running session uses.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Column, DateTime, MetaData, String, Table, create_engine, delete, event, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

metadata = MetaData()
leases = Table(
    "respawner_leases",
    metadata,
    Column("uuid", String(96), primary_key=True),
    Column("holder", String(512), nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
)


class NotEnoughGpus(Exception):
    """Fewer devices are free than asked for."""

    def __init__(self, wanted: int, free: int, total: int) -> None:
        super().__init__(f"{wanted} GPU(s) asked for, {free} of {total} free")
        self.wanted, self.free, self.total = wanted, free, total


@dataclass(frozen=True)
class Lease:
    uuid: str
    holder: str
    since: dt.datetime


class Ledger:
    """Leases in the database at `url`. Every method is one transaction and may be called from any thread."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        with (
            self._engine.begin() as connection
        ):  # create_all looks first: two processes would both find nothing
            connection.execute(CreateTable(leases, if_not_exists=True))

    def leases(self) -> list[Lease]:
        with self._engine.connect() as connection:
            rows = connection.execute(select(leases).order_by(leases.c.since, leases.c.uuid))
            return [Lease(row.uuid, row.holder, row.since) for row in rows]

    def acquire(
        self, holder: str, count: int, devices: Iterable[str], labelled: Mapping[str, str] | None = None
    ) -> list[str]:
        """Grant `count` of `devices` to `holder`, who gives up what it held before.

        :param labelled: device → holder, as the labels of living containers say.
        :returns: UUIDs, as many as asked for.
        :raises NotEnoughGpus: and nothing has changed.
        """
        devices = list(devices)
        for _ in range(len(devices) + 1):
            try:
                return self._acquire(holder, count, devices, labelled or {})
            except IntegrityError:
                continue  # another process took the device between our look and our claim: look again
        raise NotEnoughGpus(count, 0, len(devices))

    def _acquire(self, holder: str, count: int, devices: list[str], labelled: Mapping[str, str]) -> list[str]:
        with self._engine.begin() as connection:
            connection.execute(delete(leases).where(leases.c.holder == holder))
            taken = set(connection.scalars(select(leases.c.uuid)))
            taken |= {uuid for uuid, other in labelled.items() if other != holder}
            free = [uuid for uuid in devices if uuid not in taken]
            if len(free) < count:
                raise NotEnoughGpus(count, len(free), len(devices))
            granted = free[:count]
            now = dt.datetime.now(dt.UTC)
            if granted:
                rows = [{"uuid": uuid, "holder": holder, "since": now} for uuid in granted]
                connection.execute(insert(leases), rows)
        return granted

    def release(self, holder: str) -> list[str]:
        """End the leases of `holder`; releasing twice is fine. Returns the devices that came free."""
        with self._engine.begin() as connection:
            mine = leases.c.holder == holder
            uuids = list(connection.scalars(select(leases.c.uuid).where(mine)))
            connection.execute(delete(leases).where(mine))
        return uuids

    def adopt(self, holder: str, uuids: Iterable[str]) -> None:
        """Write down the leases that the labels of a running container prove.

        :raises IntegrityError: another session holds one of the devices.
        """
        with self._engine.begin() as connection:
            known = set(connection.scalars(select(leases.c.uuid).where(leases.c.holder == holder)))
            now = dt.datetime.now(dt.UTC)
            for uuid in sorted(set(uuids) - known):
                connection.execute(insert(leases).values(uuid=uuid, holder=holder, since=now))


def _prepare_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
