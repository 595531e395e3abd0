"""What the ledger gives back beside the policy's values, and what it refuses with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .model import Ask, Kind, Lease, Request, State, Wait


class EndReason(StrEnum):
    """Why a request ended."""

    RELEASED = "released"
    """Its session stopped."""
    CANCELLED = "cancelled"
    """Given up before its server started."""
    EXPIRED = "expired"
    """Granted, and its server did not start in time."""
    SUSPENDED = "suspended"
    """Saved and stopped so that others get their turn; `Standing.comes_back` says with what it returns."""
    FAILED = "failed"
    """Its container died."""
    LOST = "lost"
    """Its container is gone and nobody saw it end, or an admin gave it up."""


class LedgerError(Exception):
    """What was asked for is not possible now, and nothing has changed. The message is made for people."""


class OpenRequest(LedgerError):
    """The session waits for a lease or has one already."""


class NoLease(LedgerError):
    """Nothing has been granted to the session; `wait` says why, where the last decision told."""

    def __init__(self, message: str, wait: Wait | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class HeldByAnother(LedgerError):
    """Another session holds one of the devices."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A request with all that the ledger knows of it. Times are unix seconds, None until they happen."""

    request: Request
    state: State
    wait: Wait | None = None
    """While queued, as the last decision said; None before the first one."""
    requeued: str = ""
    """Why a grant was taken back and the request waits again, at its old place; "" if none was."""
    waits_for_cell: bool = False
    """Nothing is granted to it until the cell has ended that runs in its session ("CPU now, GPU when free")."""
    lease: Lease | None = None
    """Once granted; stays as it was when the request has ended."""
    idle_seconds: float = 0.0
    """How long neither GPU nor kernel has worked."""
    granted_at: float | None = None
    claimed_at: float | None = None
    """When its server began to start."""
    ended_at: float | None = None
    end_reason: EndReason | None = None
    end_detail: str = ""
    warned_at: float | None = None
    """When the session was told that it will be suspended at `reclaim_at`."""
    warning: str = ""
    warned_for_others: bool = False
    """Whether it makes room for somebody who waits; otherwise it was warned because it idles."""
    reclaim_at: float | None = None
    snoozed_until: float | None = None
    snoozes: int = 0
    """How often this lease's user put a warning off."""
    suspending_since: float | None = None
    suspend_reason: str = ""
    comes_back: Ask | None = None
    """With what the session queues again when the suspend is done; None: when its user wants it."""
    suspend_failed_at: float | None = None
    suspend_failure: str = ""
    """Why the last try to suspend it was given up (for the admin)."""
    flag: str = ""
    """What `reconcile` could not decide about it; "" if nothing."""


@dataclass(frozen=True, slots=True)
class Start:
    """The newest start of a session, as far as the ledger knows."""

    fence: int
    host: str
    """Of its container; "" once that is gone."""


@dataclass(frozen=True, slots=True)
class Cordon:
    """One reason why a device or a host takes no new leases; there may be several."""

    id: int
    target: str
    """A device's UUID, or "host:NAME"."""
    reason: str
    by: str
    since: float


@dataclass(frozen=True, slots=True)
class Agent:
    """The last that was heard of a host's agent."""

    host: str
    seen: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change in the audit log."""

    id: int
    at: float
    by: str
    """"user:NAME", or the part of Respawner: "scheduler", "spawner", "reconcile", "health"."""
    action: str
    subject: str
    """A holder, a device's UUID, "host:NAME", a limit's subject, "reservation:ID"."""
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Use:
    """One look at what a session does with one of its devices."""

    holder: str
    uuid: str
    utilisation: float
    """0 to 1: for how much of the time the device computed for the session (NVML's GPU utilisation)."""


_ASK_FIELDS = {field.name for field in dataclasses.fields(Ask)}


def ask_as_json(ask: Ask) -> dict[str, Any]:
    return dataclasses.asdict(ask)


def ask_of_json(found: Mapping[str, Any]) -> Ask:
    """The inverse; fields that a later version wrote are left out."""
    values = {name: value for name, value in found.items() if name in _ASK_FIELDS}
    return Ask(**{**values, "kind": Kind(values["kind"]), "uuids": tuple(values["uuids"])})
