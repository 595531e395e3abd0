"""Nothing that a disk, a power cut or a kill does to the store costs more than the snapshot under way."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from respawner.errors import StoreError
from respawner.manifest import CHUNK_BYTES, Manifest
from respawner.store import compaction, writer
from respawner.store.layout import open_store, slug_of
from respawner.store.reader import SnapshotReader
from respawner.store.retention import Rules, prune
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.file_layer import Failing, Killed, PowerLoss, under_the_store
from tests.snapshot.test_store import manifest_of, planned, read

LONG = os.environ.get("RESPAWNER_LONG") == "1"
NAME = "/home/ada/faults.ipynb"
RULES = Rules(latest=3, hourly=0, daily=0)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs end often, and compaction runs for little."""
    monkeypatch.setattr(writer, "PACK_BYTES", 6 * CHUNK_BYTES)
    monkeypatch.setattr(writer, "SMALL_PACK_BYTES", 2 * CHUNK_BYTES)
    monkeypatch.setattr(compaction.compact, "__defaults__", (0,))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable is the layers' business here; a disk that is at work takes seconds for each fsync."""
    for sync in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, sync, lambda descriptor: None)


class Life:
    """A kernel's dealings with its store: snapshots with old and new chunks, pruning, compaction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chance = random.Random(1)
        self.contents: dict[int, bytes] = {}
        """By sequence number, of every snapshot that was begun; one that fails takes its number along."""
        self.published: list[int] = []
        self.begun = 0
        self._body = self.chance.randbytes(CHUNK_BYTES)

    def open(self) -> TimelineWriter:
        self.timeline = Timeline.create(open_store(self.folder, create=True), NAME)
        return TimelineWriter(self.timeline)

    def snapshot(self, target: TimelineWriter) -> None:
        """As the saver does it."""
        new = self.chance.randbytes(CHUNK_BYTES + self.chance.randrange(3000))
        text = b"%d " % self.begun * 5000
        content = self._body + bytes(CHUNK_BYTES) + new + text
        self.begun += 1
        pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        sequence = target.next_sequence
        self.contents[sequence] = content
        try:
            stream = target.add_planned(len(content), planned(*pieces), restless=False)
            regions = target.add_stream([text], compress=True)
            target.publish(manifest_of(target, stream, regions=regions))
        except BaseException as error:
            if not isinstance(error, Killed):
                target.roll_back()
            raise
        self.published.append(sequence)

    def tidy(self, target: TimelineWriter) -> None:
        if prune(self.timeline, rules=RULES):
            target.drop_unnamed_packs()

    def whole(self, cells: int) -> None:
        target = self.open()
        for cell in range(cells):
            self.snapshot(target)
            if cell % 3 == 2:
                self.tidy(target)
        target.close()


def check(folder: Path, life: Life, begun: int | None = None) -> None:
    """The newest published state or the one under way is found, whole, and saving goes on from there."""
    store = folder / "timelines"
    timeline = Timeline.find(folder, slug_of(NAME)) if store.is_dir() else None
    last = life.published[-1] if life.published else 0
    if timeline is None:
        assert last == 0, "the timeline is gone"
        return
    found = timeline.latest()
    assert (found.sequence if found else 0) >= last, f"snapshot {last} was published and is gone"
    assert found is None or found.sequence <= last + 1
    for manifest in timeline.snapshots():
        if isinstance(manifest, Manifest) and manifest.sequence >= last - 1:
            assert read(timeline, manifest) == life.contents[manifest.sequence], manifest.sequence
            with SnapshotReader(timeline, manifest) as reader:
                reader.verify()
    again = TimelineWriter(timeline)
    stream = again.add_planned(9, planned(b"it goes on"[:9]), restless=False)
    again.publish(manifest_of(again, stream))
    again.close()
    newest = timeline.latest()
    assert newest is not None
    assert read(timeline, newest) == b"it goes on"[:9]
    before = timeline.read(found.sequence) if found else None
    if before:
        assert read(timeline, before) == life.contents[before.sequence]


def changes_of_a_life(folder: Path, cells: int) -> int:
    counter = Failing(1 << 60, errno.EIO)
    with under_the_store(counter):
        Life(folder).whole(cells)
    return counter.count


CELLS = 7


def test_kill_at_every_change_of_the_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also within pruning and compaction, which delete and move what is published."""
    count = changes_of_a_life(tmp_path / "whole", CELLS)
    numbers = range(0, count, 1 if LONG else 3)
    for number in numbers:
        folder = tmp_path / str(number)
        life, layer = Life(folder), Failing(number, "kill")
        with under_the_store(layer), pytest.raises(Killed):
            life.whole(CELLS)
        check(folder, life)
        shutil.rmtree(folder, ignore_errors=True)
    with capsys.disabled():
        print(f" {len(numbers)} kills", end="")


def test_sigkill_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes, which restore, save and tidy up; see `killing`."""
    kills = 400 if LONG else 20
    command = [sys.executable, "-m", "tests.snapshot.killing", str(tmp_path / "store"), str(kills), "11"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with capsys.disabled():
        print(f" {told}", end="")
    assert told["kills"] == kills
    assert told["states"] > 0
    if LONG:
        assert {"restoring", "saving", "tidying"} <= set(told["killed_while"])


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from there on"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, "short"])
def test_disk_error_at_every_change(
    tmp_path: Path, error: int | str, lasting: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was published stays, the next cell tries again, and later cells are saved once the disk works."""
    count = changes_of_a_life(tmp_path / "whole", CELLS)
    step = 1 if LONG else 12
    numbers = range(random.Random(str(error)).randrange(step), count, step)
    told = 0
    for number in numbers:
        folder = tmp_path / str(number)
        life, layer = Life(folder), Failing(number, error, lasting=lasting)
        with under_the_store(layer):
            target = None
            for cell in range(CELLS):
                try:
                    target = target or life.open()
                    life.snapshot(target)
                    if cell % 3 == 2:
                        life.tidy(target)
                except (OSError, StoreError):
                    told += 1
        if error == "short":
            assert told == 0, "a short write is no error: the rest is written"
        check(folder, life)
        if target is not None:
            target.close()
        shutil.rmtree(folder, ignore_errors=True)
    with capsys.disabled():
        print(f" {len(numbers)} faults", end="")
    assert told or error == "short"


def test_power_cut_at_every_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what was fsynced is left, or that and a part of the rest, page by page, in no order."""
    disk = tmp_path / "disk"
    disk.mkdir()
    layer, life = PowerLoss(disk), Life(disk / "store")
    cuts = 0
    chance = random.Random(7)

    changes = 0

    def cut() -> None:
        nonlocal cuts, changes
        changes += 1
        if not LONG and changes % 2:
            return
        for seed in (None, *(chance.randrange(1 << 30) for _ in range(4 if LONG else 1))):
            left = tmp_path / f"left-{cuts}"
            layer.states_after(left, seed)
            check(left / "store", life)
            shutil.rmtree(left, ignore_errors=True)
            cuts += 1

    def watch() -> None:
        layer.watch = None  # what `check` writes is not part of this life
        with under_the_store(os):  # type: ignore[arg-type]
            cut()
        layer.watch = watch

    layer.watch = watch
    with under_the_store(layer):
        life.whole(CELLS)
    with capsys.disabled():
        print(f" {cuts} power cuts", end="")
    assert cuts > 100


def test_clock_that_goes_backwards_hides_no_newer_state(tmp_path: Path) -> None:
    """The order is that of the numbers; retention takes what is from the future for made now."""
    timeline = Timeline.create(open_store(tmp_path, create=True), NAME)
    target = TimelineWriter(timeline)
    for number, year in enumerate([2026, 2031, 2020, 1971, 1999, 1970, 1970, 1970]):
        content = b"%d " % number * 1000
        created = datetime(year, 1, 2, tzinfo=timezone.utc)
        stream = target.add_stream([content])
        target.publish(manifest_of(target, stream, id=f"{year}-{number}", created=created.isoformat()))
        prune(timeline, rules=RULES, now=created.timestamp())
        target.drop_unnamed_packs()
        newest = timeline.target()
        assert newest is not None
        assert read(timeline, newest) == content
    assert [m.sequence for m in timeline.snapshots() if isinstance(m, Manifest)] == [8, 7, 6]
