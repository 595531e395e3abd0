"""``RESPAWNER_RESTORE``: after which ends of a kernel its state comes back by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from respawner.guard import POLICIES

from tests.snapshot.notebook import Notebook

OpenNotebook = Callable[..., Notebook]
KEPT_ONLY_BY_PINS = {"RESPAWNER_KEEP_LATEST": "1", "RESPAWNER_KEEP_HOURLY": "0", "RESPAWNER_KEEP_DAILY": "0"}


def shut_down(notebook: Notebook) -> None:
    """What closing a kernel, a culler and the end of Jupyter Server do: no word of a restart."""
    notebook.manager.client().shutdown(restart=False)
    notebook.manager.provisioner.process.wait()


def terminate(notebook: Notebook) -> None:
    """What the end of a container may do to the kernel itself."""
    os.kill(notebook.pid, signal.SIGTERM)
    notebook.manager.provisioner.process.wait()


ENDS = {"kill": Notebook.kill, "shutdown": shut_down, "SIGTERM": terminate}


@pytest.mark.parametrize("policy", ["always", "crash"])
@pytest.mark.parametrize("end", ENDS)
def test_state_comes_back_after_every_end_but_a_restart(
    open_notebook: OpenNotebook, policy: str, end: str
) -> None:
    notebook = open_notebook(RESPAWNER_RESTORE=policy).start()
    notebook.run("x = 1")
    ENDS[end](notebook)
    assert "restored 1 variable" in notebook.start().run("print(x)").text


def test_always_restores_after_a_users_restart(notebook: Notebook) -> None:
    notebook.run("x = 1")
    assert "restored 1 variable" in notebook.restart_in_order().run("print(x)").text


def test_crash_starts_clean_after_a_users_restart_and_restores_after_the_next_kill(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(RESPAWNER_RESTORE="crash").start()
    notebook.run("x = 'old'")
    notebook.restart_in_order()
    # Dies before it has saved anything: it would be clean again.
    notebook.kill_at_once()
    notebook.start()
    ran = notebook.run("print('x' in globals())")
    assert "restarted on purpose and RESPAWNER_RESTORE is crash" in ran.text
    assert ran.text.endswith("False\n")
    assert ran.prompt == 1
    notebook.run("y = 'new'")
    ran = notebook.restart_after_kill().run("print(y, 'x' in globals())")
    assert "restored 1 variable" in ran.text
    assert ran.text.endswith("new False\n")


def test_crash_starts_clean_where_the_restart_interrupted_a_cell(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(RESPAWNER_RESTORE="crash").start()
    notebook.run("x = 1")
    notebook.client.execute("import time\nopen('begun', 'w').close()\nwhile True: time.sleep(0.01)")
    while not (notebook.folder / "begun").exists():
        time.sleep(0.02)
    notebook.restart_in_order()
    assert notebook.run("print('x' in globals())").text.endswith("False\n")


def test_what_a_clean_start_did_not_continue_stays_and_is_offered(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(RESPAWNER_RESTORE="ask", **KEPT_ONLY_BY_PINS).start()
    notebook.run("x = list(range(1000)); y = 2")
    notebook.settle()
    old = notebook.manifests()[0].id
    ran = notebook.restart_after_kill().run("print('x' in globals())")
    assert "nothing was restored, because RESPAWNER_RESTORE is ask" in ran.text
    assert f"`%restore {old}` brings back the last state: 2 variables" in ran.text
    assert "after cell [1] `x = list(range(1000)); y = 2`" in ran.text
    assert ran.text.endswith("False\n")
    for number in range(12):  # retention runs after every fifth
        notebook.run(f"z = {number}")
    notebook.settle()
    assert len(notebook.manifests()) < 8
    assert f"{old}" in notebook.run("%snapshots").text
    assert "kept: nothing was restored" in notebook.run("%snapshots").text
    ran = notebook.restart_after_kill().run("import respawner")
    assert "brings back the last state: 1 variable" in ran.text
    assert f"`%restore {old}` brings back an earlier state that was not continued: 2 variables" in ran.text
    offered = eval(notebook.value("respawner.report()['offered']"))
    assert [offer["id"] for offer in offered][1:] == [old]
    notebook.run(f"%restore {old}")
    assert notebook.run("print(len(x), y)").text == "1000 2\n"


def test_a_clean_start_keeps_the_state_and_obeys_once_even_where_it_cannot_list_what_is_kept(
    notebook: Notebook,
) -> None:
    notebook.run("x = 1; import respawner; respawner.clean_next_start()")
    notebook.settle()
    old = notebook.manifests()[0].id
    [timeline] = (notebook.store / "timelines").iterdir()
    (timeline / "pins" / "no file").mkdir(parents=True)
    assert notebook.restart_after_kill().run("print('x' in globals())").text.endswith("False\n")
    assert (timeline / "pins" / old).exists()
    notebook.run("y = 2")
    notebook.settle()
    assert "restored" in notebook.restart_after_kill().run("print(y)").text


def test_ask_offers_nothing_where_there_is_nothing(open_notebook: OpenNotebook) -> None:
    assert open_notebook(RESPAWNER_RESTORE="ask").start().run("print(1)").text == "1\n"


def test_never_starts_clean_but_saves(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(RESPAWNER_RESTORE="never").start()
    notebook.run("x = 1")
    ran = notebook.restart_after_kill().run("print('x' in globals())")
    assert "started clean, because RESPAWNER_RESTORE is never" in ran.text
    assert ran.text.endswith("False\n")
    assert notebook.settle()["durable"]
    assert len(notebook.manifests()) == 2


def test_unknown_policy_is_told_once_and_counts_as_ask(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(RESPAWNER_RESTORE="sometimes").start()
    told = notebook.run("x = 1").text
    assert f"RESPAWNER_RESTORE is 'sometimes'; it must be one of {', '.join(POLICIES)}" in told
    assert notebook.run("pass").text == ""
    assert "brings back the last state: 1 variable" in notebook.restart_after_kill().run("pass").text


def test_switching_the_extension_off_gives_the_kernel_back_its_own_shutdown(notebook: Notebook) -> None:
    notebook.run("x = 1")
    assert "_shutdown_asked" in notebook.value("get_ipython().kernel.do_shutdown.__name__")
    notebook.run("%load_ext respawner")
    notebook.run("%unload_ext respawner")
    assert notebook.value("get_ipython().kernel.do_shutdown.__name__") == "'do_shutdown'"
