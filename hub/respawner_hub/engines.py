"""The engines of a deployment, by host: this machine's, or those of a cluster."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from docker.errors import APIError
from respawner_spawner.engine import UNREACHABLE, Engine, engine_at
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
    answers = await asyncio.gather(*(_runs(engine, holder) for engine in candidates))
    return next((engine for engine, runs in zip(candidates, answers, strict=True) if runs), candidates[0])


async def _runs(engine: Engine, holder: str) -> bool:
    try:
        return bool(await asyncio.wait_for(running_container(engine, holder), LOOK_SECONDS))
    except (*UNREACHABLE, APIError):
        return False
