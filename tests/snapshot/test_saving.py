"""Writing beside the kernel's work: what the next cell may do meanwhile, and what a kill or an end costs."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Callable

import pytest
from respawner.errors import StoreError
from respawner.saving.saver import Saver
from respawner.store.retention import packs_bytes
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import PATIENCE_SECONDS, Notebook

BIG = "import numpy as np; a = np.arange(48_000_000); b = a[10:]"
ABOUT_384_MB = 384_000_000


def test_the_next_cell_may_change_what_is_being_written(notebook: Notebook) -> None:
    """Queued at once: the state after each of the cells is what that cell left."""
    notebook.run_all([BIG, "a += 1", "a[-1] = 0", "marker = 'end'"])
    notebook.settle()
    assert [int(found.cell["execution_count"]) for found in notebook.manifests()] == [4, 3, 2, 1]
    for number, (first, last) in {1: (0, 47_999_999), 2: (1, 48_000_000), 3: (1, 0)}.items():
        snapshot = next(s for s in notebook.manifests() if s.cell.get("execution_count") == number)
        notebook.run(f"%restore {snapshot.id}")
        assert notebook.value("(int(a[0]), int(a[-1]), b.base is a)") == str((first, last, True))


FLUSHED = f"respawner.flush({PATIENCE_SECONDS - 10})"
ARENA = "__import__('respawner').status()['arena_bytes']"


def test_cell_that_stands_by_copies_nothing(notebook: Notebook) -> None:
    """Queued at once, while some hundred megabytes are being written: only who may change them waits for a copy."""
    notebook.run_all([f"{BIG}; n = 3", "print(n)", "n += 1"])
    notebook.settle()
    assert notebook.value(ARENA) == "0"
    notebook.run_all(["a += 1", "a += 1"])
    assert notebook.settle()["durable"]
    assert int(notebook.value(ARENA)) > 0
    assert [int(each.cell["execution_count"]) for each in notebook.manifests()] == [5, 4, 3, 2, 1]
    notebook.restart_after_kill()
    notebook.run("y = 1")
    assert notebook.value("(int(a[0]), int(a[-1]), n)") == "(2, 48000001, 4)"


def test_cell_that_was_thought_to_stand_by_tears_nothing(notebook: Notebook) -> None:
    notebook.run("import sys")
    notebook.run_all([BIG, "sys.modules['__main__'].a[::1000] += 1"])
    assert notebook.settle()["durable"]
    notebook.restart_after_kill()
    notebook.run("y = 1")
    assert notebook.value("(int(a[0]), int(a[1]), int(a[-1000]))") == "(1, 1, 47999001)"


def test_thread_that_writes_meanwhile_tears_nothing(notebook: Notebook) -> None:
    """What is on disk is what its digests say, however often memory changes under the writer."""
    notebook.run(
        BIG
        + """
import threading, time
stop = threading.Event()
def churn():
    while not stop.is_set():
        a[::1000] += 1
        time.sleep(0.001)
thread = threading.Thread(target=churn); thread.start()
"""
    )
    notebook.run("x = 1")
    notebook.run("stop.set(); thread.join(); total = int(a.sum())")
    assert notebook.settle()["durable"]
    total = notebook.value("total")
    notebook.restart_after_kill()
    notebook.run("y = 1")
    assert notebook.value("(int(a.sum()), total, x)") == f"({total}, {total}, 1)"


@pytest.mark.parametrize("end", ["shutdown", "SIGTERM"])
def test_what_is_not_durable_becomes_so_at_the_end(open_notebook: Callable[..., Notebook], end: str) -> None:
    notebook = open_notebook().start()
    notebook.run(BIG)
    notebook.run("a += 1; done = True")
    if end == "SIGTERM":
        os.kill(notebook.pid, signal.SIGTERM)
        notebook.manager.provisioner.process.wait()
    else:
        notebook.manager.client().shutdown()
        notebook.manager.provisioner.process.wait()
    notebook.start()
    notebook.run("pass")
    assert notebook.value("(done, int(a[0]))") == "(True, 1)"


def test_interrupted_cell_is_no_target_but_stays_restorable(notebook: Notebook) -> None:
    notebook.run("epoch = 1")
    notebook.interrupt_in("epoch = 2\nimport time\nwhile True: time.sleep(0.01)")
    notebook.restart_after_kill()
    ran = notebook.run("print(epoch)")
    assert ran.text.endswith("1\n")
    assert "cell [2] `epoch = 2; open(" in ran.text
    assert "was interrupted and is not in this state" in ran.text
    notebook.run("%restore interrupted")
    assert notebook.value("epoch") == "2"


def test_cell_that_was_not_saved_is_named(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.settle()
    notebook.client.execute("train = 1\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    notebook.manager.provisioner.process.wait()
    notebook.start()
    text = notebook.run("print(x)").text
    assert "cell [2] `train = 1` had not been saved when the kernel ended" in text
    assert "had not been saved" not in notebook.run("print(x)").text


def test_status_tells_saved_size_and_stall(notebook: Notebook) -> None:
    notebook.run("import respawner; " + BIG)
    notebook.settle()
    assert notebook.value(FLUSHED) == "True"
    status = eval(notebook.value("dict(respawner.status())"))
    assert status["saved"]
    assert status["error"] is None
    assert status["snapshot_bytes"] > ABOUT_384_MB
    assert status["stall_seconds"] > 0
    assert not status["pending"]


def test_states_beyond_the_budget_wait_for_a_flush(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(RESPAWNER_WRITES_PER_DAY="1000MB").start()
    notebook.run("import respawner; " + BIG)  # 384 MB: within the free half
    assert notebook.value(FLUSHED) == "True"
    notebook.run("a += 1")
    notebook.run("small = 1")
    status = eval(notebook.value("dict(respawner.status())"))
    assert not status["saved"]
    assert "GB have been written in 24 hours" in status["deferred"]
    assert len([m for m in notebook.manifests() if m.kind == "cell"]) == 1
    assert notebook.value(FLUSHED) == "True"
    notebook.restart_after_kill()
    notebook.run("pass")
    assert notebook.value("(int(a[0]), small)") == "(1, 1)"


def test_flush_from_outside_does_not_wait_for_the_budget(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(RESPAWNER_WRITES_PER_DAY="1000MB").start()
    notebook.run(BIG)
    notebook.settle()
    notebook.run("a += 1")
    assert notebook.settle()["durable"]
    notebook.restart_after_kill()
    notebook.run("pass")
    assert notebook.value("int(a[0])") == "1"


def test_quota_takes_old_states_and_never_the_labelled_or_the_last(
    open_notebook: Callable[..., Notebook],
) -> None:
    notebook = open_notebook(RESPAWNER_TIMELINE_QUOTA="30MB").start()
    notebook.run("import numpy as np; a = np.random.default_rng(0).random(1_000_000); total = a.sum()")
    notebook.run("%snapshot first")
    for number in range(1, 15):  # 8 MB each, and retention alone would keep them all
        notebook.run(f"a = np.random.default_rng({number}).random(1_000_000); total = a.sum()")
    assert notebook.settle()["durable"]
    found = notebook.manifests()
    assert len(found) < 10
    assert found[-1].labels == ["first"]
    notebook.restart_after_kill()
    assert notebook.run("print(a.sum() == total)").text.endswith("True\n")
    notebook.run("%restore first")
    assert (
        notebook.run("print(a.sum() == total, a[0] == np.random.default_rng(0).random())").text
        == "True True\n"
    )


def test_forgotten_snapshot_is_gone_and_its_room_free(notebook: Notebook) -> None:
    """Also in the kernel that writes, with chunks that the later states share and others that they do not."""
    notebook.run("import numpy as np, respawner; rng = np.random.default_rng(0); kept = rng.bytes(8 << 20)")
    notebook.run("gone = rng.bytes(80 << 20)")
    labelled = notebook.run("%snapshot big")
    assert labelled.error is None
    notebook.run("del gone")
    notebook.run("more = rng.bytes(1 << 20)")
    assert notebook.settle()["durable"]
    before = packs_bytes(notebook.timeline)
    for found in notebook.manifests():
        if found.size_bytes > 80 << 20 and "big" not in found.labels:
            assert notebook.run(f"%forget {found.id}").error is None
    assert "is deleted" in notebook.run("%forget big").text
    assert packs_bytes(notebook.timeline) < before - (75 << 20)
    assert "there is no snapshot 'big'" in notebook.run("%forget big").text
    notebook.settle()
    assert "goes on from" in notebook.run(f"%forget {notebook.manifests()[0].id}").text
    assert "which snapshot?" in notebook.run("%forget").text
    notebook.run("import hashlib; digest = hashlib.sha256(kept + more).hexdigest()")
    assert notebook.settle()["durable"]
    notebook.restart_after_kill()
    notebook.run("y = 1")
    assert notebook.value("hashlib.sha256(kept + more).hexdigest() == digest") == "True"


def test_wrong_budget_is_told_and_keeps_nothing_from_being_saved(
    open_notebook: Callable[..., Notebook],
) -> None:
    notebook = open_notebook(RESPAWNER_WRITES_PER_DAY="lots").start()
    told = notebook.run("import numpy as np; a = np.random.default_rng(0).random(4_000_000)").text
    assert "RESPAWNER_WRITES_PER_DAY is 'lots': it must be a number, or a size such as 50GB" in told
    assert notebook.settle()["durable"]
    assert notebook.run("x = 1").text == ""
    notebook.restart_after_kill()
    notebook.run("pass")
    assert notebook.value("len(a)") == "4000000"


def test_memory_for_a_copy_is_made_ready_before_it_is_needed() -> None:
    def no_writer() -> TimelineWriter:
        raise StoreError("nothing is written here")

    saver = Saver(no_writer, lambda job: None)
    saver.arena.limit_bytes = 100 << 20
    saver.expect(40 << 20)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while saver.arena.size_bytes < 40 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert saver.idle
    saver.expect(1 << 40)
    while saver.arena.size_bytes < 90 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert saver.arena.size_bytes <= 100 << 20


@pytest.mark.parametrize("lanes", ["being imported", "broken"])
def test_the_writing_thread_outlives_memory_that_cannot_be_made_ready(
    monkeypatch: pytest.MonkeyPatch, lanes: str
) -> None:
    """The module of devices is imported by another thread just when this one asks it; or it raises."""
    module = types.ModuleType("respawner.device.lane")
    asked: list[int] = []
    if lanes == "broken":
        module.host_bytes = lambda: asked.append(1) or 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    saver = Saver(lambda: None, lambda job: None)  # type: ignore[arg-type, return-value]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (
        not saver.arena.size_bytes and len(asked) < 2
    ):  # a thread that is asked twice has outlived the first time
        saver.expect(10_000_000)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert saver._thread is not None
    assert saver._thread.is_alive()
    assert (saver.arena.size_bytes > 0) == (lanes == "being imported")


def test_a_long_cells_first_safe_point_finds_its_memory_ready(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook(RESPAWNER_SAFEPOINT_SECONDS="3600").start()
    notebook.run(
        "import torch, time, respawner\nweight = torch.zeros(5_000_000, requires_grad=True)\n"
        "optimizer = torch.optim.SGD([weight])"
    )
    notebook.settle()
    assert notebook.value("respawner.status()['arena_bytes']") == "0"
    wait = "while respawner.status()['arena_bytes'] < 20_000_000: time.sleep(0.02)"
    assert notebook.run(f"optimizer.step()\n{wait}").error is None
