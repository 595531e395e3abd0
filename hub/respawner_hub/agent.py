"""This machine's agent, which tells of its GPUs: as a process of this deployment, and as the hub asks it."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import respawner_spawner
from respawner_spawner.agent.client import TIMEOUT_SECONDS, AgentClient

from . import secrets
from .settings import Settings


def client(settings: Settings, seconds: float = TIMEOUT_SECONDS) -> AgentClient:
    """For one event loop; keeps the last good answer and its age."""
    url = f"http://127.0.0.1:{settings.agent.port}"
    token = secrets.agent_token_file(settings.state_dir).read_text().strip()
    return AgentClient(url, token, timeout_seconds=seconds)


def clients(settings: Settings, seconds: float = TIMEOUT_SECONDS) -> list[AgentClient]:
    """As `client`, one a host of the deployment."""
    cluster = settings.cluster
    if cluster is None:
        return [client(settings, seconds)]
    token = secrets.agent_token_file(settings.state_dir).read_text().strip()
    return [
        AgentClient(cluster.agent(host), token, timeout_seconds=seconds, ca_file=cluster.tls_dir / "ca.crt")
        for host in cluster.hosts
    ]


def fingerprint(settings: Settings) -> str:
    """Changes when the agent must be restarted to be what settings and code say."""
    digest = hashlib.sha256(" ".join(_arguments(settings)).encode())
    for file in sorted(Path(respawner_spawner.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def execute(settings: Settings) -> None:
    """Become the agent; does not return."""
    os.execv(sys.executable, [sys.executable, "-m", "respawner_spawner.agent", *_arguments(settings)])


def _arguments(settings: Settings) -> list[str]:
    agent = settings.agent
    return [
        f"--token-file={secrets.agent_token_file(settings.state_dir)}",
        f"--port={agent.port}",
        f"--engine={settings.engine.host}",
        f"--interval={agent.interval_seconds}",
        f"--processes={agent.processes_seconds}",
        f"--canary={agent.canary_seconds}",
    ]
