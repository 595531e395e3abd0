"""A session that was given up saves nothing over the one that went on in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from respawner.errors import FencedError
from respawner.store import fence
from respawner.store.fence import Fence
from respawner.store.layout import open_store
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import Notebook
from tests.snapshot.test_store import manifest_of, publish, read


@pytest.fixture
def fenced(open_notebook: Callable[..., Notebook], tmp_path: Path) -> Notebook:
    """A notebook whose session is number 7, which is the newest one."""
    (tmp_path / "fence").write_text("7")
    return open_notebook(RESPAWNER_FENCE="7", RESPAWNER_FENCE_FILE=str(tmp_path / "fence")).start()


def test_a_session_that_was_given_up_publishes_nothing_and_says_so(fenced: Notebook, tmp_path: Path) -> None:
    fenced.run("x = 1")
    fenced.settle()
    kept = [manifest.id for manifest in fenced.manifests()]
    (tmp_path / "fence").write_text("8")
    fenced.run("x = 2")
    settled = fenced.settle()
    assert not settled["durable"]
    assert "another one has gone on" in settled["kernels"][0]["error"]
    told = fenced.run("x = 3").text
    assert "this session was given up" in told
    assert "Trying again" not in told
    status = fenced.value("__import__('respawner').status()['error']")
    assert "says 8, this session is 7" in status
    assert "copy what you need to a file" in status
    assert [manifest.id for manifest in fenced.manifests()] == kept


def test_the_newest_session_saves_as_ever(fenced: Notebook) -> None:
    for count in range(3):
        fenced.run(f"x = {count}")
    assert fenced.settle()["durable"]
    assert len(fenced.manifests()) == 3


def test_what_a_newer_session_has_appended_is_not_cut_off(tmp_path: Path) -> None:
    """Where no lock spans the hosts both write at once: what the old one writes and takes back must be its own pack."""
    timeline = Timeline.create(open_store(tmp_path / "store", create=True), "/home/ada/training.ipynb")
    fence = tmp_path / "fence"
    fence.write_text("7")
    old = TimelineWriter(timeline, Fence(7, fence))
    publish(old, b"state of session 7")
    manifest = manifest_of(old, old.add_stream([os.urandom(1 << 20)]))
    fence.write_text("8")
    newest = publish(TimelineWriter(timeline, Fence(8, fence)), b"state of session 8")
    with pytest.raises(FencedError):
        old.publish(manifest)
    old.roll_back()
    assert read(timeline, newest) == b"state of session 8"
    assert timeline.latest() == newest
    assert read(timeline, publish(TimelineWriter(timeline, Fence(8, fence)), b"more")) == b"more"
    assert len(list(timeline.packs.glob("*.pack"))) == 2, "a restarted kernel goes on with its pack"
    with pytest.raises(FencedError):
        old.prune(1)


@pytest.mark.parametrize(
    ("content", "raises"), [("6", False), ("7", False), ("8", True), ("", False), ("x", False), (None, False)]
)
def test_only_a_greater_number_fences_off(tmp_path: Path, content: str | None, raises: bool) -> None:
    path = tmp_path / "fence"
    if content is not None:
        path.write_text(content)
    fence = Fence(7, path)
    if raises:
        with pytest.raises(FencedError, match="says 8, this session is 7"):
            fence.check()
    else:
        fence.check()


def test_a_file_that_is_being_replaced_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fence"
    path.write_text("")
    monkeypatch.setattr(fence, "time", SimpleNamespace(sleep=lambda seconds: path.write_text("8")))
    with pytest.raises(FencedError):
        Fence(7, path).check()


@pytest.mark.parametrize(("number", "path"), [("", "/x"), ("many", "/x"), ("7", ""), ("-1", "/x")])
def test_without_a_number_and_a_file_nobody_keeps_count(
    monkeypatch: pytest.MonkeyPatch, number: str, path: str
) -> None:
    monkeypatch.setitem(os.environ, "RESPAWNER_FENCE", number)
    monkeypatch.setitem(os.environ, "RESPAWNER_FENCE_FILE", path)
    fence = Fence.of_session()
    assert (fence.number, fence.path) == (0, None)
