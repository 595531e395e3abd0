"""In the browser: a training cell dies at a random step, is run again in the restarted kernel, and is one training."""

from __future__ import annotations

import json
import random
import re

import pytest

from . import training
from .browser import open_page
from .deployment import wait_until
from .kernels import UserServer
from .test_main_job import kill_kernel, wait_for_new_kernel

pytestmark = [pytest.mark.docker, pytest.mark.browser]

KERNEL = "quick-safe-points"
STEPS_AN_EPOCH = 22
"""1347 pictures in batches of 64."""


def set_kernel_environment(deployment, user: str, environment: dict[str, str]) -> None:
    """What docs/snapshots.md tells a user to do: a kernel of their own with these variables."""
    spec = {
        "argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": KERNEL,
        "language": "python",
        "env": environment,
    }
    write = (
        "import pathlib, sys; folder = pathlib.Path.home() / '.local/share/jupyter/kernels' / sys.argv[1]; "
        "folder.mkdir(parents=True, exist_ok=True); (folder / 'kernel.json').write_text(sys.argv[2])"
    )
    deployment.exec(user, "python3", "-c", write, KERNEL, json.dumps(spec))


def steps_told(deployment, user: str) -> list[str]:
    return deployment.exec(user, "sh", "-c", "cat ~/steps.txt 2>/dev/null || true").splitlines()


def saved_inside_a_cell(deployment, user: str) -> bool:
    search = "grep -rlw safepoint $RESPAWNER_STORE/timelines/*/manifests || true"
    return bool(deployment.exec(user, "sh", "-c", search).strip())


def test_loss_curve_of_a_killed_training_is_one_curve(deployment):
    kill_at = random.randint(STEPS_AN_EPOCH // 2, 2 * STEPS_AN_EPOCH)
    print(f"killed at step {kill_at} or a little later")
    with deployment.new_user("cleo") as user, open_page(deployment) as person:
        person.log_in(user)
        person.start_server()
        # Every safe point, so that a short training has some; the default is one in half a minute.
        set_kernel_environment(
            deployment, user, {"RESPAWNER_SAFEPOINT_SECONDS": "0", "RESPAWNER_SAFEPOINT_SHARE": "1"}
        )
        server = UserServer(deployment, user)
        sources = (training.SETUP, training.LONG_CELL, training.CURVE.replace("KILLED_AT", str(kill_at)))
        server.write("long.ipynb", training.notebook(sources, KERNEL))
        person.open_notebook(user, "long.ipynb")
        person.run_cell(0)
        (pid,) = deployment.kernel_pids(user)
        person.begin_cell(1)
        wait_until(lambda: len(steps_told(deployment, user)) >= kill_at, 240, f"step {kill_at}")
        wait_until(
            lambda: saved_inside_a_cell(deployment, user), 20, "a safe point on disk, before the cell ends"
        )
        kill_kernel(deployment, user)
        before = steps_told(deployment, user)
        person.accept_dialog()  # "appears to have died. It will restart automatically."
        wait_for_new_kernel(deployment, user, pid)
        person.wait_for_idle_kernel()
        shown = person.run_cell(1)
        assert re.search(r"restored .* \(inside cell \[\d+\]\)", shown), shown
        assert "`for x, y in loader` goes on with item" in shown, shown
        assert "epoch 4, loss" in shown
        assert f"{4 * STEPS_AN_EPOCH} steps" in shown
        person.run_cell(2)
        person.page.locator(".jp-Notebook .jp-CodeCell img").last.scroll_into_view_if_needed()
        person.screenshot("resumed-training")

        killed = server.open_notebook("long.ipynb").value(training.FINGERPRINT)
        told = steps_told(deployment, user)
        again = len(told) - 4 * STEPS_AN_EPOCH
        assert 0 <= again < len(before), "it did not begin anew"
        # A step that was done twice, after the last safe point, gave the same bits twice.
        assert len(set(told)) == 4 * STEPS_AN_EPOCH, told
        assert [float.fromhex(line.split()[1]) for line in dict.fromkeys(told)] == killed["losses"]

        never = server.open_notebook("never-killed.ipynb")
        for source in (training.SETUP, training.LONG_CELL.replace("time.sleep(0.5)", "pass")):
            outcome = never.run(source)
            assert outcome.status == "ok", outcome.error
        assert killed == never.value(training.FINGERPRINT)
