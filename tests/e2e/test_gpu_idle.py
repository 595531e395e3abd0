"""What decides whether an idle session may be suspended: a real server says whether a cell runs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from respawner_hub.gpus.hub_client import HubClient

from .deployment import wait_until
from .kernels import UserServer

pytestmark = [pytest.mark.docker]


def test_the_scheduler_sees_whether_a_cell_runs(deployment, user):
    def cell_running() -> bool | None:
        hub = HubClient(f"{deployment.url}hub/api", deployment.api_token, deployment.url)
        return asyncio.run(hub.cell_running(user, ""))

    deployment.start_server(user)
    server = UserServer(deployment, user)
    kernel = server.open_notebook("work.ipynb")
    kernel.run("x = 1")
    wait_until(lambda: cell_running() is False, 240, "the kernel to be idle")
    with ThreadPoolExecutor(1) as pool:
        cell = pool.submit(kernel.run, "import os, time\nwhile not os.path.exists('seen'): time.sleep(0.1)")
        wait_until(lambda: cell_running() is True, 240, "the cell to be seen")
        server.write("seen", "")
        cell.result()
    wait_until(lambda: cell_running() is False, 240, "the kernel to be idle again")
    deployment.stop_server(user)
    assert cell_running() is None
