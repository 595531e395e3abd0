"""One look of the scheduler at everything: what is there, what the policy says of it, and the ledger's yes.

The scheduler does it every second; the hub does it itself when a request comes, so that nobody who can be
served waits for the next look. The ledger refuses what two of them would grant twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Cluster, Decision, Lease, Limit, Request, Rules, State, Wait
from respawner_spawner.leases.policy import decide, decide_view
from respawner_spawner.leases.view import View

from ..settings import GpuSettings
from . import idle


@dataclass(frozen=True)
class Policy:
    """The settings that scheduling needs."""

    rules: Rules
    most_per_user: float | None = None
    """For users without a limit of their own, unless the admin has set one for "everyone"."""
    non_preemptible: tuple[str, ...] = ()
    """Who may start sessions that are never suspended for others: "user:NAME", "group:NAME" or "everyone"."""

    def may_be_non_preemptible(self, user: str, groups: Iterable[str]) -> bool:
        subjects = {"everyone", f"user:{user}", *(f"group:{name}" for name in groups)}
        return not subjects.isdisjoint(self.non_preemptible)


@dataclass(frozen=True)
class Round:
    cluster: Cluster
    decision: Decision
    granted: list[Lease]
    view: View


def run_round(ledger: Ledger, policy: Policy, view: View | None = None) -> Round:
    """Grant what can be granted now; write down why the others wait.

    :param view: of the round before, where the caller keeps it (`Round.view`): only what has changed is looked at anew.
    """
    now = ledger.clock()
    cluster = see(ledger, policy, now)
    if take_back_from_ill(ledger, cluster):
        cluster = see(ledger, policy, now)
    view = view.follow(cluster) if view else View.of(cluster)
    decision = decide_view(view, now)
    return Round(cluster, decision, ledger.apply(decision), view)


def take_back_from_ill(ledger: Ledger, cluster: Cluster) -> bool:
    """Revoke what is granted, not yet started, and on a device that takes no sessions any more: its request is served
    elsewhere, at its old place. True if there was any."""
    cordons = {device.uuid: device.cordon for device in cluster.devices}
    revoked = False
    for lease in cluster.leases:
        if lease.state is not State.GRANTED:
            continue
        ill = {
            uuid: cordons.get(uuid, "it is gone") for uuid in lease.uuids if cordons.get(uuid, "it is gone")
        }
        if ill:
            why = "; ".join(f"{uuid} ({cordon})" for uuid, cordon in ill.items())
            said = f"What you were granted takes no sessions any more: {why}; you keep your place"
            revoked |= ledger.revoke(lease.holder, lease.fence, said, "scheduler")
    return revoked


def see(ledger: Ledger, policy: Policy, now: float) -> Cluster:
    """What the policy looks at, with the devices as the agents told last."""
    cluster = ledger.cluster(ledger.devices(now), now, policy.rules)
    return with_default_limit(cluster, policy.most_per_user)


def outlook(cluster: Cluster, request: Request, now: float) -> Wait | None:
    """What the policy would say to one more request; None: it would be granted now."""
    return decide(dataclasses.replace(cluster, queue=(*cluster.queue, request)), now).waits.get(request.id)


def with_default_limit(cluster: Cluster, most: float | None) -> Cluster:
    if most is None or any(limit.subject == "everyone" for limit in cluster.limits):
        return cluster
    return dataclasses.replace(cluster, limits=(*cluster.limits, Limit("everyone", most)))


def policy_of(settings: GpuSettings) -> Policy:
    rules = Rules(
        preempt=settings.preempt,
        min_run_seconds=settings.min_run_minutes * 60,
        slice_seconds=settings.slice_minutes * 60,
        slot_held_seconds=settings.slot_held_minutes * 60,
        suspend_cost_seconds=settings.suspend_cost_seconds,
        interrupt_cells=settings.interrupt_cells,
        patience_seconds=settings.patience_minutes * 60,
        pass_seconds=settings.pass_minutes * 60,
        booking_lead_seconds=settings.booking_lead_minutes * 60,
    )
    return Policy(rules, settings.most_per_user or None, tuple(settings.non_preemptible))


def idle_rules_of(settings: GpuSettings) -> idle.Rules:
    return idle.Rules(
        idle_seconds=settings.idle_minutes * 60,
        snoozes=settings.snoozes,
        snooze_seconds=settings.snooze_minutes * 60,
        interrupt_cells=settings.interrupt_cells,
        can_snooze_preemption=settings.can_snooze_preemption,
    )
