"""When a session has idled so long that its GPU goes to somebody else: pure, times are unix seconds.

Idle is a GPU that computes nothing *and* kernels that do nothing. Nobody is suspended without a warning, and
where nobody can tell whether a cell runs it counts as running.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from respawner_spawner.leases.records import Standing


@dataclass(frozen=True, slots=True)
class Rules:
    """The admin's settings, in seconds."""

    idle_seconds: float
    """0: nobody is ever idle."""
    snoozes: int
    snooze_seconds: float
    interrupt_cells: bool = False
    can_snooze_preemption: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """What is known about a running session with a lease."""

    since: float
    """When it got the lease."""
    gpu_used: float | None
    """When one of its devices was last busy; None where no device tells (MIG)."""
    kernel_active: float
    """JupyterHub's `last_activity`."""
    cell_running: bool | None = False
    """None: nobody can tell."""
    reclaim_at: float | None = None
    """When it was told that it will be suspended; None: it was not warned."""
    snoozed_until: float | None = None

    def idle_since(self) -> float:
        return max(self.since, self.kernel_active, self.gpu_used or 0.0)


class Verdict(Enum):
    LEAVE = "leave"
    """Nothing to do, or nothing yet."""
    FORGIVE = "forgive"
    """It works again: the warning is taken back."""
    WARN = "warn"
    SUSPEND = "suspend"


def with_cell(session: Session, running: bool | None) -> Session:
    return replace(session, cell_running=running)


def is_due(session: Session, rules: Rules, now: float) -> bool:
    """Whether it has idled long enough for a question to its kernels to be worth it."""
    return bool(rules.idle_seconds) and now - session.idle_since() >= rules.idle_seconds


def judge(session: Session, rules: Rules, now: float) -> Verdict:
    """What happens to a session that nobody waits for."""
    busy = not is_due(session, rules, now) or _is_working(session, rules)
    if busy or _is_snoozed(session, now):
        return Verdict.LEAVE if session.reclaim_at is None else Verdict.FORGIVE
    return _warn_then_suspend(session, now)


def judge_preemption(session: Session, rules: Rules, now: float) -> Verdict:
    """What happens to a session that the policy wants to give way. It keeps its warning while a cell runs."""
    if rules.can_snooze_preemption and _is_snoozed(session, now):
        return Verdict.LEAVE
    if session.reclaim_at is not None and _is_working(session, rules):
        return Verdict.LEAVE
    return _warn_then_suspend(session, now)


def why_no_snooze(session: Standing, rules: Rules) -> str:
    """Why its user may not put the suspension off; "" where that is allowed. A refusal changes nothing."""
    if session.reclaim_at is None:
        return "Nothing to put off: this session has not been warned."
    if session.warned_for_others and not rules.can_snooze_preemption:
        return "Somebody waits for these GPUs: that cannot be put off here ([gpus] can_snooze_preemption)."
    if session.snoozes >= rules.snoozes:
        return f"It was put off {session.snoozes} times already; more is not allowed here."
    return ""


def _is_working(session: Session, rules: Rules) -> bool:
    return session.cell_running is not False and not rules.interrupt_cells


def _is_snoozed(session: Session, now: float) -> bool:
    return session.snoozed_until is not None and now < session.snoozed_until


def _warn_then_suspend(session: Session, now: float) -> Verdict:
    if session.reclaim_at is None:
        return Verdict.WARN
    return Verdict.SUSPEND if now >= session.reclaim_at else Verdict.LEAVE
