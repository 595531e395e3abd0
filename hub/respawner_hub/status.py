"""What runs and who has which GPU, from the supervisor, the engine and the ledger."""

from __future__ import annotations

from typing import Any

import docker
from respawner_spawner.container_spec import DEPLOYMENT_LABEL, SERVER_LABEL, USER_LABEL
from respawner_spawner.leases.ledger import Ledger

from .settings import Settings
from .supervision import PROGRAMS, Supervisor


def collect(settings: Settings, supervisor: Supervisor) -> dict[str, Any]:
    """A plain dict, made for JSON.

    :raises docker.errors.DockerException: the engine does not answer.
    """
    client = docker.APIClient(base_url=settings.engine.host, version="auto")
    label = f"{DEPLOYMENT_LABEL}={settings.hub.name}"
    containers = client.containers(all=True, filters={"label": label})
    return {
        "url": settings.url,
        **supervisor.states(),
        "sessions": [
            {
                "user": container["Labels"][USER_LABEL],
                "server": container["Labels"][SERVER_LABEL],
                "container": container["Names"][0].lstrip("/"),
                "state": container["Status"],
            }
            for container in containers
        ],
        **_gpus(Ledger(settings.own_database_url)),
    }


def _gpus(ledger: Ledger) -> dict[str, Any]:
    """What the hosts' agents told last. A shared GPU has several holders."""
    holders: dict[str, list[str]] = {}
    for lease in ledger.leases():
        for uuid in lease.uuids:
            holders.setdefault(uuid, []).append(lease.holder)
    agents = ledger.agents()
    causes = [f"{agent.host}: {agent.detail}" for agent in agents if agent.detail]
    return {
        "gpus": [
            {
                "uuid": device.uuid,
                "host": device.host,
                "name": device.model,
                "holder": ", ".join(holders.get(device.uuid, ())) or None,
                "cordon": device.cordon,
            }
            for device in ledger.devices()
        ],
        "gpu_cause": "; ".join(causes) if agents else "no agent has been heard of yet",
    }


def describe(found: dict[str, Any]) -> str:
    """The same for people."""
    programs = ", ".join(f"{name} {found[name].lower()}" for name in PROGRAMS)
    lines = [f"{found['url']}: {programs}"]
    lines += [
        f"  session {s['user']}{'/' + s['server'] if s['server'] else ''}: {s['state']} ({s['container']})"
        for s in found["sessions"]
    ]
    lines += [
        f"  GPU {g['uuid']} ({g['name']}): {g['holder'] or 'free'}"
        + (f", takes no new lease: {g['cordon']}" if g["cordon"] else "")
        for g in found["gpus"]
    ]
    if found["gpu_cause"]:
        lines.append(f"  GPUs: {found['gpu_cause']}")
    return "\n".join(lines)
