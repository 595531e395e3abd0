"""Fixtures: the engine of this machine, and the images that `make up` has made on it."""

from __future__ import annotations

import os
import subprocess

import pytest
from respawner_hub.images.docker_cli import DockerCli, find_docker_cli
from respawner_hub.images.errors import ImageError
from respawner_hub.images.recipe import RECIPE_LABEL
from respawner_hub.settings import ImageSettings

ENGINE_HOST = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture(scope="session")
def docker() -> DockerCli:
    try:
        docker = find_docker_cli(ENGINE_HOST)
        docker.check_reachable()
    except ImageError as error:
        pytest.skip(str(error))
    return docker


@pytest.fixture(scope="session")
def base_image(docker) -> str:
    """The debootstrapped base, where the user image was built before."""
    listed = subprocess.run(
        docker.command("image", "ls", "respawner/base", "--format", "{{.Repository}}:{{.Tag}}"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if not listed:
        pytest.skip("no base made by debootstrap on this engine: the user image was not built here")
    return listed[0]


@pytest.fixture(scope="session")
def user_image(docker) -> str:
    """The user image, where it was built here; `make up` builds it."""
    name = os.environ.get("RESPAWNER_TEST_IMAGE", ImageSettings().name)
    found = docker.inspect(name)
    if found is None or RECIPE_LABEL not in found.labels:
        pytest.skip(f"{name} is not on this engine: `make up` builds it")
    return name
