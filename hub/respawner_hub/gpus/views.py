"""What the ledger and the agents know, as plain dicts for JSON, pages and the command line. Times are unix seconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from respawner_spawner.leases import accounting
from respawner_spawner.leases.admin import SILENT_SECONDS, host_target
from respawner_spawner.leases.asks import describe
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Device, State
from respawner_spawner.leases.reasons import ordinal
from respawner_spawner.leases.reconcile import lost_hosts
from respawner_spawner.leases.records import Standing

from . import words
from .drain import drained

HEALTH = "health"
"""Who cordons a device that is not well, in the ledger's words."""
VIEWS = ("devices", "leases", "queue", "agents", "cordons", "limits", "reservations")
Readings = Mapping[str, Mapping[str, Any]]
"""UUID → what its agent measured last: utilization_percent, memory_used_bytes, processes …"""


def request_json(standing: Standing) -> dict[str, Any]:
    """A session's request, with what its user may know."""
    request, lease, wait = standing.request, standing.lease, standing.wait
    _, user, server = request.holder.split("/", 2)
    shown: dict[str, Any] = {
        "id": request.id,
        "user": user,
        "server": server,
        "state": standing.state.value,
        "ask": describe(request.ask),
        "submitted": request.submitted,
        "priority": request.priority,
        "resumes": request.resumes,
        "cpu_meanwhile": request.cpu_meanwhile,
        "preemptible": request.preemptible,
        "end_reason": standing.end_reason.value if standing.end_reason else None,
    }
    if standing.state is State.QUEUED:
        shown |= {
            "position": wait.position if wait else None,
            "reason": _reason(standing),
            "waits_for_cell": standing.waits_for_cell,
            "expected": wait.expected if wait else None,
            "impossible": bool(wait and wait.impossible),
        }
    if lease:
        shown |= {
            "devices": list(lease.uuids),
            "share_bytes": lease.share_bytes,
            "separation": request.ask.kind.separation,
            "since": lease.since,
            "idle_seconds": round(standing.idle_seconds),
            "cell_running": lease.cell_running,
            "warning": standing.warning if standing.warned_at else None,
            "reclaim_at": standing.reclaim_at,
            "snoozed_until": standing.snoozed_until,
            "suspending": lease.suspending,
        }
    return shown


def request_for_admins(standing: Standing, suspend_retry_at: float | None = None) -> dict[str, Any]:
    """With what only admins should decide about.

    :param suspend_retry_at: when a drain tries again to suspend it.
    """
    return request_json(standing) | {
        "groups": list(standing.request.groups),
        "fence": standing.lease.fence if standing.lease else None,
        "suspend_failure": standing.suspend_failure,
        "suspend_retry_at": suspend_retry_at,
        "flag": standing.flag,
    }


def wait_words(standing: Standing, now: float) -> dict[str, str]:
    """Position, reason and estimate for the one who waits."""
    if standing.state is State.GRANTED:
        return {"position": "Now", "reason": "A GPU is yours: the server starts.", "expected": "any moment"}
    wait, requeued = standing.wait, f"{standing.requeued}. " if standing.requeued else ""
    if standing.waits_for_cell:
        return {"position": "Your place is kept", "reason": requeued.strip(), "expected": "after the cell"}
    if wait is None:
        said = requeued.strip() or "Your request has just arrived."
        return {"position": "…", "reason": said, "expected": "in a moment"}
    position = "Next" if wait.position == 1 else f"{ordinal(wait.position)} in the queue"
    reason = requeued + words.reason(wait)
    return {"position": position, "reason": reason, "expected": words.expected(wait, now)}


def _reason(standing: Standing) -> str:
    """Why it waits, and before that why it waits again."""
    wait = standing.wait.reason if standing.wait else ""
    said = "; ".join(filter(None, (standing.requeued, wait)))
    return said or "the scheduler has not looked at it yet"


def device_json(
    device: Device,
    holders: Iterable[Standing],
    *,
    viewer: str | None,
    reading: Mapping[str, Any] | None = None,
    host_lost: bool = False,
) -> dict[str, Any]:
    """A device and who has it.

    :param viewer: a user, who learns nobody else's name; None for an admin.
    :param reading: what its agent measured last.
    :param host_lost: whether its host's engine does not answer, so that its sessions can only be given up.
    """
    standings = list(holders)
    return {
        "uuid": device.uuid,
        "host": device.host,
        "model": device.model,
        "kind": device.kind.value,
        "profile": device.profile,
        "parent": device.parent,
        "memory_bytes": device.memory_bytes,
        "shareable_bytes": device.shareable_bytes,
        "cordon": device.cordon,
        "host_lost": host_lost,
        "free_bytes": free_bytes(device, standings),
        "holders": [_holder_json(standing, viewer) for standing in standings],
        "reading": dict(reading or {}),
    }


def free_bytes(device: Device, holders: Iterable[Standing]) -> int:
    """Memory that could be granted now: all or nothing of a device, or what shares have left."""
    if device.cordon:
        return 0
    leases = [standing.lease for standing in holders if standing.lease]
    if any(not lease.share_bytes for lease in leases):
        return 0
    if device.shareable_bytes:
        return max(0, device.shareable_bytes - sum(lease.share_bytes for lease in leases))
    return 0 if leases else device.memory_bytes


def _holder_json(standing: Standing, viewer: str | None) -> dict[str, Any]:
    lease = standing.lease
    assert lease is not None
    shown: dict[str, Any] = {"since": lease.since, "share_bytes": lease.share_bytes}
    if viewer in (None, standing.request.user):
        shown |= {
            "user": standing.request.user,
            "server": standing.request.holder.split("/", 2)[2],
            "state": standing.state.value,
            "idle_seconds": round(standing.idle_seconds),
            "cell_running": lease.cell_running,
            "preemptible": lease.preemptible,
        }
    return shown


def devices(ledger: Ledger, readings: Readings, viewer: str | None) -> list[dict[str, Any]]:
    """All devices, by host. Blocks."""
    by_device: dict[str, list[Standing]] = {}
    for standing in ledger.standings():
        for uuid in standing.lease.uuids if standing.lease else ():
            by_device.setdefault(uuid, []).append(standing)
    lost = lost_hosts(ledger.cordons())
    return [
        device_json(
            device,
            by_device.get(device.uuid, ()),
            viewer=viewer,
            reading=readings.get(device.uuid),
            host_lost=device.host in lost,
        )
        for device in ledger.devices()
    ]


def leases(ledger: Ledger) -> list[dict[str, Any]]:
    """All leases, with what keeps them where an admin wants them away. Blocks."""
    tries = {found.standing.request.id: found.next_try for found in drained(ledger)}
    return [request_for_admins(found, tries.get(found.request.id)) for found in ledger.standings()]


def illnesses(ledger: Ledger) -> dict[str, str]:
    """Device → what is wrong with it: as its agent says, or because its agent or NVML says nothing."""
    found = {cordon.target: cordon.reason for cordon in ledger.cordons() if cordon.by == HEALTH}
    now = ledger.clock()
    silent = {agent.host: now - agent.seen for agent in ledger.agents() if now - agent.seen > SILENT_SECONDS}
    for device in ledger.devices():
        if reason := found.get(host_target(device.host)):
            found.setdefault(device.uuid, reason)
        elif device.host in silent:
            since = words.duration(silent[device.host])
            found.setdefault(
                device.uuid, f"out of sight: the agent of {device.host} has been silent for {since}"
            )
    return found


def view(ledger: Ledger, name: str, readings: Readings) -> list[dict[str, Any]]:
    """One list for admins, by its name in the API. Blocks."""
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "devices": lambda: devices(ledger, readings, None),
        "leases": lambda: leases(ledger),
        "queue": lambda: [request_for_admins(standing) for standing in ledger.queue()],
        "agents": lambda: [plain(agent) for agent in ledger.agents()],
        "cordons": lambda: [plain(cordon) for cordon in ledger.cordons()],
        "limits": lambda: [plain(limit) for limit in ledger.limits()],
        "reservations": lambda: [plain(reservation) for reservation in ledger.reservations()],
    }
    return makers[name]()


def history(ledger: Ledger, since: float, until: float, by: str, kind: str) -> str:
    """GPU-hours and waiting times as JSON, or the hours as CSV. Blocks.

    :param by: what the hours are added up by, for example "day,user".
    :raises ValueError:
    """
    chosen = [_by(name.strip()) for name in by.split(",")]
    rows = accounting.hours(ledger, since, until, chosen)
    if kind == "csv":
        return accounting.as_csv(rows)
    if kind != "json":
        raise ValueError(f"format = {kind!r}: choose json or csv.")
    waited = accounting.waits(ledger, since, until)
    return json.dumps(
        {"hours": [plain(row) for row in rows], "waits": [plain(row) for row in waited]}, indent=2
    )


def _by(name: str) -> accounting.By:
    try:
        return accounting.By(name)
    except ValueError as error:
        raise ValueError(f"by = {name!r}: choose {', '.join(accounting.By)}.") from error


def board(ledger: Ledger, readings: Readings) -> dict[str, Any]:
    """Everything that an admin's page shows. Blocks."""
    lists = {name: view(ledger, name, readings) for name in VIEWS}
    return {**lists, "audit": audit(ledger, most=30)}


def audit(ledger: Ledger, **which: Any) -> list[dict[str, Any]]:
    return [plain(entry) for entry in ledger.audit(**which)]


def plain(value: Any) -> dict[str, Any]:
    """A record of the ledger as a dict."""
    found = dataclasses.asdict(value)
    return found | {"data": dict(value.data)} if "data" in found else found


def suspend_words(lease: Mapping[str, Any], now: float) -> str:
    """Why an admin's view of a lease says that it was not suspended, and when that is tried again; "" if it was not tried."""
    if not lease["suspend_failure"]:
        return ""
    retry = lease["suspend_retry_at"]
    again = "" if retry is None else f"; next try {words.clock(retry, now) if retry > now else 'any moment'}"
    return f"not suspended: {lease['suspend_failure']}{again}"


def reading_words(reading: Mapping[str, Any]) -> str:
    """ "87 % · 12 GiB · 64 °C"."""
    parts = []
    if (percent := reading.get("utilization_percent")) is not None:
        parts.append(f"{percent} %")
    if (used := reading.get("memory_used_bytes")) is not None:
        parts.append(words.size_text(used))
    if (celsius := reading.get("temperature_celsius")) is not None:
        parts.append(f"{celsius} °C")
    return " · ".join(parts)
