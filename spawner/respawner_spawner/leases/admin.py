"""What admins and watchers set: cordons, sharing, limits, reservations; and what the agents told last."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, delete, insert, select, update

from . import schema
from .books import Books, Change
from .model import Device, Kind, Limit, Reservation
from .records import Agent, Cordon

UNKNOWN = "holder unknown"
"""How the reasons of those cordons begin that `reconcile` takes away when it knows more."""
SILENT_SECONDS = 30.0
"""An agent that was not heard of for so long is silent."""


def host_target(host: str) -> str:
    """How a whole host is called in cordons and in the audit log."""
    return f"host:{host}"


class Admin(Books):
    """The ledger's methods about the cluster itself."""

    # Cordons --------------------------------------------------------------------------------------------

    def cordon(self, target: str, reason: str, by: str) -> Cordon:
        """No new leases on `target` for this reason. The same reason again changes nothing.

        :param target: a device's UUID (a GPU's holds for its MIG devices), or `host_target(name)`.
        """
        with self._change() as change:
            return put_cordon(change, target, reason, by)

    def uncordon(self, target: str, by: str, reason: str | None = None, why: str = "") -> list[Cordon]:
        """Take one reason away, or all of them; the target takes leases when none is left.

        :param reason: as it stands in the cordon; None for all.
        :returns: what was taken away; nothing if there was nothing.
        """
        c = schema.cordons.c
        query = select(schema.cordons).where(c.target == target)
        if reason is not None:
            query = query.where(c.reason == reason)
        with self._change() as change:
            found = [Cordon(*row) for row in change.connection.execute(query)]
            for cordon in found:
                change.connection.execute(delete(schema.cordons).where(c.id == cordon.id))
                change.note("uncordoned", target, by, why or cordon.reason, cordon=cordon.reason)
            return found

    def cordons(self) -> list[Cordon]:
        with self.database.read() as connection:
            query = select(schema.cordons).order_by(schema.cordons.c.id)
            return [Cordon(*row) for row in connection.execute(query)]

    # Sharing --------------------------------------------------------------------------------------------

    def share(self, uuid: str, shareable_bytes: int, by: str, reason: str = "") -> bool:
        """Let shares take so much of a device's memory; 0 grants it whole again. Leases that stand stay.

        True if that is new.
        """
        if shareable_bytes < 0:
            raise ValueError(f"shareable_bytes = {shareable_bytes}: 0 or more")
        with self._change() as change:
            s = schema.sharing.c
            known = change.connection.scalar(select(s.shareable_bytes).where(s.uuid == uuid)) or 0
            if known == shareable_bytes:
                return False
            change.connection.execute(delete(schema.sharing).where(s.uuid == uuid))
            if shareable_bytes:
                change.connection.execute(
                    insert(schema.sharing).values(uuid=uuid, shareable_bytes=shareable_bytes)
                )
            change.note("shared", uuid, by, reason, shareable_bytes=shareable_bytes, was=known)
            return True

    def sharing(self) -> dict[str, int]:
        """Device → bytes that shares may take."""
        with self.database.read() as connection:
            return _sharing(connection)

    # Limits ---------------------------------------------------------------------------------------------

    def set_limit(self, limit: Limit, by: str, reason: str = "") -> None:
        """Set or replace the limit of a subject.

        :raises ValueError: the subject or a number makes no sense.
        """
        check_limit(limit)
        with self._change() as change:
            subject = schema.limits.c.subject == limit.subject
            change.connection.execute(delete(schema.limits).where(subject))
            values = dataclasses.asdict(limit)
            change.connection.execute(insert(schema.limits).values(**values))
            change.note("limit", limit.subject, by, reason, **values)

    def remove_limit(self, subject: str, by: str, reason: str = "") -> bool:
        """False if there was none."""
        with self._change() as change:
            gone = change.connection.execute(
                delete(schema.limits).where(schema.limits.c.subject == subject)
            ).rowcount
            if gone:
                change.note("limit removed", subject, by, reason)
            return bool(gone)

    def limits(self) -> list[Limit]:
        with self.database.read() as connection:
            return list(self._limits(connection))

    def _limits(self, connection: Connection) -> Iterator[Limit]:
        for row in connection.execute(select(schema.limits).order_by(schema.limits.c.subject)):
            yield Limit(row.subject, row.most, row.guarantee, row.priority)

    # Reservations ---------------------------------------------------------------------------------------

    def reserve(
        self, group: str, count: int, start: float, end: float, by: str, model: str = "", note: str = ""
    ) -> Reservation:
        """Keep `count` GPUs for a group from `start` until `end`.

        :raises ValueError: it keeps nothing, or ends before it starts or now.
        """
        with self._change() as change:
            if count < 1:
                raise ValueError(f"count = {count}: reserve at least one GPU")
            if end <= start or end <= change.now:
                raise ValueError(
                    f"The reservation ends at {end:.0f}: that is before it starts, or over already"
                )
            values = {
                "group": group,
                "count": count,
                "start": start,
                "end": end,
                "model": model,
                "note": note,
            }
            row_id = change.connection.execute(
                insert(schema.reservations).values(**values).returning(schema.reservations.c.id)
            ).scalar_one()
            change.note("reserved", f"reservation:{row_id}", by, note, **values)
            return Reservation(row_id, group, count, start, end, model, note)

    def cancel_reservation(self, reservation_id: int, by: str, reason: str = "") -> bool:
        """False if there is none of this number that has not ended."""
        with self._change() as change:
            r = schema.reservations.c
            gone = change.connection.execute(
                delete(schema.reservations).where(r.id == reservation_id, r.end > change.now)
            ).rowcount
            if gone:
                change.note("reservation cancelled", f"reservation:{reservation_id}", by, reason)
            return bool(gone)

    def reservations(self, now: float | None = None) -> list[Reservation]:
        """Those that have not ended, the next first."""
        with self.database.read() as connection:
            return list(self._reservations(connection, self.clock() if now is None else now))

    def _reservations(self, connection: Connection, now: float) -> Iterator[Reservation]:
        r = schema.reservations.c
        query = select(schema.reservations).where(r.end > now).order_by(r.start, r.id)
        for row in connection.execute(query):
            yield Reservation(*row)

    # Agents and their devices ---------------------------------------------------------------------------

    def heartbeat(self, host: str, devices: Iterable[Device] | None = None, detail: str = "") -> None:
        """A host's agent is alive; with `devices`, this is all that it has.

        Costs one small write. A device that comes, goes or changes stands in the audit log.
        """
        with self._change() as change:
            a = schema.agents.c
            values = {"seen": change.now, "detail": detail}
            known = change.connection.execute(
                update(schema.agents).where(a.host == host).values(**values)
            ).rowcount
            if not known:
                change.connection.execute(insert(schema.agents).values(host=host, **values))
                change.note("agent came", host_target(host), "agent", detail)
            if devices is not None:
                _note_devices(change, host, list(devices))

    def agents(self) -> list[Agent]:
        with self.database.read() as connection:
            query = select(schema.agents).order_by(schema.agents.c.host)
            return [Agent(*row) for row in connection.execute(query)]

    def devices(self, now: float | None = None, silent_seconds: float = SILENT_SECONDS) -> list[Device]:
        """What the agents told last, with the admins' marks; devices of a silent agent are cordoned.

        For callers that do not ask the agents themselves.
        """
        now = self.clock() if now is None else now
        d = schema.devices.c
        with self.database.read() as connection:
            query = select(schema.devices).where(d.present).order_by(d.host, d.uuid)
            found = [
                Device(
                    row.uuid, row.host, row.model, row.memory_bytes, Kind(row.kind), row.parent, row.profile
                )
                for row in connection.execute(query)
            ]
            seen = {row.host: row.seen for row in connection.execute(select(schema.agents))}
            marked = list(self._with_admins_marks(connection, found))
        return [_silent(device, now - seen.get(device.host, 0.0), silent_seconds) for device in marked]

    def _with_admins_marks(self, connection: Connection, devices: Iterable[Device]) -> Iterator[Device]:
        """The same devices with cordons and sharing; a cordon that the caller put there stays."""
        reasons: dict[str, list[str]] = {}
        for row in connection.execute(select(schema.cordons).order_by(schema.cordons.c.id)):
            reasons.setdefault(row.target, []).append(row.reason)
        shared = _sharing(connection)
        for device in devices:
            found = [device.cordon] if device.cordon else []
            for target in (device.uuid, device.parent, host_target(device.host)):
                found += reasons.get(target, [])
            cordon = "; ".join(dict.fromkeys(found))
            shareable_bytes = shared.get(device.uuid, device.shareable_bytes)
            if (cordon, shareable_bytes) != (device.cordon, device.shareable_bytes):
                device = dataclasses.replace(device, cordon=cordon, shareable_bytes=shareable_bytes)
            yield device


def put_cordon(change: Change, target: str, reason: str, by: str) -> Cordon:
    """Cordon in the caller's transaction."""
    c = schema.cordons.c
    same = select(schema.cordons).where(c.target == target, c.reason == reason)
    row = change.connection.execute(same).one_or_none()
    if row is None:
        change.connection.execute(
            insert(schema.cordons).values(target=target, reason=reason, by=by, since=change.now)
        )
        change.note("cordoned", target, by, reason)
        row = change.connection.execute(same).one()
    return Cordon(*row)


def check_limit(limit: Limit) -> None:
    """:raises ValueError: with the value and what would be right."""
    kind, _, name = limit.subject.partition(":")
    if limit.subject != "everyone" and (kind not in ("user", "group") or not name):
        raise ValueError(f"{limit.subject!r}: a limit is for user:NAME, group:NAME or everyone")
    if limit.most is not None and limit.most < 0:
        raise ValueError(f"{limit.subject}: most = {limit.most:g}, choose 0 or more")
    if limit.guarantee < 0 or (limit.most is not None and limit.guarantee > limit.most):
        raise ValueError(f"{limit.subject}: guarantee = {limit.guarantee:g}, choose 0 to the limit")


def _sharing(connection: Connection) -> dict[str, int]:
    return {row.uuid: row.shareable_bytes for row in connection.execute(select(schema.sharing))}


def _silent(device: Device, silent_for: float, limit: float) -> Device:
    if silent_for <= limit:
        return device
    reason = f"the agent of {device.host} has been silent for {silent_for:.0f} s"
    return dataclasses.replace(device, cordon="; ".join(filter(None, (device.cordon, reason))))


def _note_devices(change: Change, host: str, devices: list[Device]) -> None:
    d = schema.devices.c
    here = [device.uuid for device in devices]
    query = select(schema.devices).where((d.host == host) | d.uuid.in_(here))
    known = {row.uuid: row._asdict() for row in change.connection.execute(query)}
    for device in devices:
        values = {
            "uuid": device.uuid,
            "host": host,
            "model": device.model,
            "memory_bytes": device.memory_bytes,
            "kind": device.kind,
            "parent": device.parent,
            "profile": device.profile,
            "present": True,
        }
        if known.get(device.uuid) != values:
            change.connection.execute(delete(schema.devices).where(d.uuid == device.uuid))
            change.connection.execute(insert(schema.devices).values(**values))
            change.note("device came", device.uuid, "agent", f"{device.model} on {host}", **values)
    for uuid, values in known.items():
        if values["host"] == host and values["present"] and uuid not in here:
            change.connection.execute(update(schema.devices).where(d.uuid == uuid).values(present=False))
            change.note("device gone", uuid, "agent", f"{values['model']} on {host}", host=host)
