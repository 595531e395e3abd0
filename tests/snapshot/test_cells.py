"""Which executions get a snapshot, and what the numbers in the prompts are."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.snapshot.notebook import PATIENCE_SECONDS, Notebook


def test_every_kind_of_cell_is_captured(notebook: Notebook) -> None:
    notebook.run("a = 1")
    notebook.run("b = 2\n1 / 0")
    notebook.run("%cd -q /tmp")
    notebook.run("import asyncio; await asyncio.sleep(0.01); c = 3")
    notebook.run("if True print('no python at all')")
    assert notebook.settle()["durable"]
    assert [(m.cell["execution_count"], m.state) for m in reversed(notebook.manifests())] == [
        (1, "ok"),
        (2, "error"),
        (3, "ok"),
        (4, "ok"),
        (5, "error"),
    ]
    assert {name.name for name in notebook.manifests()[0].names} == {"a", "b", "asyncio", "c"}


@pytest.mark.parametrize("wait", ["import time; time.sleep(600)", "import asyncio; await asyncio.sleep(600)"])
def test_an_interrupted_cell_is_captured(notebook: Notebook, wait: str) -> None:
    cell = f"progress = 7; open('reached', 'w').close(); {wait}"
    notebook.client.execute(cell, stop_on_error=False)
    _wait_for((notebook.folder / "reached").exists)
    notebook.manager.interrupt_kernel()
    notebook.run("pass")
    assert notebook.settle()["durable"]
    assert {m.cell["execution_count"]: m.state for m in notebook.manifests()} == {1: "interrupted", 2: "ok"}
    notebook.restart_after_kill()
    assert "7" in notebook.run("progress").text


def test_silent_and_hidden_executions_are_not_captured(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.run("x = 2", silent=True)
    notebook.run("x = 3", store_history=False)
    assert notebook.settle()["durable"]
    assert notebook.cells() == ["x = 1"]


def test_silent_execution_before_the_first_cell_restores_nothing(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.restart_after_kill()
    assert notebook.value("'x' in dir()") == "False"
    assert notebook.run("x").text.endswith("1\n")


def test_queued_cells_get_a_snapshot_each(notebook: Notebook) -> None:
    for number in range(5):
        notebook.client.execute(f"v{number} = {number}")
    notebook.run("last = True")
    assert notebook.settle()["durable"]
    names = [[name.name for name in m.names] for m in reversed(notebook.manifests())]
    assert names == [[f"v{n}" for n in range(count)] for count in range(1, 6)] + [
        [*(f"v{n}" for n in range(5)), "last"]
    ]


def test_reply_does_not_wait_for_the_capture(open_notebook: Callable[..., Notebook]) -> None:
    """An object whose pickling takes long delays the next cell, not this cell's result."""
    notebook = open_notebook(RESPAWNER_OBJECT_SECONDS="0").start()
    notebook.run(
        "import os, time\nclass Slow:\n    def __reduce__(self):\n"
        "        while not os.path.exists('replied'): time.sleep(0.05)\n        return Slow, ()"
    )
    notebook.settle()
    before = len(notebook.manifests())
    notebook.run("slow = Slow()")
    assert len(notebook.manifests()) == before
    (notebook.folder / "replied").touch()
    assert notebook.settle()["durable"]
    assert len(notebook.manifests()) == before + 1


def test_cell_of_a_subshell_is_not_captured(notebook: Notebook) -> None:
    """It runs in a thread of its own, while the namespace belongs to the main thread's cells."""
    notebook.run("x = 1")
    control = notebook.client.control_channel
    control.send(notebook.client.session.msg("create_subshell_request"))
    subshell = control.get_msg(timeout=PATIENCE_SECONDS)["content"]["subshell_id"]
    message = notebook.client.session.msg(
        "execute_request", {"code": "y = 2", "silent": False, "store_history": True}
    )
    message["header"]["subshell_id"] = subshell
    notebook.client.shell_channel.send(message)
    assert notebook.client.get_shell_msg(timeout=PATIENCE_SECONDS)["content"]["status"] == "ok"
    assert notebook.settle()["durable"]
    assert notebook.cells() == ["x = 1"]
    notebook.run("z = 3")
    assert notebook.settle()["durable"]
    assert [name.name for name in notebook.manifests()[0].names] == ["x", "y", "z"]


def test_saving_from_within_what_is_pickled_is_refused(notebook: Notebook) -> None:
    notebook.run(
        "import respawner\nclass R:\n    def __reduce__(self): respawner.save(); return R, ()\nr = R()"
    )
    assert notebook.settle()["durable"]
    [skipped] = notebook.manifests()[0].skipped
    assert (skipped.path, "being taken at this moment" in skipped.reason) == ("r", True)


def test_in_out_and_prompts_go_on_after_a_restart(notebook: Notebook) -> None:
    notebook.run("21 * 2")
    notebook.run("x = [1, 2]")
    notebook.run("x")
    notebook.restart_after_kill()
    ran = notebook.run("print(In[1], Out[1], Out[3] is x, _3 is x, _ is x, _i1, In[4][:5]); 'four'")
    assert (ran.prompt, ran.replied) == (4, 4)
    assert "21 * 2 42 True True True 21 * 2 print\n" in ran.text
    following = notebook.run("_4, len(In), In is _ih")
    assert following.prompt == 5
    assert following.text == "('four', 6, True)\n"
    notebook.restart_after_kill()
    assert notebook.run("Out[4]").prompt == 6


def test_report_comes_with_the_first_cell_only(notebook: Notebook) -> None:
    notebook.run("x = 1; import threading; lock = threading.Lock()")
    notebook.restart_after_kill()
    first = notebook.run("import respawner")
    assert "restored 3 variables" in first.text
    assert "lock (_thread.lock): a lock belongs to the process that made it; made by cell [1]" in first.text
    assert "<div" in first.html
    assert notebook.run("x").text == "1\n"
    report = notebook.run(
        "r = respawner.report(); r['names'], [s['path'] for s in r['skipped']], r['restored']"
    )
    assert report.text == "(['x', 'threading', 'lock'], ['lock'], True)\n"


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
