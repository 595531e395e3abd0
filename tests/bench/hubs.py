"""Two JupyterHubs side by side that differ in nothing but the spawner, each with a proxy and a network of its own.

Not a deployment of the product: that would compare hubs, accounts and services as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests
from respawner_hub.images import ensure_bundle

from ..e2e.deployment import ARTIFACTS, wait_until
from ..ports import free_ports

START_SECONDS = 180
STOP_SECONDS = 30
PATIENCE = {"start_timeout": 300, "http_timeout": 180}
LOG_LINES = 30
USER = "alice"


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True)
class Hub:
    """A running JupyterHub. `name` is the prefix of everything that it makes on the engine."""

    name: str
    url: str
    """With a slash at the end."""


@dataclass(frozen=True)
class _Places:
    """Addresses and files of one hub and its proxy."""

    name: str
    folder: Path
    gateway: str
    port: int
    hub_port: int
    proxy_port: int
    token: str

    @property
    def hub_url(self) -> str:
        return f"http://{self.gateway}:{self.hub_port}"


@contextlib.contextmanager
def running_hub(
    engine: docker.APIClient, name: str, folder: Path, spawner: dict[str, dict[str, Any]]
) -> Iterator[Hub]:
    """A JupyterHub with this spawner configuration; at the end nothing of it is left on machine and engine."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(_network(engine, name))
        stack.callback(_remove_containers_and_volumes, engine, name)
        port, hub_port, proxy_port = free_ports(3)
        places = _Places(name, folder, gateway, port, hub_port, proxy_port, token=secrets.token_hex(16))
        stack.enter_context(_process(places, "proxy", _proxy_command(places)))
        hub = stack.enter_context(_process(places, "hub", _hub_command(places, spawner)))
        url = f"http://127.0.0.1:{places.port}/"
        _wait_until_healthy(url, hub)
        yield Hub(name, url)


def ours(engine_host: str, name: str, image: str, folder: Path) -> dict[str, dict[str, Any]]:
    """`GPUDockerSpawner` as the product configures it: kernel bundle, snapshot volume, leases."""
    return {
        "JupyterHub": {"spawner_class": "respawner_spawner.GPUDockerSpawner"},
        "GPUDockerSpawner": {
            "deployment": name,
            "engine_host": engine_host,
            "database_url": f"sqlite:///{folder / 'leases.sqlite'}",
            "bundle": str(ensure_bundle(ARTIFACTS / "state")),
            "image": image,
        },
    }


def stock(engine_host: str, name: str, image: str) -> dict[str, dict[str, Any]]:
    """`DockerSpawner` as its documentation sets it up for users who keep their files."""
    return {
        "JupyterHub": {"spawner_class": "dockerspawner.DockerSpawner"},
        "DockerSpawner": {
            "client_kwargs": {"base_url": engine_host},
            "prefix": name,
            "image": image,
            "use_internal_ip": True,
            "remove": True,
            "volumes": {f"{name}-home-{{username}}": "/home/jovyan"},
        },
    }


def log_ends(folder: Path) -> str:
    """The ends of all logs below the folder, for messages of failures."""
    return "\n".join(
        f"--- {file.relative_to(folder)}\n"
        + "\n".join(file.read_text(errors="replace").splitlines()[-LOG_LINES:])
        for file in sorted(folder.rglob("*.log"))
    )


# Processes ----------------------------------------------------------------------------------------------


def _proxy_command(places: _Places) -> list[str]:
    program = shutil.which("configurable-http-proxy")
    if program is None:
        raise BenchError("configurable-http-proxy is not installed. `make up` installs it.")
    command = [program, "--ip", "127.0.0.1", "--port", str(places.port)]
    command += ["--api-ip", "127.0.0.1", "--api-port", str(places.proxy_port)]
    return [*command, "--default-target", places.hub_url, "--error-target", f"{places.hub_url}/hub/error"]


def _hub_command(places: _Places, spawner: dict[str, dict[str, Any]]) -> list[str]:
    """Writes the configuration that both hubs share, with this spawner's added."""
    shared: dict[str, dict[str, Any]] = {
        "JupyterHub": {
            "bind_url": f"http://127.0.0.1:{places.port}",
            "hub_bind_url": places.hub_url,
            "hub_connect_url": places.hub_url,
            "db_url": f"sqlite:///{places.folder / 'hub.sqlite'}",
            "cookie_secret_file": str(places.folder / "cookie_secret"),
            "authenticator_class": "dummy",
            "cleanup_servers": False,  # `_remove_containers_and_volumes` is quicker
        },
        "ConfigurableHTTPProxy": {
            "should_start": False,
            "api_url": f"http://127.0.0.1:{places.proxy_port}",
        },
        "Authenticator": {"allow_all": True},
        "Spawner": {"default_url": "/lab", "mem_limit": "4G", "poll_interval": 10, **PATIENCE},
        "DockerSpawner": {"network_name": places.name},
    }
    config = {
        section: {**shared.get(section, {}), **spawner.get(section, {})} for section in {**shared, **spawner}
    }
    file = places.folder / "jupyterhub_config.json"
    file.write_text(json.dumps(config, indent=1))
    return [sys.executable, "-m", "jupyterhub", "-f", str(file)]


@contextlib.contextmanager
def _process(places: _Places, role: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child with its output in a log file. Ctrl-C reaches only us, and we end it in order."""
    environment = {**os.environ, "CONFIGPROXY_AUTH_TOKEN": places.token}
    with open(places.folder / f"{role}.log", "wb") as log:
        child = subprocess.Popen(
            command,
            cwd=places.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_healthy(url: str, hub: subprocess.Popen[bytes]) -> None:
    def healthy() -> bool:
        if hub.poll() is not None:
            raise BenchError(f"JupyterHub ended with status {hub.returncode} while it started")
        try:
            with requests.Session() as session:
                session.trust_env = False  # a proxy of the machine's is not on the way to loopback
                return session.get(f"{url}hub/health", timeout=5).ok
        except requests.RequestException:
            return False

    wait_until(healthy, START_SECONDS, f"JupyterHub at {url}")


# On the engine ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _network(engine: docker.APIClient, name: str) -> Iterator[str]:
    """A bridge of the sessions' own, as the product makes it; gives its gateway's address."""
    options = {"com.docker.network.bridge.enable_icc": "false"}
    engine.create_network(name, driver="bridge", options=options)
    try:
        yield engine.inspect_network(name)["IPAM"]["Config"][0]["Gateway"].partition("/")[0]
    finally:
        engine.remove_network(name)


def _remove_containers_and_volumes(engine: docker.APIClient, name: str) -> None:
    for container in engine.containers(all=True, filters={"name": f"^/{name}-"}):
        with contextlib.suppress(docker.errors.NotFound):
            engine.remove_container(container["Id"], force=True, v=True)
    for volume in engine.volumes(filters={"name": f"{name}-"})["Volumes"] or []:
        engine.remove_volume(volume["Name"], force=True)
