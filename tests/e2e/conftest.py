"""One deployment for the whole folder: bringing one up takes minutes where nothing is installed."""

from __future__ import annotations

import shutil

import pytest

from .deployment import ARTIFACTS, Deployment, code_in


@pytest.fixture(scope="session")
def deployment():
    """A running deployment with an admin; its `up` was the product's own."""
    shutil.rmtree(ARTIFACTS / "screenshots", ignore_errors=True)
    (ARTIFACTS / "screenshots").mkdir(parents=True)
    with Deployment() as deployment:
        deployment.first_up = deployment.up()
        print(deployment.first_up)
        deployment.set_password("admin", code_in(deployment.first_up))
        yield deployment


@pytest.fixture
def user(deployment, request):
    """Name of a new user with an account; the server is stopped and the volumes removed at the end."""
    with deployment.new_user(
        "u" + "".join(c for c in request.node.name.lower() if c.isalnum())[-24:]
    ) as name:
        yield name


def _somebody(user: str):
    @pytest.fixture(name=user)
    def somebody(deployment):
        with deployment.somebody(user) as name:
            yield name

    return somebody


ada, bob, eve = map(_somebody, ("ada", "bob", "eve"))
"""People of a `GpuDeployment`."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the ends of hub, proxy and engine logs."""
    report = (yield).get_result()
    found = item.funcargs.get("deployment") if hasattr(item, "funcargs") else None
    if report.failed and found is not None:
        report.sections.append(("logs of the deployment", found.logs()))
