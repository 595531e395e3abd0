"""Where requests are made: the ledger as the hub's handlers use it. Every method blocks and belongs in a thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from respawner_spawner.leases.admin import UNKNOWN, host_target
from respawner_spawner.leases.asks import BadAsk, ask_from, is_preemptible, wants_cpu_meanwhile
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Kind, Limit, Request, State
from respawner_spawner.leases.reconcile import lost_hosts
from respawner_spawner.leases.records import LedgerError, Standing
from respawner_spawner.sizes import size_bytes

from . import actions, idle, words
from .actions import BadAction
from .drain import DRAINING, suspend_due
from .rounds import Policy, outlook, run_round, see
from .swarm import SWARM

ASSIGNED_PRIORITY = 1_000_000
"""Of a request that an admin made for somebody: before all others."""


@dataclass(frozen=True)
class Session:
    """Who asks."""

    holder: str
    user: str
    groups: Sequence[str] = ()


class Desk:
    """
    :param max_gpus: the most that one session may ask for.
    :param default_gpus: what a session gets whose user chooses nothing.
    :param hosts: of the settings: such a one is known also where it has no GPUs and nobody has heard of it.
    """

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        idle_rules: idle.Rules,
        *,
        max_gpus: int,
        default_gpus: int,
        hosts: Collection[str] = (),
    ) -> None:
        self.ledger, self.policy, self.idle_rules = ledger, policy, idle_rules
        self.max_gpus, self.default_gpus, self.hosts = max_gpus, default_gpus, hosts

    # A session's request --------------------------------------------------------------------------------

    def ask_of(self, options: Mapping[str, Any]) -> Ask:
        """
        :raises BadAsk:
        """
        return ask_from(options, default_gpus=self.default_gpus, max_gpus=self.max_gpus)

    def ask(
        self,
        session: Session,
        options: Mapping[str, Any] | None,
        remembered: Mapping[str, Any] | None = None,
        *,
        by: str = "",
        only_granted: bool = False,
        without_gpu: bool = False,
    ) -> Standing | None:
        """Ask for what a session's `user_options` say; None if its server can start now.

        What can never be granted is refused here; a request that becomes impossible later stays in the queue and
        says so.

        :param options: what is chosen now: another wish than before gives up the request that waits. None goes on
            with that request, or asks for what was chosen last (`remembered`).
        :param by: "user:NAME" of an admin who asks for the user: then the request goes first, and may be
            non-preemptible whoever the user is.
        :param only_granted: make no request: it is the scheduler that starts what was granted.
        :param without_gpu: nor refuse one that has none: it ran without a GPU and goes on so. A request that is open
            counts all the same.
        :returns: the standing of a request that waits.
        :raises BadAsk: it is no choice that this hub offers, or the request was given up meanwhile.
        """
        found = self.ledger.request_of(session.holder)
        if found is None and without_gpu:
            return None
        chosen = (remembered if options is None else options) or {}
        ask, cpu_meanwhile = self.ask_of(chosen), wants_cpu_meanwhile(chosen)
        if found and found.state is State.RUNNING:
            return None  # its container may still be there: the spawner knows, and adopts it
        if found and options is None:
            return found if self._keeps_waiting(found) else None
        if ask.kind is not Kind.NONE:
            self.refuse_impossible(session, ask)  # before the request that waits is given up
        preemptible = is_preemptible(chosen) or not self._may_be_non_preemptible(
            session, by, is_remembered=options is None
        )
        if found and _is_another_wish(found, ask, cpu_meanwhile, preemptible):
            self.ledger.cancel(session.holder, by, "asked for something else")
        if ask.kind is Kind.NONE:
            return None
        if only_granted:
            raise BadAsk("Its request was given up meanwhile, so it does not start.")
        standing = self._submit(session, ask, cpu_meanwhile=cpu_meanwhile, preemptible=preemptible, by=by)
        return standing if self._keeps_waiting(standing) else None

    def refuse_impossible(self, session: Session, ask: Ask) -> None:
        """
        :raises BadAsk: nothing that is there could ever grant it, or the limits of user and groups forbid it.
        """
        now = self.ledger.clock()
        request = Request(-1, session.holder, session.user, ask, now, tuple(session.groups))
        wait = outlook(see(self.ledger, self.policy, now), request, now)
        if wait and wait.impossible:
            raise BadAsk(f"This cannot be granted here: {wait.reason}")

    def _may_be_non_preemptible(self, session: Session, by: str, *, is_remembered: bool) -> bool:
        """
        :param is_remembered: the wish was made earlier, when the user had the right or an admin asked: then the session
            starts as a preemptible one, instead of not at all.
        :raises BadAsk:
        """
        if by or self.policy.may_be_non_preemptible(session.user, session.groups):
            return True
        if is_remembered:
            return False
        raise BadAsk(
            "preemptible = false: you may not start sessions that are never suspended for others. Leave it out, or ask "
            "an admin, who can assign you one."
        )

    def standing(self, holder: str) -> Standing | None:
        """The session's open request."""
        return self.ledger.request_of(holder)

    def waits(self, holder: str) -> bool:
        """Whether the session's server cannot start before its request is granted."""
        found = self.ledger.request_of(holder)
        return found is not None and self._keeps_waiting(found)

    def cancel(self, holder: str, by: str) -> bool:
        """Give up a request whose server has not begun to start."""
        return self.ledger.cancel(holder, by) is not None

    def snooze(self, holder: str, by: str) -> Standing:
        """Put a session's suspension off, as often as the admin allows.

        :raises BadAction: it was not warned, may not, or has used up its snoozes.
        """
        found = self.ledger.request_of(holder)
        if found is None:
            raise BadAction("Nothing to put off: this session has no GPU.")
        if refusal := idle.why_no_snooze(found, self.idle_rules):
            raise BadAction(refusal)
        standing = self.ledger.snooze(holder, self.ledger.clock() + self.idle_rules.snooze_seconds, by)
        if standing is None:
            raise BadAction("This session has just ended.")
        return standing

    def give_up(self, holder: str, reason: str, by: str) -> None:
        """End the lease of a session that nobody can stop, because its host is lost.

        What still runs there is fenced off when the host is back; until then its devices stay out of use.

        :raises BadAction: it has no lease, or its host answers.
        """
        found, name = self.ledger.request_of(holder), words.session(holder)
        if found is None or found.lease is None or found.state is not State.RUNNING:
            raise BadAction(f"{name} has no session with GPUs. If its request waits, release cancels it.")
        hosts = {device.host for device in self.ledger.devices() if device.uuid in found.lease.uuids}
        lost = lost_hosts(self.ledger.cordons())
        if not (hosts & lost if hosts else lost):
            where = ", ".join(sorted(hosts)) or "a host"
            raise BadAction(
                f"{name} is on {where}, which answers, so its session can be saved and stopped: release it, or drain "
                "its GPU. Only sessions on a host that does not answer are given up."
            )
        if self.ledger.give_up(holder, reason, by) is None:
            raise BadAction(f"{name} has just ended.")

    @staticmethod
    def _keeps_waiting(standing: Standing) -> bool:
        return standing.state is State.QUEUED and not standing.request.cpu_meanwhile

    def _submit(
        self, session: Session, ask: Ask, *, cpu_meanwhile: bool, preemptible: bool, by: str
    ) -> Standing:
        request = self.ledger.submit(
            session.holder,
            session.user,
            ask,
            groups=session.groups,
            priority=ASSIGNED_PRIORITY if by else 0,
            preemptible=preemptible,
            cpu_meanwhile=cpu_meanwhile,
            by=by,
        )
        if by and request.priority < ASSIGNED_PRIORITY:  # it waited already
            self.ledger.set_priority(session.holder, ASSIGNED_PRIORITY, by, "assigned")
        run_round(self.ledger, self.policy)
        standing = self.ledger.request(request.id)
        assert standing is not None
        return standing

    # What admins do to the cluster ----------------------------------------------------------------------

    def carry_out(self, action: actions.Action, by: str) -> str:
        """An action that concerns the ledger only; one sentence of what was done.

        :raises BadAction:
        """
        try:
            return self._carry_out(action, by)
        except (LedgerError, ValueError) as error:
            raise BadAction(str(error)) from error

    def _carry_out(self, action: actions.Action, by: str) -> str:
        match action:
            case actions.Drain():
                return self._drain(action, by)
            case actions.Cordon():
                if action.reason.startswith((DRAINING, UNKNOWN)):
                    raise BadAction(f"reason = {action.reason!r}: begin it otherwise, or use drain.")
                self.ledger.cordon(self._target(action.target), action.reason, by)
                return f"{action.target} takes no new leases."
            case actions.Uncordon():
                return self._uncordon(action, by)
            case actions.Forget():
                return self._forget(action.host, by)
            case actions.Share():
                self._device(action.device)
                self.ledger.share(action.device, size_bytes(action.memory), by)
                return f"Shares may take {action.memory} of {action.device}."
            case actions.Reserve():
                start, end = action.start.timestamp(), action.end.timestamp()
                made = self.ledger.reserve(
                    action.group, action.count, start, end, by, action.model, action.note
                )
                return f"Reservation {made.id} is made."
            case actions.Unreserve():
                if not self.ledger.cancel_reservation(action.id, by):
                    raise BadAction(f"id = {action.id}: there is no such reservation, or it has ended.")
                return f"Reservation {action.id} is cancelled."
            case actions.Limit():
                self.ledger.set_limit(
                    Limit(action.subject, action.most, action.guarantee, action.priority), by
                )
                return f"The limit of {action.subject} is set."
            case actions.Unlimit():
                if not self.ledger.remove_limit(action.subject, by):
                    raise BadAction(f"subject = {action.subject!r}: it has no limit.")
                return f"{action.subject} has no limit any more."
        raise NotImplementedError(type(action).__name__)

    def _drain(self, action: actions.Drain, by: str) -> str:
        """Sessions that are there are suspended by the scheduler, and queue again for what they had."""
        target = self._target(action.target)
        self.ledger.cordon(target, DRAINING + action.reason, by)
        moved = suspend_due(self.ledger, by, at_once=target)
        others = target == host_target(action.target) and len(self.hosts) > 1
        return (
            f"{action.target} takes no new {'sessions' if others else 'leases'}; sessions that are suspended now: {moved}"
            f"{', and those without GPUs in a moment' if others else ''}. Who cannot be is tried again until it is uncordoned."
        )

    def _uncordon(self, action: actions.Uncordon, by: str) -> str:
        """All reasons, or the one that is named; but not the Swarm's, which would be back at the next look."""
        named, target = action.target, self._target(action.target)
        standing = [cordon for cordon in self.ledger.cordons() if cordon.target == target]
        meant = {action.reason, DRAINING + (action.reason or "")}
        ended = [
            cordon
            for cordon in standing
            if cordon.by != SWARM and (action.reason is None or cordon.reason in meant)
        ]
        for cordon in ended:
            self.ledger.uncordon(target, by, cordon.reason)
        left = [cordon for cordon in standing if cordon not in ended]
        if still := [cordon.reason for cordon in left if cordon.by == SWARM]:
            return (
                f"{named} takes none yet, {'; '.join(still)}: `docker node update --availability active {named}` on the hub, "
                "or `docker node ls` to see what is wrong with it."
            )
        if left:
            return f"{named} is still cordoned: {'; '.join(cordon.reason for cordon in left)}."
        return f"{named} takes leases again." if ended else f"{named} was not cordoned."

    def _forget(self, host: str, by: str) -> str:
        """
        :raises BadAction: the settings name it, or nobody knows it.
        """
        if host in self.hosts:
            raise BadAction(
                f"host = {host!r}: [cluster] hosts names it. Take it out there first: the playbook remove_host.yml does."
            )
        if not self.ledger.forget_host(host, by):
            raise BadAction(
                f"host = {host!r}: no such host. Known: {', '.join(self._known_hosts()) or 'none'}."
            )
        return f"{host} is forgotten: its devices, its cordons and its agent. History and audit log stay."

    def _known_hosts(self) -> list[str]:
        agents = {agent.host for agent in self.ledger.agents()}
        return sorted(agents | {device.host for device in self.ledger.devices()} | set(self.hosts))

    def _target(self, named: str) -> str:
        """A device by its UUID, a host by its name.

        :raises BadAction: there is neither.
        """
        devices = self.ledger.devices()
        if any(named in (device.uuid, device.parent) for device in devices):
            return named
        if named in self._known_hosts():
            return host_target(named)
        if any(named == cordon.target for cordon in self.ledger.cordons()):
            return named
        known = self._known_hosts() + [d.uuid for d in devices]
        raise BadAction(f"target = {named!r}: no such GPU or host. Known: {', '.join(known) or 'none'}.")

    def _device(self, uuid: str) -> None:
        known = [device.uuid for device in self.ledger.devices() if device.kind is Kind.GPU]
        if uuid not in known:
            raise BadAction(f"device = {uuid!r}: no such GPU. Known: {', '.join(known) or 'none'}.")


def _is_another_wish(found: Standing, ask: Ask, cpu_meanwhile: bool, preemptible: bool) -> bool:
    """Whether a new choice gives up the request that is there. Once it is granted, nobody waits meanwhile."""
    waits_otherwise = found.state is State.QUEUED and found.request.cpu_meanwhile != cpu_meanwhile
    return (found.request.ask, found.request.preemptible) != (ask, preemptible) or waits_otherwise
