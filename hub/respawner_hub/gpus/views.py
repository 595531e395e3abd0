"""What the ledger and the agents know, as plain dicts for JSON, pages and the command line. Times are unix seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from respawner_spawner.leases.asks import describe
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Device, State
from respawner_spawner.leases.records import Standing

from . import words

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
        "end_reason": standing.end_reason.value if standing.end_reason else None,
    }
    if standing.state is State.QUEUED:
        shown |= {
            "position": wait.position if wait else None,
            "reason": wait.reason if wait else "the scheduler has not looked at it yet",
            "expected": wait.expected if wait else None,
            "impossible": bool(wait and wait.impossible),
        }
    if lease:
        shown |= {
            "devices": list(lease.uuids),
            "share_bytes": lease.share_bytes,
            "since": lease.since,
            "idle_seconds": round(lease.idle_seconds),
            "cell_running": lease.cell_running,
            "warning": standing.warning if standing.warned_at else None,
            "reclaim_at": standing.reclaim_at,
            "snoozed_until": standing.snoozed_until,
            "suspending": lease.suspending,
        }
    return shown


def request_for_admins(standing: Standing) -> dict[str, Any]:
    """With what only admins should decide about."""
    return request_json(standing) | {
        "groups": list(standing.request.groups),
        "fence": standing.lease.fence if standing.lease else None,
        "suspend_failure": standing.suspend_failure,
        "flag": standing.flag,
    }


def wait_words(standing: Standing, now: float) -> dict[str, str]:
    """Position, reason and estimate for the one who waits."""
    if standing.state is State.GRANTED:
        return {"position": "Now", "reason": "A GPU is yours: the server starts.", "expected": "any moment"}
    wait = standing.wait
    if wait is None:
        return {"position": "…", "reason": "Your request has just arrived.", "expected": "in a moment"}
    position = "next" if wait.position == 1 else f"{words.ordinal(wait.position)} in the queue"
    return {"position": position, "reason": wait.reason, "expected": words.expected(wait, now)}


def device_json(
    device: Device,
    holders: Iterable[Standing],
    *,
    viewer: str | None,
    reading: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A device and who has it.

    :param viewer: a user, who learns nobody else's name; None for an admin.
    :param reading: what its agent measured last.
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
            "idle_seconds": round(lease.idle_seconds),
            "cell_running": lease.cell_running,
        }
    return shown


def devices(ledger: Ledger, readings: Readings, viewer: str | None) -> list[dict[str, Any]]:
    """All devices, by host. Blocks."""
    by_device: dict[str, list[Standing]] = {}
    for standing in ledger.standings():
        for uuid in standing.lease.uuids if standing.lease else ():
            by_device.setdefault(uuid, []).append(standing)
    return [
        device_json(device, by_device.get(device.uuid, ()), viewer=viewer, reading=readings.get(device.uuid))
        for device in ledger.devices()
    ]


def board(ledger: Ledger, readings: Readings) -> dict[str, Any]:
    """Everything that an admin's page shows. Blocks."""
    return {
        "devices": devices(ledger, readings, None),
        "leases": leases(ledger),
        "queue": queue(ledger),
        "agents": [plain(agent) for agent in ledger.agents()],
        "cordons": [plain(cordon) for cordon in ledger.cordons()],
        "limits": [plain(limit) for limit in ledger.limits()],
        "reservations": [plain(reservation) for reservation in ledger.reservations()],
        "audit": audit(ledger, most=30),
    }


def leases(ledger: Ledger) -> list[dict[str, Any]]:
    return [request_for_admins(standing) for standing in ledger.standings()]


def queue(ledger: Ledger) -> list[dict[str, Any]]:
    return [request_for_admins(standing) for standing in ledger.queue()]


def audit(ledger: Ledger, **which: Any) -> list[dict[str, Any]]:
    return [plain(entry) for entry in ledger.audit(**which)]


def plain(value: Any) -> dict[str, Any]:
    """A record of the ledger as a dict."""
    found = dataclasses.asdict(value)
    return found | {"data": dict(value.data)} if "data" in found else found


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
