"""The engines of a deployment, by host: this machine's, or those of a cluster."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from respawner_spawner.engine import CALL_FAILED, Engine, engine_at
from respawner_spawner.suspend import running_container

from .settings import Settings

LOOK_SECONDS = 10


def engines_of(settings: Settings) -> dict[str, Engine]:
    """Host, as its agent calls it → its engine."""
    cluster = settings.cluster
    if cluster is None:
        return {socket.gethostname(): engine_at(settings.engine.host)}
    return {host: engine_at(cluster.engine(host), str(cluster.tls_dir)) for host in cluster.hosts}


async def engine_of(engines: Mapping[str, Engine], holder: str) -> Engine:
    """The engine that runs a session. Any where none is known to: what is asked of it finds nothing there."""
    candidates = list(engines.values())
    if len(candidates) == 1:
        return candidates[0]
    looks = [asyncio.ensure_future(_if_it_runs(engine, holder)) for engine in candidates]
    try:
        for look in asyncio.as_completed(looks):  # one that hangs is not waited for
            if found := await look:
                return found
        return candidates[0]
    finally:
        for waiting in looks:
            waiting.cancel()


async def _if_it_runs(engine: Engine, holder: str) -> Engine | None:
    try:
        runs = await asyncio.wait_for(running_container(engine, holder), LOOK_SECONDS)
        return engine if runs else None
    except CALL_FAILED:
        return None
