"""The main job in the browser: log in, spawn, train; the kernel dies, the container goes; everything is back."""

from __future__ import annotations

import re

import pytest

from . import training
from .browser import open_page
from .deployment import wait_until
from .kernels import UserServer

pytestmark = [pytest.mark.docker, pytest.mark.browser]

NUMBERS = re.compile(r"epoch (\d+), loss ([\d.]+), (\d+) steps")


def numbers(text: str) -> tuple[int, float, int]:
    """Epoch, last loss and number of steps that a training cell printed."""
    found = NUMBERS.search(text)
    assert found, text
    return int(found[1]), float(found[2]), int(found[3])


def kill_kernel(deployment, user: str) -> None:
    """What the kernel's out-of-memory killer does, from outside."""
    deployment.exec(user, "pkill", "-KILL", "-f", "ipykernel_launcher")


def wait_for_new_kernel(deployment, user: str, old_pid: str) -> None:
    wait_until(
        lambda: deployment.kernel_pids(user) not in ([], [old_pid]), 240, "Jupyter to restart the kernel"
    )


def test_training_survives_a_killed_kernel_and_a_removed_container(deployment):
    with deployment.new_user("ada") as user, open_page(deployment) as person:
        person.page.goto(deployment.url)
        person.screenshot("login")
        person.log_in(user)
        person.start_server()
        UserServer(deployment, user).request(
            "PUT",
            "api/contents/digits.ipynb",
            json={"type": "file", "format": "text", "content": training.notebook()},
        )
        person.open_notebook(user, "digits.ipynb")
        person.run_cell(0)
        epoch, loss, steps = numbers(person.run_cell(1))
        assert epoch == 4

        # The kernel is killed; JupyterLab restarts it by itself.
        (pid,) = deployment.kernel_pids(user)
        kill_kernel(deployment, user)
        person.screenshot("kernel-died")
        person.accept_dialog()  # "appears to have died. It will restart automatically."
        wait_for_new_kernel(deployment, user, pid)
        person.wait_for_idle_kernel()
        continued = person.run_cell(2)
        assert "restored" in continued.lower(), continued
        assert numbers(continued)[0] == 8
        assert numbers(continued)[1] < loss
        assert numbers(continued)[2] == 2 * steps
        person.run_cell(3)
        person.page.locator(".jp-Notebook .jp-CodeCell img").last.scroll_into_view_if_needed()
        person.screenshot("restored-after-kill")

        # The container is removed; the next spawn brings it back.
        deployment.engine.remove_container(deployment.container(user), force=True)
        wait_until(
            lambda: not deployment.api("GET", f"users/{user}").json()["servers"], 240, "the hub to notice"
        )
        person.start_server()
        person.open_notebook(user, "digits.ipynb")
        epoch_after, _, steps_after = numbers(person.run_cell(2))
        assert (epoch_after, steps_after) == (12, 3 * steps)

        # Restart Kernel in the menu brings everything back too.
        person.menu("Kernel", "Restart Kernel…")
        person.accept_dialog()
        person.wait_for_idle_kernel()
        assert numbers(person.run_cell(2))[0] == 16
