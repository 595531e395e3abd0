"""The sessions' network: a bridge of their own on which they reach the hub, but not each other."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types

from .settings import Settings
from .whole_files import whole_file


class NetworkError(Exception):
    """The network cannot be used; the message says what to change."""


def ensure_network(settings: Settings, client: docker.APIClient) -> bool:
    """Make the network if it is missing, and remember its gateway. Returns whether it was made."""
    try:
        network, made = client.inspect_network(settings.network), False
    except docker.errors.NotFound:
        network, made = _create(settings, client), True
    _file(settings).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(_file(settings), 0o644) as file:  # a hub that restarts meanwhile reads it
        file.write(f"{gateway_of(settings, network)}\n".encode())
    return made


def remembered(settings: Settings) -> str:
    """Where sessions reach the hub: the gateway address that `ensure_network` found, since a hub restarts also while the
    engine is away; in a cluster the address that the settings give it on the overlay."""
    if settings.cluster:
        return settings.cluster.hub_address
    try:
        return _file(settings).read_text().strip()
    except FileNotFoundError as error:
        raise NetworkError("The sessions' network has not been made yet: run `respawner-hub up`.") from error


def _file(settings: Settings) -> Path:
    return settings.state_dir / "run" / "gateway"


def _create(settings: Settings, client: docker.APIClient) -> dict[str, Any]:
    subnet = settings.engine.subnet
    # The gateway is named: Docker 20.10 does not tell the one that it takes for a subnet of ours.
    pools = [docker.types.IPAMPool(subnet=subnet, gateway=_first_address(subnet))] if subnet else []
    try:
        client.create_network(
            settings.network,
            driver="bridge",
            check_duplicate=True,
            ipam=docker.types.IPAMConfig(pool_configs=pools),
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels={"org.respawner.deployment": settings.hub.name},
        )
    except docker.errors.APIError as error:
        raise NetworkError(
            f"Docker could not make the network {settings.network!r}: {error.explanation}. "
            "Set another [engine] subnet if the range is in use."
        ) from error
    return client.inspect_network(settings.network)


def _first_address(subnet: str) -> str:
    return str(next(ipaddress.ip_network(subnet).hosts()))


def gateway_of(settings: Settings, network: dict[str, Any]) -> str:
    """The gateway address of a network, as the engine describes it."""
    for pool in network["IPAM"]["Config"] or []:
        if gateway := pool.get("Gateway"):
            return gateway.partition("/")[0]
    raise NetworkError(
        f"The Docker network {settings.network!r} has no gateway address (driver {network['Driver']}): "
        "sessions could not reach the hub. Name another one as [engine] network."
    )
