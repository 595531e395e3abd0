"""Snapshots inside a running cell: when they are taken, what comes back of them, and how long they stay."""

from __future__ import annotations

import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import IPython
import pytest
from respawner import contract
from respawner.bystanders import is_installed
from respawner.errors import SettingError
from respawner.manifest import SAFEPOINT, Manifest
from respawner.safepoints.frames import locals_of, name_of, notebook_frames
from respawner.safepoints.pace import Pace
from respawner.store.retention import Rules

from tests.snapshot.notebook import PATIENCE_SECONDS, PYTHON, Notebook
from tests.snapshot.test_retention import at, kept

OpenNotebook = Callable[..., Notebook]
AT_EVERY = {contract.SAFEPOINT_SECONDS_ENV: "0", contract.SAFEPOINT_SHARE_ENV: "1"}
"""At every safe point at which the state before is written."""

TRAINING = """
import torch, time
def train(epochs):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters())
    history = []
    for epoch in range(epochs):
        for step in range(5):
            loss = model(torch.ones(2, 4)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
            time.sleep(0.02)
    return history
"""
WRITTEN = "while __import__('respawner').status()['pending']: time.sleep(0.01)"
"""In a cell: until its last safe point is on the disk."""


STEP_BY_STEP = """
import os, time
from respawner.startup import active_engine
points = active_engine().safepoints
def boundary():
    while points._recorder.writes or time.monotonic() < points._due: time.sleep(0.005)
    points._at_boundary()
    while points._recorder.writes: time.sleep(0.005)
    open(HELD, 'w').close()
    while os.path.exists(HELD): time.sleep(0.005)
points.loops._boundary = boundary
"""


def step_by_step(notebook: Notebook) -> None:
    """From here on this kernel's loops take a safe point at every boundary, and hold there once it is on the disk.

    So what a test waits for comes, and nothing after it, however slow the disk and however late the test. Whoever waits
    lets them go on by `one_step`; the next kernel's loops run freely.
    """
    code = STEP_BY_STEP.replace("HELD", repr(str(notebook.folder / "held")))
    assert notebook.value(f"exec({code!r}, {{}})") == "None"


def one_step(notebook: Notebook) -> None:
    (notebook.folder / "held").unlink(missing_ok=True)


def run_freely(notebook: Notebook) -> None:
    """The end of `step_by_step`, where the kernel goes on."""
    points = "__import__('respawner.startup').startup.active_engine().safepoints"
    assert notebook.value(f"setattr({points}.loops, '_boundary', {points}._at_boundary)") == "None"


def wait_for_safepoint(
    notebook: Notebook, wanted: Callable[[Manifest], bool] = lambda found: True
) -> Manifest:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        is_held = (notebook.folder / "held").exists()
        for found in notebook.timeline.snapshots():
            if isinstance(found, Manifest) and found.kind == SAFEPOINT and wanted(found):
                return found
        if is_held:
            one_step(notebook)
        time.sleep(0.02)
    raise AssertionError([found.cell for found in notebook.manifests()])


# Pace ------------------------------------------------------------------------------------------------------


def test_next_one_is_due_when_the_last_ones_stall_is_its_share() -> None:
    pace = Pace(share=0.01, least_seconds=30)
    assert pace.wait_seconds(0.001, 0, 10**12) == 30
    assert pace.wait_seconds(2.0, 0, 10**12) == pytest.approx(200)
    assert Pace(share=0).wait_seconds(0.0, 0, 10**12) == float("inf")


def test_writing_all_day_takes_half_of_the_budget() -> None:
    wait = Pace(least_seconds=1).wait_seconds(0.1, 5 * 10**9, 2 * 10**12)
    assert wait == pytest.approx(432)
    assert 86400 / wait * 5e9 == pytest.approx(1e12)


def test_settings_of_the_pace_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contract.SAFEPOINT_SHARE_ENV, "0.05")
    assert Pace.from_environment() == Pace(share=0.05)
    for wrong in ("1.5", "5%", "-1", "nan"):
        monkeypatch.setenv(contract.SAFEPOINT_SHARE_ENV, wrong)
        with pytest.raises(SettingError, match=contract.SAFEPOINT_SHARE_ENV):
            Pace.from_environment()


# Retention -------------------------------------------------------------------------------------------------


def test_a_long_cells_snapshots_push_out_none_of_a_finished_cell() -> None:
    finished = [at(n, 100.0 - n) for n in range(5, 0, -1)]
    inside = [at(n, 60.0 - n, safepoint=True) for n in range(50, 5, -1)]
    assert kept(inside + finished, Rules(latest=4, hourly=0, daily=0)) == [2, 3, 4, 5, 48, 49, 50]


def test_snapshots_inside_a_cell_go_when_there_is_one_after_it() -> None:
    inside = [at(n, 60.0 - n, safepoint=True) for n in range(9, 5, -1)]
    rules = Rules(latest=1, hourly=0, daily=0)
    assert kept([at(10, 0.0), *inside], rules) == [10]
    failed = replace(at(10, 0.0), target=False)
    assert kept([failed, *inside], rules) == [7, 8, 9, 10]


# What comes back -------------------------------------------------------------------------------------------


def test_a_kernel_that_dies_in_a_cell_comes_back_at_the_last_safe_point(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(TRAINING)
    notebook.client.execute("result = train(1000)")
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["steps"] > 7)
    notebook.kill_at_once()
    notebook.start()
    safe = next(found for found in notebook.manifests() if found.kind == SAFEPOINT)
    facts = safe.cell["safepoint"]
    assert facts["at"] == "optimizer"
    ran = notebook.run(
        "import respawner; stopped = respawner.stopped(); mine = stopped['functions']['train']"
    )
    assert ran.error is None, ran.error
    assert "inside cell [2]" in ran.text
    assert (
        f"cell [2] `result = train(1000)` had not ended; this is its state after {facts['steps']}" in ran.text
    )
    assert f"train: epoch = {facts['steps'] // 5}" in ran.text
    assert "begins anew" in ran.text
    # The step has been done, and nothing after it.
    assert notebook.value("len(mine['history'])") == str(facts["steps"] - 1)
    assert notebook.value("int(mine['optimizer'].state[mine['model'].weight]['step'])") == str(facts["steps"])
    assert notebook.value("mine['optimizer'].param_groups[0]['params'][0] is mine['model'].weight") == "True"
    assert ran.prompt == 3


def test_a_cell_that_fails_leaves_its_last_safe_point_as_the_target(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(TRAINING + f"\ndef fail():\n    train(2)\n    {WRITTEN}\n    raise RuntimeError('diverged')")
    notebook.settle()
    assert notebook.run("fail()").error == "RuntimeError: diverged"
    notebook.kill()
    failed, safe, *_ = notebook.manifests()
    assert (failed.state, safe.kind) == ("error", SAFEPOINT)
    ran = notebook.start().run("pass")
    assert f"snapshot {safe.id}" in ran.text
    assert f"failed, and `%restore {failed.id}` brings back its state then" in ran.text


def test_a_cell_that_is_interrupted_leaves_its_last_safe_point_as_the_target(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(TRAINING)
    notebook.client.execute("result = train(1000)")
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["steps"] > 7)
    notebook.manager.interrupt_kernel()
    notebook.run("pass", store_history=False)
    notebook.kill()
    interrupted = notebook.manifests()[0]
    assert interrupted.state == "interrupted"
    safe = next(found for found in notebook.manifests() if found.kind == SAFEPOINT)
    assert notebook.timeline.target() == safe
    ran = notebook.start().run("import respawner; place = respawner.stopped()")
    assert f"snapshot {safe.id}" in ran.text
    assert f"was interrupted, and `%restore {interrupted.id}` brings back its state then" in ran.text
    assert notebook.value("place['steps']") == str(safe.cell["safepoint"]["steps"])


def test_status_says_how_much_of_a_running_cell_a_kill_would_cost(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(TRAINING + "\nimport respawner")
    notebook.settle()
    unknown = "respawner.status()['safepoint_every_seconds'], respawner.status()['at_most_lost_seconds']"
    assert notebook.value(unknown) == "(None, None)"
    notebook.run("result = train(2)")
    notebook.settle()
    every, lost = eval(notebook.value(unknown))
    assert 0.02 < every < lost < PATIENCE_SECONDS  # an iteration sleeps for 0.02 s


def test_a_finished_cell_is_restored_as_it_ended(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(TRAINING)
    notebook.settle()
    notebook.run(f"result = train(2)\n{WRITTEN}")
    notebook.settle()
    assert notebook.manifests()[0].cell["safepoints"] > 0
    ran = notebook.restart_after_kill().run(
        "print(len(result), respawner.stopped() if 'respawner' in globals() else '')"
    )
    assert "had not ended" not in ran.text
    assert ran.text.strip().splitlines()[-1].startswith("10")


def test_none_are_taken_where_the_share_is_nothing(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**{**AT_EVERY, contract.SAFEPOINT_SHARE_ENV: "0"}).start()
    notebook.run(TRAINING + "\ntrain(2)")
    assert notebook.settle()["durable"]
    assert [found.kind for found in notebook.manifests()] == ["cell"]


def test_a_no_grad_block_of_the_cell_is_no_setting_of_the_restored_kernel(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import torch, respawner, time")
    step_by_step(notebook)
    notebook.client.execute(
        "with torch.no_grad():\n    for i in respawner.resume(range(1000)):\n        time.sleep(0.02)"
    )
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 1)
    notebook.kill_at_once()
    ran = notebook.start().run("print(torch.is_grad_enabled())")
    assert ran.text.strip().splitlines()[-1] == "True"


HOOK = """
import sys
from respawner.safepoints.optimizer_steps import OptimizerSteps
begun, steps = [], []
watch = OptimizerSteps(lambda: begun.append(1), lambda: steps.append(len(begun)))
import torch
loader = sys.modules["torch.optim.optimizer"].__spec__.loader
print(type(loader).__name__)
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
before = len(sys.meta_path)
watch.remove()
optimizer.step()
print(len(begun), steps, before - len(sys.meta_path))
"""


def test_steps_are_told_although_torch_is_imported_later() -> None:
    done = subprocess.run([PYTHON, "-c", HOOK], capture_output=True, text=True, check=True)
    assert done.stdout == "SourceFileLoader\n1 [1] 1\n"


def test_a_functions_own_locals_stay_what_they_are_and_nothing_is_held() -> None:
    def trains(lr: float) -> dict[str, Any]:
        settings = locals()
        locals_of(sys._getframe())
        return settings

    def lets_go() -> bool:
        batch = Tensors()
        alive = weakref.ref(batch)
        assert locals_of(sys._getframe())["batch"] is batch
        del batch
        return alive() is None

    assert trains(0.1)["lr"] == 0.1
    assert lets_go()


class Tensors:
    pass


def test_what_runs_the_cell_is_no_part_of_it() -> None:
    """This function is one that is not installed, as of a kernel in a checkout."""
    namespace: dict[str, Any] = {"frames": lambda: [name_of(f) for f in notebook_frames(namespace)]}
    exec("def train():\n    return frames()\nfound = train()", namespace)
    assert namespace["found"] == ["<module>", "train"]


@pytest.mark.parametrize(
    "file",
    [
        subprocess.__file__,
        IPython.__file__,
        "/home/ada/.local/lib/python3.11/site-packages/torch/optim/adam.py",
        "/usr/lib/python3/dist-packages/numpy/core.py",
    ],
)
def test_libraries_are_known_wherever_they_are(file: str) -> None:
    assert is_installed(file)
    assert not is_installed("/home/ada/project/train.py")


def test_failed_cell_whose_safe_point_was_not_written_is_what_comes_back(open_notebook: OpenNotebook) -> None:
    """A thread of the user's tears the safe point; the state at the failed cell's end is whole."""
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import torch, respawner, time; before = 1")
    assert notebook.settle()["durable"]
    notebook.run(
        "from respawner.errors import TornError\n"
        "from respawner.saving.saver import Saver\n"
        "write = Saver._write\n"
        "def torn(self, writer, job):\n"
        "    if job.facts['kind'] == 'safepoint':\n"
        "        raise TornError('as if')\n"
        "    return write(self, writer, job)\n"
        "Saver._write = torn\n"
    )
    ran = notebook.run("for i in respawner.resume(range(5)):\n    time.sleep(0.05)\nafter = 2\n1 / 0")
    assert "safe point" not in ran.text
    assert notebook.settle()["durable"]
    notebook.restart_after_kill()
    notebook.run("y = 1")
    assert notebook.value("(before, after)") == "(1, 2)"


def test_scaler_in_the_middle_of_an_iteration(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook().start()
    notebook.run(
        "import torch; w = torch.nn.Parameter(torch.ones(2)); o = torch.optim.SGD([w], lr=0.1)\n"
        "s = torch.amp.GradScaler('cpu', init_scale=8.0); s.scale(w.sum()).backward(); s.step(o)"
    )
    assert notebook.settle()["durable"]
    notebook.restart_after_kill()
    notebook.run("o.zero_grad(); s.scale(w.sum()).backward(); s.step(o); s.update()")
    assert notebook.value("(s.get_scale(), s._get_growth_tracker())") == "(8.0, 1)"


def test_object_whose_lock_the_cell_holds_at_a_safe_point_is_saved_at_its_end(
    open_notebook: OpenNotebook,
) -> None:
    """At the safe point its own code waits for the lock that the cell holds, and is given up: then, and not later."""
    notebook = open_notebook(**AT_EVERY, RESPAWNER_OBJECT_SECONDS="0.3").start()
    notebook.run(
        "import threading, time, respawner\nlock = threading.Lock()\nrespawner.exclude('lock')\n"
        "class Log:\n    def __getstate__(self):\n        with lock:\n            return dict(self.__dict__)\n"
        "log = Log(); log.lines = [1]"
    )
    step_by_step(notebook)
    notebook.client.execute(
        "with lock:\n    for i in respawner.resume(range(3)):\n        time.sleep(0.1)\n"
        "for i in respawner.resume(range(1000)):\n    time.sleep(0.02)"
    )
    held = wait_for_safepoint(notebook)
    assert [(lost.path, lost.reason) for lost in held.skipped] == [
        ("log", "its own code did not return within 0.3 s")
    ]
    free = wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 5)
    assert free.skipped == [], "the first loop is over, and with it the lock's being held"
    notebook.manager.interrupt_kernel()
    assert notebook.settle()["durable"]
    assert notebook.manifests()[0].skipped == []
