"""A line of Python in a container of the sessions' image: how the doctor asks a host about itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import docker.errors
import requests
from respawner_spawner.engine import Engine

from .verdict import NotChecked

SECONDS = 180


class ContainerError(Exception):
    """The line failed, its last words; or there was no container to run it in."""


def answer(engine: Engine, image: str, arguments: Sequence[str], **host: Any) -> str:
    """Run ``python3 -c ARGUMENTS`` as root without privileges, and give back what it prints.

    :param host: as docker-py's `create_host_config`.
    :raises ContainerError: it ended with an error, or did not end.
    :raises NotChecked: the engine has no such image.
    """
    client = engine.client
    config = client.create_host_config(cap_drop=["ALL"], security_opt=["no-new-privileges"], **host)
    try:
        made = client.create_container(
            image, ["-c", *arguments], entrypoint=["python3"], user="0", host_config=config
        )["Id"]
    except docker.errors.ImageNotFound as error:
        raise NotChecked(f"{image} is not on the engine at {engine.host}") from error
    except requests.RequestException as error:
        raise ContainerError(_why(error)) from error
    try:
        client.start(made)
        status = client.wait(made, timeout=SECONDS)["StatusCode"]
        said = client.logs(made).decode(errors="replace").strip()
    except requests.RequestException as error:
        raise ContainerError(_why(error)) from error
    finally:
        with suppress(requests.RequestException):  # gone already, or the engine hangs, which is told above
            client.remove_container(made, force=True)
    if status:
        raise ContainerError((said.splitlines() or [f"status {status}"])[-1])
    return said


def _why(error: requests.RequestException) -> str:
    """An engine's refusal (`APIError`) in its own words; anything else is an engine or a mount that hangs."""
    if isinstance(error, docker.errors.APIError):
        return str(error.explanation or error)
    return f"the container did not start and end within {SECONDS} s ({type(error).__name__}: {error})"
