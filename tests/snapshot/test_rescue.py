"""Before and after a kernel dies of memory or of a signal: an early snapshot with a warning, and the cause in the report."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from respawner import container_memory, contract, death
from respawner.container_memory import MemoryUse, killed_for_memory, memory_use, stalled_percent
from respawner.errors import SettingError
from respawner.manifest import CHUNK_BYTES
from respawner.memory_watch import Alert, alert_share
from respawner.saving.arena import Arena
from respawner.store.timeline import Timeline

from tests.snapshot.notebook import Notebook

OpenNotebook = Callable[..., Notebook]

MEMINFO = "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:    700 kB\n"


def root_with(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# What the system says ------------------------------------------------------------------------------------


def test_cgroup_2_without_files_that_can_be_dropped(tmp_path: Path) -> None:
    root = root_with(
        tmp_path,
        {
            "sys/fs/cgroup/memory.max": "204800\n",
            "sys/fs/cgroup/memory.current": "200000\n",
            "sys/fs/cgroup/memory.stat": "anon 90000\ninactive_file 50000\nactive_file 1\n",
            "sys/fs/cgroup/memory.events": "low 0\noom 4\noom_kill 3\n",
            "sys/fs/cgroup/memory.pressure": "some avg10=9.00 avg60=0.00\nfull avg10=12.50 avg60=0.10 total=1\n",
        },
    )
    assert memory_use(root) == MemoryUse(150_000, 204_800, "container")
    assert killed_for_memory(root) == 3
    assert stalled_percent(root) == 12.5


def test_cgroup_1_and_no_limit(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "300000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "200000\n",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
        "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    }
    root = root_with(tmp_path, files)
    assert memory_use(root) == MemoryUse(199_000, 300_000, "container")
    assert killed_for_memory(root) == 2
    assert stalled_percent(root) == 0
    root_with(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert memory_use(root) == MemoryUse(300 << 10, 1000 << 10, "machine")


def test_nothing_readable_is_no_alert(tmp_path: Path) -> None:
    assert memory_use(tmp_path) is None
    assert killed_for_memory(tmp_path) is None


# When it is an alert ---------------------------------------------------------------------------------------


def test_alert_comes_once_and_earlier_where_everything_waits() -> None:
    alert = Alert(0.9)
    shares = [(0.85, 0.0), (0.91, 0.0), (0.99, 0.0), (0.87, 0.0), (0.84, 0.0), (0.82, 50.0)]
    seen = [
        (alert.changes(MemoryUse(int(share * 100), 100, "container"), psi), alert.on) for share, psi in shares
    ]
    assert seen == [(False, False), (True, True), (False, True), (False, True), (True, False), (True, True)]


def test_setting_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert alert_share() == 0.9
    monkeypatch.setenv(contract.MEMORY_ALERT_ENV, "0.75")
    assert alert_share() == 0.75
    monkeypatch.setenv(contract.MEMORY_ALERT_ENV, "90%")
    with pytest.raises(SettingError, match="RESPAWNER_MEMORY_ALERT is '90%': it must be a part"):
        alert_share()


def test_arena_takes_no_more_while_memory_is_short() -> None:
    arena = Arena(64 << 20)
    slot = arena.take()
    assert slot is not None
    arena.spare(True)
    held = arena.size_bytes
    taken = [arena.take() for _ in range(held // CHUNK_BYTES)]
    assert taken[-1] is None, "who needs more waits for the disk"
    arena.spare(False)
    assert arena.take() is not None
    assert arena.size_bytes > held


def test_running_cell_is_saved_early_and_warned_when_memory_runs_out(open_notebook: OpenNotebook) -> None:
    """At the default pace nothing would be saved for half a minute."""
    notebook = open_notebook().start()
    notebook.run(
        "import respawner, time\nfrom respawner import container_memory\nbig = bytearray(3_000_000)\n"
        "full = lambda: container_memory.MemoryUse(95 << 20, 100 << 20, 'container')"
    )
    assert notebook.settle()["durable"]
    ran = notebook.run(
        "for i in respawner.resume(range(10_000)):\n    time.sleep(0.1)\n    if i == 5: container_memory.memory_use = full\n"
        "    if respawner.status()['safepoint_every_seconds']: break  # one is on the disk"
    )
    assert "Respawner: memory runs out: 99.6 MB of this container's 104.9 MB are used (95%)" in ran.text
    assert "Largest when last saved: big (3.0 MB)" in ran.text
    assert notebook.settle()["durable"]
    inside = [found for found in notebook.manifests() if found.kind == "safepoint"]
    assert len(inside) == 1, "once, and then the pace again"
    assert inside[0].cell["safepoint"]["loops"][0]["iteration"] > 5


def test_kernel_is_killed_before_the_server(notebook: Notebook) -> None:
    assert notebook.value("open('/proc/self/oom_score_adj').read().strip()") == "'300'"
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "300"


# What killed it --------------------------------------------------------------------------------------------


def test_fatal_signal_is_in_the_next_report(notebook: Notebook) -> None:
    notebook.run("import ctypes, os, signal\nx = 1")
    notebook.run("if not os.fork():\n    os.kill(os.getpid(), signal.SIGSEGV)\nos.wait()")
    notebook.restart_after_kill()
    ran = notebook.run("def crash():\n    ctypes.string_at(0)")
    assert "died of" not in ran.text, "a child is not the kernel"
    assert notebook.settle()["durable"]
    notebook.client.execute("y = 2\ncrash()")
    assert notebook.manager.provisioner.process.wait() == -signal.SIGSEGV
    ran = notebook.start().run("pass")
    found = re.search(
        r"the kernel died of SIGSEGV in string_at \(ctypes/__init__.py:\d+\), called in crash\(\), line 2 of its cell "
        r"at \d\d:\d\d:\d\d UTC, when this state was \d+ s old; Python's note of it is (\S+)",
        ran.text,
    )
    assert found, ran.text
    assert "Segmentation fault" in Path(found[1]).read_text()
    notebook.restart_after_kill()
    assert "died of" not in notebook.run("pass").text, "that is told once"


def test_killed_for_memory_is_told_by_the_containers_own_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeline = Timeline.create(tmp_path, "/a.ipynb")
    host = death.socket.gethostname()
    monkeypatch.setattr(container_memory, "killed_for_memory", lambda: 3)
    assert death._death(timeline) is None, "there was no kernel"
    timeline.set_marker("alive", {"host": host, "killed": 3})
    assert death._death(timeline) is None, "killed by somebody else"
    timeline.set_marker("alive", {"host": host, "killed": 2})
    died = death._death(timeline)
    assert died is not None
    assert died.told(None).startswith("the kernel died of want of memory")
    timeline.set_marker("alive", {"host": "another", "killed": 2})
    assert death._death(timeline) is None, "another container's count"


def test_kernel_that_ended_in_order_died_of_nothing(notebook: Notebook) -> None:
    notebook.run("x = 1")
    assert (notebook.timeline.folder / "alive.marker").exists()
    notebook.restart_in_order()
    assert "died" not in notebook.run("pass").text
