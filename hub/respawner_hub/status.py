"""What runs and who has which GPU, from the supervisor, the engine and the ledger."""

from __future__ import annotations

from typing import Any

import docker
from respawner_spawner.container_spec import DEPLOYMENT_LABEL, SERVER_LABEL, USER_LABEL
from respawner_spawner.devices import inventory
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
    found = inventory()
    leases = Ledger(settings.own_database_url).leases()
    holders = {uuid: lease.holder for lease in leases for uuid in lease.uuids}
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
        "gpus": [{"uuid": gpu.uuid, "name": gpu.name, "holder": holders.get(gpu.uuid)} for gpu in found.gpus],
        "gpu_cause": found.cause,
    }


def describe(found: dict[str, Any]) -> str:
    """The same for people."""
    programs = ", ".join(f"{name} {found[name].lower()}" for name in PROGRAMS)
    lines = [f"{found['url']}: {programs}"]
    lines += [
        f"  session {s['user']}{'/' + s['server'] if s['server'] else ''}: {s['state']} ({s['container']})"
        for s in found["sessions"]
    ]
    lines += [f"  GPU {g['uuid']} ({g['name']}): {g['holder'] or 'free'}" for g in found["gpus"]]
    if found["gpu_cause"]:
        lines.append(f"  GPUs: {found['gpu_cause']}")
    return "\n".join(lines)
