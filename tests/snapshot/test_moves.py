"""Timelines follow their notebooks, with a real Jupyter Server."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from respawner.errors import StoreError
from respawner.flush import wait_until_durable
from respawner.server_extension import _follower
from respawner.store.layout import open_store, slug_of
from respawner.store.lock import TimelineLock
from respawner.store.moves import TRASH_SECONDS, copy, delete, move, purge, undelete
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import PATIENCE_SECONDS, Notebook
from tests.snapshot.test_cli import cli
from tests.snapshot.test_jupyter_server import Server, server  # noqa: F401 - a fixture
from tests.snapshot.test_store import publish, read


def make(server: Server, name: str) -> None:  # noqa: F811
    content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    server.request("PUT", f"contents/{name}", {"type": "notebook", "content": content})


def names(server: Server) -> list[str]:  # noqa: F811
    work = f"{server.folder / 'work'}/"
    return sorted(t.name.removeprefix(work) for t in Timeline.all_in(server.folder / "store"))


def durable(server: Server) -> None:  # noqa: F811
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]


def test_running_kernel_says_the_new_name(server: Server) -> None:  # noqa: F811
    make(server, "a.ipynb")
    kernel = server.open_notebook("a.ipynb")
    server.run(kernel, "import respawner; x = 1")
    durable(server)  # what is being written in that moment fails, is told, and is written with the next cell
    server.request("PATCH", "contents/a.ipynb", {"path": "b.ipynb"})
    server._wait(lambda: names(server) == ["b.ipynb"], "the timeline follows")
    told = server.run(kernel, "s = respawner.status(); print(s['timeline'], s['folder'])").text.split()
    assert told[0] == str(server.folder / "work" / "b.ipynb")
    assert Path(told[1]).name.startswith("b.ipynb-")
    assert "b.ipynb has no snapshot 'nope'" in (server.run(kernel, "respawner.restore('nope')").error or "")
    durable(server)
    [timeline] = Timeline.all_in(server.folder / "store")
    newest = timeline.latest()
    assert newest is not None
    assert newest.timeline == timeline.name
    [told] = wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["kernels"]  # type: ignore[misc]
    assert told["timeline"] == timeline.name  # type: ignore[call-overload]


def test_renamed_and_deleted_folders_take_all_their_notebooks_along(server: Server) -> None:  # noqa: F811
    """Also what lies deeper, and the fork of a second kernel."""
    for folder in ("old", "old/deep", "older"):
        server.request("PUT", f"contents/{folder}", {"type": "directory"})
    kernels = {}
    for name in ("old/a.ipynb", "old/deep/b.ipynb", "older/c.ipynb"):
        make(server, name)
        kernels[name] = server.open_notebook(name)
        server.run(kernels[name], f"x = {name!r}")
    second = server.second_kernel("old/a.ipynb")
    assert "another kernel" in server.run(second, "x += ', the fork'").text
    durable(server)

    server.request("PATCH", "contents/old", {"path": "new"})
    renamed = ["new/a.ipynb", "new/a.ipynb", "new/deep/b.ipynb", "older/c.ipynb"]
    server._wait(lambda: names(server) == renamed, "all timelines below follow")
    for kernel, value in ((kernels["old/a.ipynb"], "old/a.ipynb"), (second, "old/a.ipynb, the fork")):
        assert server.run(kernel, "y = 1; print(x)").text.endswith(value + "\n")
        durable(server)
        server.request("POST", f"kernels/{kernel}/restart")
        assert server.run(kernel, "print(x, y)").text.endswith(f"{value} 1\n")
        durable(server)
    assert names(server) == renamed

    for kernel in (*kernels.values(), second):
        server.request("DELETE", f"kernels/{kernel}")
    server.request("DELETE", "contents/new")
    server._wait(lambda: names(server) == ["older/c.ipynb"], "they are in the trash")
    back = undelete(server.folder / "store", str(server.folder / "work" / "new"))
    assert sorted(found.slug.partition("~")[2] for found in back) == ["", "", "2"]
    assert names(server) == renamed


def test_copy_has_the_newest_state_of_the_forks_and_can_be_exported(server: Server, tmp_path: Path) -> None:  # noqa: F811
    make(server, "a.ipynb")
    first = server.open_notebook("a.ipynb")
    server.run(first, "import numpy as np; big = np.arange(2_000_000); x = 'first'")
    durable(server)
    second = server.second_kernel("a.ipynb")
    server.run(second, "x = 'second'")
    durable(server)
    copied = server.request("POST", "contents", {"copy_from": "a.ipynb"})["path"]
    server._wait(lambda: copied in names(server), "the copy has a timeline")
    for kernel in (first, second):
        server.request("DELETE", f"kernels/{kernel}")
    for fork in [t for t in Timeline.all_in(server.folder / "store") if t.name.endswith("/a.ipynb")]:
        shutil.rmtree(fork.folder)
    name, archive = str(server.folder / "work" / copied), tmp_path / "copy.tar"
    cli(server.folder / "store", "export", name, str(archive))
    elsewhere = Notebook(tmp_path / "elsewhere", "/home/grace/mine.ipynb")
    cli(elsewhere.store, "import", str(archive), "--name", elsewhere.name)
    try:
        assert elsewhere.start().run("print(x, big.sum())").text.endswith("second 1999999000000\n")
        elsewhere.run("big[0] = 1")
        assert elsewhere.restart_after_kill().run("print(big.sum())").text.endswith("1999999000001\n")
    finally:
        elsewhere.shut_down()
    assert "DAMAGED" not in cli(elsewhere.store, "verify")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return open_store(tmp_path / "store", create=True)


def saved(store: Path, name: str, content: bytes, slug: str | None = None) -> Timeline:
    timeline = Timeline.create(store, name, slug)
    writer = TimelineWriter(timeline)
    publish(writer, content)
    writer.close()
    return timeline


def content_of(timeline: Timeline) -> bytes:
    newest = timeline.latest()
    assert newest is not None
    return read(timeline, newest)


def test_undelete_refuses_before_it_moves_anything(store: Path) -> None:
    saved(store, "/n/a.ipynb", b"a")
    saved(store, "/n/b.ipynb", b"b")
    delete(store, "/n")
    saved(store, "/n/b.ipynb", b"newer")
    with pytest.raises(FileExistsError, match=r"/n/b\.ipynb has a timeline again"):
        undelete(store, "/n")
    assert [t.name for t in Timeline.all_in(store)] == ["/n/b.ipynb"]
    [found] = undelete(store, "/n/a.ipynb")
    assert content_of(found) == b"a"
    move(store, "/n/b.ipynb", "/n/c.ipynb")
    [found] = undelete(store, "/n/b.ipynb")
    assert content_of(found) == b"b"
    with pytest.raises(StoreError, match=r"no timeline of '/n/b\.ipynb'"):
        undelete(store, "/n/b.ipynb")


def test_undelete_takes_what_was_deleted_last(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for second, content in ((1_700_000_000, b"old"), (1_700_000_001, b"new")):
        saved(store, "/a.ipynb", content)
        monkeypatch.setattr("time.time", lambda now=second: float(now))
        delete(store, "/a.ipynb")
    [found] = undelete(store, "/a.ipynb")
    assert content_of(found) == b"new"


def test_trash_is_emptied_after_a_week_but_not_under_a_living_kernel(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = saved(store, "/used.ipynb", b"used")
    saved(store, "/unused.ipynb", b"unused")
    lock = TimelineLock.acquire(used.lock_path)
    assert lock is not None
    delete(store, "/used.ipynb")
    delete(store, "/unused.ipynb")
    week = time.time() + TRASH_SECONDS + 10
    monkeypatch.setattr("time.time", lambda: week)
    purge(store)
    assert [folder.name.split("-", 2)[2][:5] for folder in (store / "trash").iterdir()] == ["used."]
    lock.release()
    purge(store)
    assert not list((store / "trash").iterdir())


def test_rename_over_another_notebook_puts_its_timeline_into_the_trash(store: Path) -> None:
    saved(store, "/a.ipynb", b"a")
    saved(store, "/b.ipynb", b"b")
    [moved] = move(store, "/a.ipynb", "/b.ipynb")
    assert content_of(moved) == b"a"
    assert moved.was == ["/a.ipynb"]
    move(store, "/b.ipynb", "/c.ipynb")
    [found] = undelete(store, "/b.ipynb")
    assert content_of(found) == b"b"


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_notebook_that_is_renamed_while_its_manifest_is_written_keeps_the_state(
    store: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """After the manifest's temporary file was made, or after it got its name and before its folder was synced."""
    timeline = Timeline.create(store, "/home/ada/a.ipynb")
    timeline.follow()
    target = TimelineWriter(timeline)
    first = publish(target, b"one")
    real = os.replace if moment == "replace" else os.fsync
    moved: list[Timeline] = []

    def rename_first(*arguments: object) -> None:
        manifests = timeline.folder / "manifests"
        if not moved and (moment == "replace" or manifests.samefile(f"/proc/self/fd/{arguments[0]}")):
            moved.extend([timeline])
            moved[:] = move(store, "/home/ada/a.ipynb", "/home/ada/b.ipynb")
            if moment == "fsync":
                raise FileNotFoundError
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, moment, rename_first)
    second = publish(target, b"two")
    target.close()
    [found] = moved
    assert [m.id for m in found.snapshots()] == [second.id, first.id]
    assert read(found, found.read(second.sequence)) == b"two"
    assert list((found.folder / "manifests").glob(".*")) == []
    assert slug_of("/home/ada/a.ipynb") not in [folder.name for folder in (store / "timelines").iterdir()]


def test_folder_whose_name_another_begins_with_is_left_alone(store: Path) -> None:
    saved(store, "/n/a.ipynb", b"")
    saved(store, "/n2/a.ipynb", b"")
    assert [t.name for t in move(store, "/n", "/m")] == ["/m/a.ipynb"]
    assert delete(store, "/n") == 0
    assert sorted(t.name for t in Timeline.all_in(store)) == ["/m/a.ipynb", "/n2/a.ipynb"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV])
def test_copy_where_the_file_system_has_no_hard_links(
    store: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    saved(store, "/a.ipynb", b"content")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("respawner.store.moves.os.link", refuse)
    made = copy(store, "/a.ipynb", "/b.ipynb")
    assert made is not None
    shutil.rmtree(store / "timelines" / slug_of("/a.ipynb"))
    assert content_of(made) == b"content"


def test_copy_that_fails_leaves_no_timeline_behind(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(store, "/a.ipynb", b"content")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("respawner.store.moves.os.link", full)
    with pytest.raises(OSError, match="No space left"):
        copy(store, "/a.ipynb", "/b.ipynb")
    assert [t.name for t in Timeline.all_in(store)] == ["/a.ipynb"]


@pytest.mark.parametrize("fails", ["link", "publish"])
def test_copy_leaves_a_kernel_alone_that_starts_meanwhile(
    store: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    saved(store, "/a.ipynb", b"content")
    link = os.link

    def started_meanwhile(source: Path, target: Path) -> None:
        saved(store, "/b.ipynb", b"of the new kernel")
        link(source, target)
        if fails == "link":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("respawner.store.moves.os.link", started_meanwhile)
    if fails == "link":
        with pytest.raises(OSError, match="No space left"):
            copy(store, "/a.ipynb", "/b.ipynb")
    else:
        assert copy(store, "/a.ipynb", "/b.ipynb") is None
    theirs = Timeline.find(store, slug_of("/b.ipynb"))
    assert theirs is not None
    assert content_of(theirs) == b"of the new kernel"
    assert sorted(path.name for path in store.iterdir()) == ["format.json", "timelines"]


def test_rename_copy_and_delete_are_followed(server: Server) -> None:  # noqa: F811
    make(server, "a.ipynb")
    kernel = server.open_notebook("a.ipynb")
    server.run(kernel, "x = [1]")
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    server.request("PATCH", "contents/a.ipynb", {"path": "b.ipynb"})
    server._wait(lambda: names(server) == ["b.ipynb"], "the timeline follows")
    server.run(kernel, "x.append(2)")
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    server.request("POST", f"kernels/{kernel}/restart")
    assert server.run(kernel, "print(x)").text.endswith("[1, 2]\n")
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    assert names(server) == ["b.ipynb"]
    copied = server.request("POST", "contents", {"copy_from": "b.ipynb"})["path"]
    server._wait(lambda: copied in names(server), "the copy has a timeline")
    other = server.open_notebook(copied)
    assert server.run(other, "x.append(3); print(x)").text.endswith("[1, 2, 3]\n")
    server.request("DELETE", f"kernels/{other}")
    server.request("DELETE", f"kernels/{kernel}")
    server.request("DELETE", "contents/b.ipynb")
    server._wait(lambda: names(server) == [copied], "the deleted one is in the trash")
    [found] = undelete(server.folder / "store", str(server.folder / "work" / "b.ipynb"))
    assert found.target() is not None
    assert names(server) == sorted([copied, "b.ipynb"])


def test_states_go_along_where_the_kernel_manager_has_other_insides(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def not_here(kernel_id: str) -> None:
        raise KeyError(kernel_id)

    monkeypatch.setenv("RESPAWNER_STORE", str(store))
    saved(store, f"{tmp_path}/a.ipynb", b"content")
    managers = SimpleNamespace(
        root_dir=str(tmp_path), list_kernel_ids=lambda: ["gone meanwhile"], get_kernel=not_here
    )
    follow = _follower(SimpleNamespace(kernel_manager=managers, log=logging.getLogger("server")))
    asyncio.run(follow(None, "", {"action": "rename", "source_path": "a.ipynb", "path": "b.ipynb"}))
    assert [t.name for t in Timeline.all_in(store)] == [f"{tmp_path}/b.ipynb"]
    assert "gone meanwhile" in caplog.text
