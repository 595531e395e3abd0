"""Fixtures: a checkout and a package index of tiny wheels, and what the engine of this machine has."""

from __future__ import annotations

import os
import subprocess

import pytest

from respawner_hub.images.docker_cli import DockerCli, find_docker_cli
from respawner_hub.images.errors import ImageError
from respawner_hub.images.recipe import RECIPE_LABEL
from respawner_hub.settings import ImageSettings

from .tiny_wheels import make_checkout, make_index

ENGINE_HOST = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own, which `project_root()` finds."""
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.setenv("RESPAWNER_ROOT", str(root))
    return root


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that is all that pip knows."""
    folder = make_index(tmp_path / "index")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


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
        docker.command(
            "image", "ls", "--filter", f"label={BASE_LABEL}", "--format", "{{.Repository}}:{{.Tag}}"
        ),
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
