"""What Docker Swarm says of the hosts, in the ledger: `docker node update --availability drain HOST` drains a host as
`respawner-hub gpu drain HOST` does, `pause` cordons it, `active` ends that. A node that is down takes no sessions.

Swarm is only read. What an admin has set by Respawner stands beside it and is left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docker.errors import APIError
from respawner_spawner.engine import CALL_FAILED, Engine
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.ledger import Ledger

from .drain import DRAINING

SWARM = "swarm"
"""Who cordons a host because of its node, in the ledger's words."""
DRAINED = f"{DRAINING}its node is drained in the Swarm"
PAUSED = "its node is paused in the Swarm"
DOWN = "its node is down in the Swarm, so what runs there does not reach the hub"
NODES_SECONDS = 20
NO_MANAGER, IN_NO_SWARM = 503, "inactive"
"""An engine's answer that is no manager now, and the state of one that is in no Swarm. A manager answers the first, too,
while it is locked, being prepared, or its certificate has expired."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """
    :param state: "ready", "down", "disconnected", "unknown".
    :param availability: "active", "pause", "drain".
    :param created: a time as Docker writes it, in UTC: the later one is the larger text.
    """

    name: str
    address: str
    state: str
    availability: str
    created: str = ""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Node:
        """From an entry of the engine's `GET /nodes`."""
        status, spec = found.get("Status", {}), found.get("Spec", {})
        return cls(
            name=found.get("Description", {}).get("Hostname", ""),
            address=status.get("Addr", ""),
            state=status.get("State", ""),
            availability=spec.get("Availability", ""),
            created=found.get("CreatedAt", ""),
        )

    @property
    def reasons(self) -> list[str]:
        """Why it takes no sessions; nothing where it does."""
        found = {"drain": [DRAINED], "pause": [PAUSED]}.get(self.availability, [])
        return found + ([DOWN] if self.state in ("down", "disconnected") else [])


async def hear_the_swarm(ledger: Ledger, manager: Engine, hosts: Mapping[str, str]) -> None:
    """Write down what the Swarm says. While its manager does not answer, everything stays as it was said last.

    :param hosts: of the settings: name → address.
    """
    try:
        found = await _nodes(manager)
    except CALL_FAILED as error:
        log.warning("The Swarm does not say how its nodes are, so what it said last stays: %s", error)
        return
    reasons = reasons_by_host(map(Node.of, found or ()), hosts)
    await asyncio.to_thread(tell, ledger, reasons, in_a_swarm=found is not None)


async def _nodes(manager: Engine) -> list[dict[str, Any]] | None:
    """Entries of the engine's `GET /nodes`; None where it is in no Swarm.

    :raises APIError: it is in one, and cannot say.
    """
    try:
        found: list[dict[str, Any]] = await asyncio.wait_for(manager.call("nodes"), NODES_SECONDS)
    except APIError as error:
        if error.status_code != NO_MANAGER:
            raise
        info = await asyncio.wait_for(manager.call("info"), NODES_SECONDS)
        if info["Swarm"]["LocalNodeState"] != IN_NO_SWARM:
            raise
        return None
    return found


def reasons_by_host(nodes: Iterable[Node], hosts: Mapping[str, str]) -> dict[str, list[str]]:
    """Host → why its node takes no sessions. A node is a host's by its name or by its address; others are none of ours.

    A host that left the Swarm and joined it again has two: the node that it was stays until `docker node rm`.
    """
    by_address = {address: host for host, address in hosts.items()}
    found: dict[str, list[str]] = {}
    for node in sorted(nodes, key=lambda node: (node.state == "ready", node.created)):  # the last one counts
        host = node.name if node.name in hosts else by_address.get(node.address)
        if host:
            found[host] = node.reasons
    return found


def tell(ledger: Ledger, reasons: Mapping[str, Iterable[str]], *, in_a_swarm: bool = True) -> None:
    """Set the cordons that are missing, and take those away that are not true any more. Blocks.

    A host that has no node any more keeps what was said of it last: it has no network to the hub, and nobody has said that
    sessions may come. Its next node says so, or `respawner-hub gpu forget` where it has left for good.
    """
    heard = {host_target(host) for host in reasons}
    wanted = {(host_target(host), reason) for host, found in reasons.items() for reason in found}
    standing = {
        (cordon.target, cordon.reason)
        for cordon in ledger.cordons()
        if cordon.by == SWARM and (cordon.target in heard or not in_a_swarm)
    }
    for target, reason in sorted(wanted - standing):
        ledger.cordon(target, reason, SWARM)
    for target, reason in sorted(standing - wanted):
        ledger.uncordon(target, SWARM, reason, "the Swarm says so no more")
