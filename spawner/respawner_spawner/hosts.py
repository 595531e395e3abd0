"""Several hosts: where a session's container goes, and which host is lost. Plain functions, and questions to the ledger.

The ledger has chosen the host of a session with GPUs when it granted them. One without goes, among the hosts that take
sessions, always to the same one: nothing has to be remembered, and users spread evenly (rendezvous hashing, Thaler and
Ravishankar 1998).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from .leases.admin import SILENT_SECONDS, UNKNOWN, host_target
from .leases.ledger import Ledger
from .leases.model import Lease, State
from .leases.reconcile import SILENT_ENGINE

LOST_SECONDS = 60.0
"""A host whose agent was not heard of for so long, while others were, is lost: its sessions may start elsewhere."""


def choose_host(holder: str, hosts: Iterable[str]) -> str:
    """One of the hosts, the same for the same holder while it is among them.

    :raises ValueError: there is none.
    """
    return max(hosts, key=lambda host: hashlib.sha256(f"{holder}\0{host}".encode()).digest())


def known_host(ledger: Ledger, holder: str) -> str:
    """Where the session's container is, running or not, as far as the ledger knows; "" where there is none."""
    start = ledger.newest_start(holder)
    return start.host if start else _leased_host(ledger, holder)


def _leased_host(ledger: Ledger, holder: str) -> str:
    """Of a session with GPUs that was started before starts were written down."""
    standing = ledger.request_of(holder)
    if standing is None or standing.lease is None or standing.state is not State.RUNNING:
        return ""
    return host_of(ledger, standing.lease)


def host_of(ledger: Ledger, lease: Lease) -> str:
    """Where the lease's devices are; "" where the ledger knows them no more."""
    hosts = {device.uuid: device.host for device in ledger.devices()}
    return hosts.get(lease.uuids[0], "")


def silent_seconds(ledger: Ledger, hosts: Collection[str]) -> dict[str, float]:
    """Host → since when its agent is silent, of those that are. Nobody is where all are: then nobody has listened.

    A host that was never heard of is silent since ever.
    """
    now = ledger.clock()
    seen = {agent.host: agent.seen for agent in ledger.agents()}
    ages = {host: now - seen.get(host, 0.0) for host in hosts}
    silent = {host: age for host, age in ages.items() if age > SILENT_SECONDS}
    return silent if len(silent) < len(ages) else {}


def open_hosts(ledger: Ledger, hosts: Collection[str]) -> list[str]:
    """Hosts that take new sessions without GPUs: heard of, and not cordoned by an admin or because their engine is silent."""
    cordoned = {
        cordon.target
        for cordon in ledger.cordons()
        if cordon.reason == SILENT_ENGINE or not cordon.reason.startswith(UNKNOWN)
    }
    silent = silent_seconds(ledger, hosts)
    return [host for host in hosts if host not in silent and host_target(host) not in cordoned]
