"""A line of Python in a container of the sessions' image: how the doctor asks a host about itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import docker.errors
from respawner_spawner.engine import UNREACHABLE, Engine

from .verdict import NotChecked

SECONDS = 60


class ContainerError(Exception):
    """The line failed; its last words."""


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
    except docker.errors.APIError as error:
        raise ContainerError(str(error.explanation or error)) from error
    try:
        client.start(made)
        status = client.wait(made, timeout=SECONDS)["StatusCode"]
        said = client.logs(made).decode(errors="replace").strip()
    except docker.errors.APIError as error:
        raise ContainerError(str(error.explanation or error)) from error
    except UNREACHABLE as error:
        raise ContainerError(f"it did not end within {SECONDS} s") from error
    finally:
        with suppress(docker.errors.NotFound):
            client.remove_container(made, force=True)
    if status:
        raise ContainerError((said.splitlines() or [f"status {status}"])[-1])
    return said
