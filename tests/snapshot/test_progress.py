"""What takes long is shown, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from respawner.store.reader import SnapshotReader

from tests.snapshot.notebook import Notebook, Ran

UNTIL_SHOWN = """
def install():
    import builtins, threading, time
    from respawner.progress import Screen
    shows, show = [], Screen.show
    def counted(self, *arguments):
        try: show(self, *arguments)
        finally: shows.append(1)
    def until_shown(count, soon=True):
        wanted = len(shows) + count
        is_watched = lambda: any(one.name == 'respawner-progress' for one in threading.enumerate())
        while len(shows) < wanted and (is_watched() or not soon): time.sleep(0.01)
    Screen.show, builtins.until_shown = counted, until_shown
install()
"""
"""For kernels: what takes so long that the progress is shown so many times more. ``soon``: it is being watched already."""

SLOW = """
import time
class Slow:
    def __setstate__(self, state):
        until_shown(2)
        self.__dict__.update(state)
slow = Slow(); slow.a = 1
"""


@pytest.fixture
def notebook(open_notebook: Callable[..., Notebook]) -> Notebook:
    made = open_notebook()
    (made.startup_folder / "20-until-shown.py").write_text(UNTIL_SHOWN)
    return made.start()


def shown(ran: Ran) -> list[dict[str, str]]:
    """What the one display of the progress said, update for update; every update must belong to it."""
    kinds = ("display_data", "update_display_data")
    told = [m for m in ran.messages if m["msg_type"] in kinds and m["content"].get("transient")]
    assert len({m["content"]["transient"]["display_id"] for m in told}) <= 1
    assert [m["msg_type"] for m in told] == [kinds[0], *[kinds[1]] * (len(told) - 1)][: len(told)]
    return [m["content"]["data"] for m in told]


def test_long_restore_shows_phase_and_bytes_and_leaves_nothing_behind(notebook: Notebook) -> None:
    notebook.run(SLOW)
    ran = notebook.restart_after_kill().run("print(slow.a)")
    *told, last = shown(ran)
    reading = [
        each for each in told if each["text/plain"].startswith("Respawner: restoring, reading and checking, ")
    ]
    assert len(reading) >= 2
    assert " of " in reading[0]["text/plain"]
    assert "<progress" in reading[0]["text/html"]
    assert last == {"text/plain": "", "text/html": ""}
    assert "Respawner: restored 3 variables" in ran.text.split("\n\n")[-1]  # after the emptied display
    assert ran.text.endswith("\n1\n")
    assert ran.error is None


def test_restore_in_place_shows_it_too_and_keeps_the_cells_other_output(notebook: Notebook) -> None:
    notebook.run(SLOW)
    notebook.run("%snapshot first")
    ran = notebook.run("print('before'); get_ipython().run_line_magic('restore', 'first'); print('after')")
    assert any("restoring, reading and checking" in each["text/plain"] for each in shown(ran))
    assert ran.text.startswith("before\n")
    assert ran.text.endswith("after\n")


def test_import_that_takes_long_is_named(notebook: Notebook) -> None:
    (notebook.folder / "heavy_library.py").write_text(
        "import os\nif os.path.exists('slow'): until_shown(1)\n"
    )
    notebook.run("import heavy_library")
    (notebook.folder / "slow").touch()
    ran = notebook.restart_after_kill().run("pass")
    assert any("importing heavy_library" in each["text/plain"] for each in shown(ran))


def test_short_restore_shows_nothing(notebook: Notebook) -> None:
    notebook.run("x = 1")
    (notebook.startup_folder / "30-patient.py").write_text(
        "import respawner.progress; respawner.progress.PATIENCE_SECONDS = 600\n"
    )
    ran = notebook.restart_after_kill().run("%restore")
    assert shown(ran) == []


SLOW_PUBLISH = """
import time
from respawner.store.writer import TimelineWriter as W
publish = W.publish
def slowly(self, manifest):
    WAIT; publish(self, manifest)
W.publish = slowly
"""


@pytest.mark.parametrize("call", ["respawner.flush()", "respawner.save()"])
def test_waiting_for_the_disk_in_a_cell_is_shown(notebook: Notebook, call: str) -> None:
    notebook.run("import respawner" + SLOW_PUBLISH.replace("WAIT", "until_shown(2, soon=False)"))
    told = shown(notebook.run(call))
    assert any("Respawner: saving, writing" in each["text/plain"] for each in told)
    assert told[-1]["text/plain"] == ""


def test_long_save_at_the_end_is_told_in_the_kernels_log(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook()
    with open(notebook.folder / "kernel.log", "w") as log:
        notebook.options = {"stderr": log}
        told = "while 'saving the last state' not in open('kernel.log').read(): time.sleep(0.05)\n   "
        notebook.start().run("x = 1" + SLOW_PUBLISH.replace("WAIT;", told))
        notebook.manager.client().shutdown()
        notebook.manager.provisioner.process.wait()
    text = (notebook.folder / "kernel.log").read_text()
    assert "Respawner: saving the last state before the kernel ends, writing" in text
    assert "Respawner: saved" in text
    assert "Traceback" not in text


def test_display_that_fails_does_not_disturb_the_restore(notebook: Notebook) -> None:
    notebook.run(SLOW)
    (notebook.startup_folder / "90-broken.py").write_text(
        "def broken(*arguments, **keywords):\n"
        "    if keywords.get('transient'): raise RuntimeError('no display')\n"
        "    return right(*arguments, **keywords)\n"
        "right, get_ipython().display_pub.publish = get_ipython().display_pub.publish, broken\n"
    )
    ran = notebook.restart_after_kill().run("print(slow.a)")
    assert shown(ran) == []
    assert ran.text.endswith("\n1\n")


def test_bytes_that_are_read_and_mapped_are_counted(notebook: Notebook) -> None:
    notebook.run("import numpy as np; a = np.arange(1_000_000); b = 'x' * 500_000")
    notebook.settle()
    manifest = notebook.manifests()[0]

    def all_of(read: Callable[[SnapshotReader, Any], object]) -> int:
        with SnapshotReader(notebook.timeline, manifest) as reader:
            for _, stream in manifest.streams():
                read(reader, stream)
            return reader.bytes_done

    assert all_of(SnapshotReader.read) == manifest.size_bytes
    assert all_of(lambda reader, stream: reader.map(stream) or reader.read(stream)) == manifest.size_bytes
