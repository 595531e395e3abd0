"""Stores on strange disks, and stores that change under a running kernel."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from respawner.errors import StoreError
from respawner.manifest import CHUNK_BYTES, Manifest
from respawner.store import lock, pack
from respawner.store.layout import open_store
from respawner.store.lock import TimelineLock
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import Notebook
from tests.snapshot.test_cli import cli
from tests.snapshot.test_store import publish, read, small_disk, timeline  # noqa: F401

# ruff: noqa: F811


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS without its lock service."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


def test_without_flock_a_file_says_who_has_the_lock(timeline: Timeline, no_flock: None) -> None:
    first = TimelineLock.acquire(timeline.lock_path)
    assert first is not None
    assert TimelineLock.acquire(timeline.lock_path) is None
    first.release()
    again = TimelineLock.acquire(timeline.lock_path)
    assert again is not None
    again.release()
    assert not timeline.lock_path.with_name("lock.owner").exists()


HOLDERS = {
    "a dead process of this host": ({"pid": 2**22 + 1, "start": "1"}, 0.0, True),
    "a living process of this host": ({"pid": os.getppid()}, 5000.0, False),
    "another host's, touched lately": ({"pid": 1, "host": "elsewhere"}, 60.0, False),
    "another host's, untouched for long": ({"pid": 1, "host": "elsewhere"}, 5000.0, True),
    "nobody's: it is empty": (None, 5000.0, True),
}


@pytest.mark.parametrize(("holder", "age", "taken"), HOLDERS.values(), ids=HOLDERS)
def test_without_flock_a_holder_that_is_gone_is_followed(
    timeline: Timeline, no_flock: None, holder: dict[str, object] | None, age: float, taken: bool
) -> None:
    path = timeline.lock_path.with_name("lock.owner")
    whole = {"host": lock.socket.gethostname(), "start": lock.process_start(os.getppid()), **(holder or {})}
    path.write_text(json.dumps(whole) if holder else "")
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    found = TimelineLock.acquire(timeline.lock_path)
    assert (found is not None) is taken
    if found:
        found.release()


@pytest.mark.parametrize("refused_by", ["fcntl", "write"])
def test_file_system_without_direct_io(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch, refused_by: str
) -> None:
    real_fcntl, real_write = fcntl.fcntl, os.pwrite

    def refuse_flag(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct I/O here")
        return real_fcntl(descriptor, command, argument)

    def refuse_write(descriptor: int, data: bytes, offset: int) -> int:
        if real_fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct I/O here")
        return real_write(descriptor, data, offset)

    if refused_by == "fcntl":
        monkeypatch.setattr(pack.fcntl, "fcntl", refuse_flag)
    else:
        monkeypatch.setattr(pack.os, "pwrite", refuse_write)
    target = TimelineWriter(timeline)
    contents = [os.urandom(n * CHUNK_BYTES + n) for n in (1, 40, 2)]
    published = [publish(target, content) for content in contents]
    assert [read(timeline, manifest) for manifest in published] == contents


@pytest.mark.parametrize("what", ["", "timelines", "packs", "manifests", "packs/00000001.pack"])
def test_kernel_whose_store_was_deleted_writes_a_new_one(notebook: Notebook, what: str) -> None:
    """The state of a living kernel is safe again after the next cell but one."""
    notebook.run("import numpy as np; array = np.random.default_rng(0).random(100_000)")
    assert notebook.settle()["durable"]
    folder = notebook.timeline.folder
    place = {"": notebook.store, "timelines": folder.parent}.get(what, folder / what)
    place.unlink() if place.is_file() else shutil.rmtree(place)
    notebook.run("x = 1")
    notebook.settle()
    notebook.run("y = 2")
    assert notebook.settle()["durable"]
    second = Notebook(notebook.folder, notebook.name)
    try:
        second.start().run("z = 3")
        assert "~2" in second.run("import respawner; print(respawner.status()['folder'])").text
    finally:
        second.shut_down()
    notebook.restart_after_kill()
    assert notebook.run("print(x + y, len(array))").text.endswith("3 100000\n")


def test_deleted_folder_that_another_kernel_has_made_anew_is_left_to_it(timeline: Timeline) -> None:
    held = TimelineLock.acquire(timeline.lock_path)
    target = TimelineWriter(timeline)
    publish(target, b"mine")
    shutil.rmtree(timeline.folder)
    other = Timeline.create(timeline.folder.parents[1], timeline.name)
    others = TimelineLock.acquire(other.lock_path)
    assert others is not None
    shutil.rmtree(other.packs)
    target.add_stream([b"more"])
    with pytest.raises(StoreError, match="another kernel"):
        target.roll_back()
    others.release()
    assert held is not None
    held.release()


@pytest.fixture
def read_only(small_disk: Path, open_notebook: Callable[..., Notebook]) -> Notebook:
    """A notebook with one snapshot and no kernel, on a disk that has become read-only."""
    notebook = open_notebook(RESPAWNER_STORE=str(small_disk / "store"))
    notebook.store = small_disk / "store"
    notebook.start().run("x = 1")
    notebook.kill()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return notebook


def test_read_only_store_is_looked_at_by_the_command_line(read_only: Notebook, tmp_path: Path) -> None:
    assert "x = 1" in cli(read_only.store, "list")
    assert "ok" in cli(read_only.store, "verify")
    assert "x  int" in cli(read_only.store, "show", read_only.name)
    cli(read_only.store, "export", read_only.name, str(tmp_path / "saved.tar"))
    assert "Read-only file system" in cli(read_only.store, "prune", "--keep", "1", ok=False)


def test_kernel_on_a_read_only_store_says_so_and_runs_cells(read_only: Notebook) -> None:
    ran = read_only.start().run("y = 5; print(y)")
    assert ran.error is None
    assert "this session is not saved" in ran.text
    assert "Read-only file system" in ran.text
    assert ran.text.endswith("5\n")


def test_disk_that_becomes_read_only_under_a_kernel_is_told_once(
    small_disk: Path, open_notebook: Callable[..., Notebook]
) -> None:
    notebook = open_notebook(RESPAWNER_STORE=str(small_disk / "store"))
    notebook.store = small_disk / "store"
    notebook.start().run("x = 1")
    assert notebook.settle()["durable"]
    # A writer has a pack open, so the kernel of the system does not let the whole disk become read-only.
    with open(notebook.timeline.folder / "pins" / "busy", "w"):
        made = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True)
    if made.returncode == 0:
        pytest.skip("this disk became read-only although files were open for writing")
    assert notebook.run("x = 2; print('on')").text.endswith("on\n")


TWO_WRITERS = """
import os, sys
from pathlib import Path
from respawner.store.layout import open_store
from respawner.store.lock import TimelineLock
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter
from tests.snapshot.test_store import publish
timeline = Timeline.create(open_store(Path(sys.argv[1]), create=True), "/two.ipynb")
done = 0
while done < 20:
    lock = TimelineLock.acquire(timeline.lock_path)
    if lock is None:
        continue
    target = TimelineWriter(timeline)
    publish(target, os.urandom(300_000))
    target.close()
    lock.release()
    done += 1
"""


def test_processes_that_take_turns_leave_every_snapshot_whole(tmp_path: Path) -> None:
    """Also their first step, making one and the same store."""
    command = [sys.executable, "-c", TWO_WRITERS, str(tmp_path / "s")]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    [found] = Timeline.all_in(tmp_path / "s")
    snapshots = [m for m in found.snapshots() if isinstance(m, Manifest)]
    assert [m.sequence for m in snapshots] == list(range(40, 0, -1))
    assert all(len(read(found, m)) == 300_000 for m in snapshots)


def test_store_is_made_in_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a" / "b" / "store", create=True)
    assert (store / "timelines").stat().st_mode & 0o777 == 0o700
