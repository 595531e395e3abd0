"""What dockerspawner's tests expect around them, as a pytest plugin: the sdist has the tests without their conftest.

``SUITE_SPAWNER`` is `stock` or `ours`. With `ours` the name `dockerspawner.DockerSpawner` is this project's class, so
that every test is about it, also those that make one by hand.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import dockerspawner
import jupyterhub.tests.conftest as jupyterhub_fixtures
import pytest
import pytest_asyncio
from jupyterhub.tests.mocking import MockHub
from jupyterhub.user import User

if os.environ["SUITE_SPAWNER"] == "ours":
    from respawner_spawner.spawner import GPUDockerSpawner

    dockerspawner.DockerSpawner = GPUDockerSpawner

_new_spawner = User._new_spawner


def _made_when_looked_up(self, server_name, *args, **kwargs):
    """As before JupyterHub 6, which the tests were written for: `user.spawners[name]` makes the server's record."""
    if server_name not in self.orm_spawners:
        self._new_orm_spawner(server_name, "")
    return _new_spawner(self, server_name, *args, **kwargs)


User._new_spawner = _made_when_looked_up

jupyterhub_app = jupyterhub_fixtures.app
cleanup_after = jupyterhub_fixtures.cleanup_after
ssl_tmpdir = jupyterhub_fixtures.ssl_tmpdir
user = jupyterhub_fixtures.user

MockHub.hub_ip = "0.0.0.0"
MockHub.hub_connect_ip = os.environ["HUB_CONNECT_IP"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop a module: the hub of a module's tests lives in it."""
    for item in items:
        if pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest.fixture
def app(jupyterhub_app):
    folder = Path(os.environ["SUITE_FOLDER"])
    config = jupyterhub_app.config
    config.DockerSpawner.prefix = "dockerspawner-test"
    config.GPUDockerSpawner.engine_host = os.environ["DOCKER_HOST"]
    config.GPUDockerSpawner.deployment = "dockerspawner-test"
    config.GPUDockerSpawner.database_url = f"sqlite:///{folder / 'ledger.sqlite'}"
    config.GPUDockerSpawner.bundle = os.environ["SUITE_BUNDLE"]
    config.GPUDockerSpawner.stop_grace_seconds = 10
    return jupyterhub_app


@pytest.fixture
def dockerspawner_configured_app(app):
    """A hub whose users may have two named servers, with the spawner under test."""
    settings = {
        "spawner_class": dockerspawner.DockerSpawner,
        "allow_named_servers": True,
        "named_server_limit_per_user": 2,
    }
    with mock.patch.dict(app.tornado_settings, settings):
        yield app


@pytest.fixture
def username(request):
    return f"test-user-{abs(hash(request.node.name)) % 10**8}"
