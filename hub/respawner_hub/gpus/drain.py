"""Draining: a GPU or host takes no new leases, and its sessions are suspended, each until it has worked.

A drain is a cordon whose reason begins with `DRAINING`, and ends with it. Who cannot be suspended now (a cell runs, the
disk is full) is tried again, after as long again as the drain had lasted when it failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import State
from respawner_spawner.leases.records import Cordon, Standing

DRAINING = "draining: "
RETRY_LEAST_SECONDS = 60.0
RETRY_MOST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Drained:
    """A session that a drain wants away."""

    standing: Standing
    drain: Cordon

    @property
    def next_try(self) -> float:
        """When it is to be suspended; 0: at once."""
        failed = self.standing.suspend_failed_at
        if failed is None or failed < self.drain.since:
            return 0.0
        return failed + min(max(failed - self.drain.since, RETRY_LEAST_SECONDS), RETRY_MOST_SECONDS)


def drained(ledger: Ledger) -> list[Drained]:
    """Running sessions on what is drained that are not being suspended already. Blocks."""
    drains = [cordon for cordon in ledger.cordons() if cordon.reason.startswith(DRAINING)]
    if not drains:
        return []
    targets = {d.uuid: (d.uuid, d.parent, host_target(d.host)) for d in ledger.devices()}
    found = []
    for standing in ledger.standings():
        if standing.state is not State.RUNNING or standing.suspending_since is not None:
            continue
        on = (
            {target for uuid in standing.lease.uuids for target in targets.get(uuid, ())}
            if standing.lease
            else set()
        )
        if drain := next((drain for drain in drains if drain.target in on), None):
            found.append(Drained(standing, drain))
    return found


def suspend_due(ledger: Ledger, by: str, *, at_once: str = "", leave: Collection[str] = ()) -> int:
    """Begin to suspend those whose time has come; they queue again for what they had. How many they are. Blocks.

    :param at_once: a target that an admin drains just now: there the time has come for everybody.
    :param leave: holders whose sessions are stopping anyway.
    """
    now, begun = ledger.clock(), 0
    for found in drained(ledger):
        early = now < found.next_try and found.drain.target != at_once
        if early or found.standing.request.holder in leave:
            continue
        anywhere = dataclasses.replace(found.standing.request.ask, uuids=(), host="")
        begun += ledger.begin_suspend(found.standing.request.holder, found.drain.reason, anywhere, by)
    return begun
