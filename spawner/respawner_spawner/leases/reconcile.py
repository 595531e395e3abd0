"""After a crash: what the ledger says, what the containers' labels say, and what to do where they differ.

`plan` is pure and explains every step; `carry_out` does in the ledger what is the ledger's, each step a transaction that
looks again first. Stopping a container that is fenced off is left to the caller, who has the engine. Whoever
grants leases does this first when it starts, when a host comes back, and from time to time.

What it rests on: a container's labels are written once, when it is created, and outlive every database; a lease that
is granted later has a larger fence; what cannot be reached is not dead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import select

from . import schema
from .admin import UNKNOWN, host_target
from .ledger import Ledger
from .model import Device, State
from .records import Cordon, EndReason, HeldByAnother, Standing

GRACE_SECONDS = 600.0
"""A server that began to start so recently may still be without a container (images are pulled)."""
SILENT_ENGINE = f"{UNKNOWN}: its engine does not answer, so nobody knows what runs there"
"""The reason for which a host that is lost is cordoned."""


@dataclass(frozen=True, slots=True)
class Container:
    """A session's container as its labels and the engine describe it."""

    id: str
    host: str
    running: bool
    holder: str = ""
    """"" where it has no such label: not a session of ours, but it uses devices."""
    user: str = ""
    uuids: tuple[str, ...] = ()
    fence: int = 0
    """0: created by version 0.1, which had none."""
    share_bytes: int = 0
    groups: tuple[str, ...] = ()
    preemptible: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says."""

    standings: Sequence[Standing] = ()
    """Granted and running ones."""
    last_fence: int = 0
    given_up: Collection[tuple[str, int]] = ()
    """(holder, fence) of leases that have ended."""
    cordons: Sequence[Cordon] = ()
    newest: Mapping[str, int] = field(default_factory=dict)
    """Holder → number of the session's newest start, of those that have one."""


class Do(StrEnum):
    """What is done, in the order in which it is done."""

    RAISE_FENCE = "raise fence"
    RELEASE = "release"
    REVOKE = "revoke"
    """A grant whose server has not started goes back to the queue."""
    ADOPT = "adopt"
    NOTE = "note"
    """A session without GPUs, whose start the ledger does not know (any more): it has no lease to be adopted with."""
    FENCE_OFF = "fence off"
    """The container is stopped; its session was given up, or its devices are another's."""
    CORDON = "cordon"
    UNCORDON = "uncordon"
    FLAG = "flag"
    UNFLAG = "unflag"


@dataclass(frozen=True, slots=True)
class Action:
    do: Do
    subject: str
    """A holder, a device's UUID, "host:NAME", "ledger"."""
    why: str
    """A sentence for the admin."""
    container: Container | None = None
    """To adopt or to fence off."""
    fence: int = 0
    """Of the lease to release or revoke, or the least that the last fence must be."""
    end_reason: EndReason = EndReason.LOST


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...] = ()

    @property
    def fenced_off(self) -> list[Container]:
        """What the caller stops."""
        return [a.container for a in self.actions if a.do is Do.FENCE_OFF and a.container]

    def explain(self) -> list[str]:
        return [f"{action.do} {action.subject}: {action.why}" for action in self.actions]


def plan(
    known: Known,
    containers: Iterable[Container],
    devices: Iterable[Device],
    now: float,
    *,
    unreachable: Collection[str] = (),
    late: Collection[str] = (),
    strangers: Mapping[str, str] | None = None,
    unwatched: Collection[str] = (),
    grace_seconds: float = GRACE_SECONDS,
) -> Plan:
    """What to do so that ledger and containers agree; nothing where they do.

    :param containers: of all reachable hosts, running or not; ours, and others that use devices.
    :param devices: the inventory, for which host a device is on.
    :param unreachable: hosts whose engine did not answer: their leases are kept, their devices not handed out.
    :param late: hosts whose engine has not answered yet: what is there stays as it is for now.
    :param strangers: device → who uses it, of processes that belong to no container in the list.
    :param unwatched: hosts of whose processes nobody can tell now: cordons of their devices are not taken away.
    :param grace_seconds: 0 where it is sure that no server is being started, as when the hub itself starts.
    """
    planning = _Planning(known, tuple(containers), {device.uuid: device.host for device in devices}, now)
    planning.unreachable, planning.late, planning.unwatched = unreachable, late, unwatched
    planning.grace_seconds = grace_seconds
    planning.look_at_fences()
    planning.look_at_leases()
    planning.look_at_sessions()
    planning.look_at_strangers(strangers or {})
    planning.look_at_hosts()
    planning.set_cordons()
    planning.set_flags()
    order = list(Do)
    return Plan(tuple(sorted(planning.actions, key=lambda action: order.index(action.do))))


@dataclass
class _Planning:
    """The state of one `plan`: its inputs, and what it has decided so far."""

    known: Known
    containers: tuple[Container, ...]
    host_of: Mapping[str, str]
    now: float
    unreachable: Collection[str] = ()
    late: Collection[str] = ()
    unwatched: Collection[str] = ()
    grace_seconds: float = GRACE_SECONDS
    actions: list[Action] = field(default_factory=list)
    leases: dict[str, Standing] = field(default_factory=dict)
    """By holder, without those that end here."""
    cordons: dict[str, str] = field(default_factory=dict)
    """By target, those that must stand when this is done."""
    flags: dict[str, str] = field(default_factory=dict)
    """By holder, those that must stand when this is done."""

    def __post_init__(self) -> None:
        self.leases = {standing.request.holder: standing for standing in self.known.standings}
        running = [c for c in self.containers if c.running and c.holder]
        running.sort(key=lambda c: -c.fence)
        self.sessions: dict[str, Container] = {}
        self.outdated: list[Container] = []
        for container in running:  # of two containers of one session the one with the larger fence counts
            if container.holder in self.sessions:
                self.outdated.append(container)
            else:
                self.sessions[container.holder] = container

    def do(self, do: Do, subject: str, why: str, **more: object) -> None:
        self.actions.append(Action(do, subject, why, **more))  # type: ignore[arg-type]

    def look_at_fences(self) -> None:
        seen = max((container.fence for container in self.containers), default=0)
        if seen > self.known.last_fence:
            why = (
                f"a container has fence {seen}, the ledger's last one is {self.known.last_fence}: "
                "the database is older than the containers (restored from a backup?)"
            )
            self.do(Do.RAISE_FENCE, "ledger", why, fence=seen)

    def look_at_leases(self) -> None:
        """Leases that run, and whether their containers do."""
        for standing in list(self.leases.values()):
            if standing.state is not State.RUNNING or standing.lease is None:
                continue
            lease, session = standing.lease, self.sessions.get(standing.request.holder)
            hosts = {self.host_of.get(uuid, "") for uuid in lease.uuids}
            away = sorted(hosts & set(self.unreachable)) or ([""] if "" in hosts and self.unreachable else [])
            if session and _is_of(session, standing):
                continue
            if not hosts.isdisjoint(self.late) or ("" in hosts and self.late):
                self._flag(lease.holder, standing.flag)
            elif away:
                where = f"the engine of {away[0]}" if away[0] else "an engine"
                self._flag(
                    lease.holder, f"{where} does not answer: the lease is kept until it is known how it is"
                )
            elif session and session.fence and session.fence < lease.fence:
                continue  # an earlier container of the session: it is fenced off below
            elif session:
                self._release(standing, EndReason.LOST, f"its container has {_names(session)} instead")
            elif (standing.claimed_at or 0) + self.grace_seconds <= self.now:
                gone = next(
                    (c for c in self.containers if c.holder == lease.holder and c.fence == lease.fence), None
                )
                if gone:
                    self._release(
                        standing, EndReason.FAILED, f"its container {gone.id[:12]} does not run any more"
                    )
                else:
                    self._release(standing, EndReason.LOST, "it has no container any more")

    def look_at_sessions(self) -> None:
        """Running containers, and whether the ledger knows them."""
        for container in self.outdated:
            self._fence_off(container, f"a newer container of {container.holder} runs")
        for container in self.sessions.values():
            standing = self.leases.get(container.holder)
            newest = self.known.newest.get(container.holder, 0)
            if 0 < container.fence < newest:
                self._fence_off(container, f"{container.holder} was started again since (fence {newest})")
            elif not container.uuids:
                if container.fence > newest:
                    why = f"its container {container.id[:12]} runs on {container.host}"
                    self.do(Do.NOTE, container.holder, why, container=container)
            elif standing and _is_of(container, standing):
                continue
            elif standing and standing.lease and 0 < container.fence < standing.lease.fence:
                self._fence_off(
                    container, f"{container.holder} has a newer lease (fence {standing.lease.fence})"
                )
            elif (container.holder, container.fence) in self.known.given_up:
                self._fence_off(container, f"its lease (fence {container.fence}) has ended")
            else:
                self._adopt(container)

    def look_at_strangers(self, strangers: Mapping[str, str]) -> None:
        """Devices that somebody uses who is no session."""
        found = dict(strangers)
        for container in self.containers:
            if container.running and not container.holder:
                found.update(
                    dict.fromkeys(container.uuids, f"container {container.id[:12]} on {container.host}")
                )
        holders = {uuid: s.request.holder for s in self.leases.values() for uuid in _devices(s)}
        for uuid, who in found.items():
            self._cordon(uuid, f"used by {who}, which no lease explains")
            if uuid in holders:
                self._flag(holders[uuid], f"{uuid} is used by {who} as well")

    def look_at_hosts(self) -> None:
        for host in self.unreachable:
            self.cordons.setdefault(host_target(host), SILENT_ENGINE)

    def set_cordons(self) -> None:
        """Add what is missing, take away what is not true any more."""
        standing = {(c.target, c.reason) for c in self.known.cordons if c.reason.startswith(UNKNOWN)}
        wanted = set(self.cordons.items())
        for target, reason in sorted(wanted - standing):
            self.do(Do.CORDON, target, reason)
        for target, reason in sorted(standing - wanted):
            host = self.host_of.get(target, target.removeprefix(host_target("")))
            blind = {*self.unreachable, *self.unwatched} if target in self.host_of else set()
            if host not in blind | set(self.late):
                self.do(Do.UNCORDON, target, reason)

    def set_flags(self) -> None:
        for holder, standing in sorted(self.leases.items()):
            if why := self.flags.get(holder):
                if standing.flag != why:
                    self.do(Do.FLAG, holder, why)
            elif standing.flag:
                self.do(Do.UNFLAG, holder, f"it is settled: {standing.flag}")

    def _adopt(self, container: Container) -> None:
        others = []
        for standing in list(self.leases.values()):
            if not _in_the_way(container, standing):
                continue
            if standing.state is State.GRANTED:
                assert standing.lease
                why = f"{container.holder}'s running container has {_what_clashes(container, standing)}"
                self.do(Do.REVOKE, standing.request.holder, why, fence=standing.lease.fence)
                del self.leases[standing.request.holder]
            else:
                others.append(standing)
        if not others:
            why = f"its container {container.id[:12]} on {container.host} runs with {_names(container)}"
            self.do(Do.ADOPT, container.holder, why, container=container, fence=container.fence)
            return
        for standing in others:
            other = standing.request.holder
            if standing.lease and 0 < container.fence < standing.lease.fence:
                self._fence_off(
                    container, f"{other} has a later lease of {_what_clashes(container, standing)}"
                )
                return
            self._flag(
                other, f"{container.holder}'s container has {_what_clashes(container, standing)} as well"
            )
        for uuid in container.uuids:
            self._cordon(uuid, f"{container.holder} and {others[0].request.holder} both run with it")

    def _release(self, standing: Standing, reason: EndReason, why: str) -> None:
        assert standing.lease
        self.do(Do.RELEASE, standing.request.holder, why, fence=standing.lease.fence, end_reason=reason)
        del self.leases[standing.request.holder]

    def _fence_off(self, container: Container, why: str) -> None:
        self.do(
            Do.FENCE_OFF,
            container.holder,
            f"container {container.id[:12]} is stopped: {why}",
            container=container,
        )
        held = {uuid for standing in self.leases.values() for uuid in _devices(standing)}
        for uuid in set(container.uuids) - held:
            self._cordon(
                uuid, f"container {container.id[:12]} of {container.holder} still has it, without a lease"
            )

    def _flag(self, holder: str, why: str) -> None:
        self.flags.setdefault(holder, why)

    def _cordon(self, target: str, why: str) -> None:
        self.cordons.setdefault(target, f"{UNKNOWN}: {why}")


def lost_hosts(cordons: Iterable[Cordon]) -> set[str]:
    """Hosts whose engine did not answer when somebody looked last: their sessions may run, and cannot be stopped."""
    prefix = host_target("")
    return {c.target.removeprefix(prefix) for c in cordons if c.reason == SILENT_ENGINE}


def _devices(standing: Standing) -> tuple[str, ...]:
    return standing.lease.uuids if standing.lease else ()


def _is_of(container: Container, standing: Standing) -> bool:
    """Whether the container is the lease's: both say the same devices, and the same fence where there is one."""
    lease = standing.lease
    if lease is None or standing.state is not State.RUNNING or sorted(container.uuids) != sorted(lease.uuids):
        return False
    return container.fence in (0, lease.fence)


def _in_the_way(container: Container, standing: Standing) -> bool:
    """It has one of the container's devices (two shares of one get on with each other), or its fence."""
    if standing.lease is None or standing.request.holder == container.holder:
        return False
    whole = not container.share_bytes or not standing.lease.share_bytes
    taken = whole and bool(set(container.uuids) & set(standing.lease.uuids))
    return taken or container.fence == standing.lease.fence


def _names(container: Container) -> str:
    return ", ".join(container.uuids) or "no GPU"


def _what_clashes(container: Container, standing: Standing) -> str:
    shared = sorted(set(container.uuids) & set(_devices(standing)))
    return ", ".join(shared) or f"the fence {container.fence}"


def known(ledger: Ledger, containers: Collection[Container]) -> Known:
    """What the ledger says about everything and about these containers' fences."""
    fences = sorted({container.fence for container in containers})
    r = schema.requests.c
    ended = select(r.holder, r.fence).where(r.state == State.ENDED, r.fence.in_(fences))
    s = schema.starts.c
    started = select(s.holder, s.fence).where(s.holder.in_({container.holder for container in containers}))
    with ledger.database.read() as connection:
        given_up = {(row.holder, row.fence) for row in connection.execute(ended)}
        newest = {row.holder: row.fence for row in connection.execute(started)}
    return Known(ledger.standings(), ledger.last_fence(), given_up, ledger.cordons(), newest)


def carry_out(ledger: Ledger, plan: Plan, by: str = "reconcile") -> list[Action]:
    """Do the plan's steps in the ledger. A step that no longer fits is left out (the next plan sees why).

    :returns: what was done; containers of `Do.FENCE_OFF` are the caller's to stop.
    """
    return [action for action in plan.actions if _carry_out(ledger, action, by)]


def _carry_out(ledger: Ledger, action: Action, by: str) -> bool:
    subject, why = action.subject, action.why
    match action.do:
        case Do.RAISE_FENCE:
            return ledger.raise_fence(action.fence, by, why)
        case Do.RELEASE:
            return bool(ledger.release(subject, action.end_reason, by=by, detail=why, fence=action.fence))
        case Do.REVOKE:
            return ledger.revoke(subject, action.fence, why, by)
        case Do.ADOPT:
            return _adopt(ledger, action, by)
        case Do.NOTE:
            assert action.container
            return ledger.started(subject, action.container.fence, action.container.host)
        case Do.FENCE_OFF:
            ledger.note("fenced off", subject, by, why)
            return True
        case Do.CORDON:
            ledger.cordon(subject, why, by)
            return True
        case Do.UNCORDON:
            return bool(ledger.uncordon(subject, by, why))
        case Do.FLAG:
            return ledger.flag(subject, why, by)
        case Do.UNFLAG:
            return ledger.flag(subject, "", by)


def _adopt(ledger: Ledger, action: Action, by: str) -> bool:
    container = action.container
    assert container
    user = container.user or container.holder.split("/")[1]
    try:
        lease = ledger.adopt(
            container.holder,
            user,
            container.uuids,
            container.fence,
            groups=container.groups,
            preemptible=container.preemptible,
            share_bytes=container.share_bytes,
            by=by,
        )
    except HeldByAnother:
        return False
    ledger.started(container.holder, lease.fence, container.host)
    return True
