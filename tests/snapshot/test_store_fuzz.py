"""Whatever stands in the store's files: the reader names it as damage, and runs nothing of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from respawner.errors import StoreError
from respawner.manifest import CHUNK_BYTES, Manifest, _canonical, _checksum
from respawner.store.archive import import_timeline
from respawner.store.facts import facts_of
from respawner.store.layout import open_store
from respawner.store.reader import SnapshotReader
from respawner.store.retention import Rules, prune, to_keep
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.test_old_formats import FIXTURES
from tests.snapshot.test_store import manifest_of, planned

LONG = os.environ.get("RESPAWNER_LONG") == "1"
TRIES = 20_000 if LONG else 600
pytestmark = pytest.mark.timeout(2 * 3600 if LONG else 600)
STRANGE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1.5, 1e308, float("nan"), "", "raw", "zero", "zlib", "zstd", "\0",
    "../../etc/passwd", [], {}, [[]], [[1, 4096, 2**61, 2**61, "raw"]], [[0, 0, 2**61, 0, "zero"]], "A" * 5000,
    "2026-01-01T00:00:00", "xxh3_128",
]  # fmt: skip


@pytest.fixture(params=[*FIXTURES, "format-2"], ids=lambda param: getattr(param, "stem", param))
def timeline(request: pytest.FixtureRequest, tmp_path: Path) -> Timeline:
    """A small timeline of each format."""
    store = open_store(tmp_path / "store", create=True)
    if isinstance(request.param, Path):
        return import_timeline(store, request.param, None)
    made = Timeline.create(store, "/fuzz.ipynb")
    target = TimelineWriter(made)
    for n in range(3):
        content = bytes(2 * CHUNK_BYTES) + os.urandom(500) + b"words " * 9000
        pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        stream = target.add_planned(len(content), planned(*pieces), restless=False)
        target.publish(manifest_of(target, stream, labels=[f"l{n}"]))
    target.close()
    return made


def look_at_everything(timeline: Timeline) -> bool:
    """As list, verify, retention and a restore do, without unpickling. Whether all of it was whole."""
    whole = True
    for found in timeline.snapshots():
        if not isinstance(found, Manifest):
            whole = False
            continue
        try:
            with SnapshotReader(timeline, found) as reader:
                reader.verify()
        except (StoreError, MemoryError):
            whole = False
    timeline.target()
    to_keep(facts_of(timeline), (), 0.0, Rules())
    return whole


def mutated(value: Any, chance: random.Random) -> Any:
    """One place of a JSON value changed: another value, a neighbour's, or none."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value))
        if chance.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        if chance.random() < 0.1:
            return value[:at] + value[at + 1 :]
        if chance.random() < 0.1:
            return [*value, chance.choice(value)]
        return [*value[:at], mutated(value[at], chance), *value[at + 1 :]]
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice([-1, 1, 4096, CHUNK_BYTES, -(2**33), 2**40])
    return chance.choice(STRANGE)


def test_mutated_manifests_with_a_right_checksum(
    timeline: Timeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no accident makes, but a program that writes the format wrongly might."""
    path = timeline.manifest_path(timeline.sequences()[0])
    content = path.read_bytes()
    original = json.loads(content)
    chance, refused = random.Random(3), 0
    for _ in range(TRIES):
        data = mutated(
            {k: v for k, v in original.items() if k not in ("checksum", "format", "version")}, chance
        )
        data = data if isinstance(data, dict) else {}
        data |= {"format": original["format"], "version": original["version"]}
        path.write_bytes(_canonical({**data, "checksum": _checksum(data)}))
        refused += not look_at_everything(timeline)
    path.write_bytes(content)
    assert look_at_everything(timeline)
    with capsys.disabled():
        print(f" {refused} of {TRIES} refused", end="")
    assert refused > TRIES / 4


@pytest.mark.parametrize("part", ["manifests/*.json", "packs/*.pack", "timeline.json"])
def test_flipped_and_truncated_bytes(
    timeline: Timeline, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, refused, tries = random.Random(part), 0, TRIES // 8
    paths = sorted(timeline.folder.glob(part))
    for _ in range(tries):
        path = chance.choice(paths)
        content = path.read_bytes()
        damaged = bytearray(content)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            for _ in range(chance.randrange(1, 4)):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            refused += not look_at_everything(Timeline(timeline.folder))
        except StoreError:
            refused += 1
        path.write_bytes(content)
    assert look_at_everything(Timeline(timeline.folder))
    with capsys.disabled():
        print(f" {refused} of {tries} refused", end="")
    if part == "timeline.json":
        assert refused < tries / 4, "manifests tell whose a timeline is, so its description may be damaged"
    elif part == "manifests/*.json":
        assert refused > tries * 0.95


def test_mutated_descriptions(timeline: Timeline) -> None:
    path = timeline.folder / "timeline.json"
    original = json.loads(path.read_bytes())
    chance = random.Random(4)
    for _ in range(TRIES // 8):
        path.write_text(json.dumps(mutated(original, chance)))
        try:
            found = Timeline(timeline.folder)
            found.latest()
            assert isinstance(found.name, str)
        except StoreError:
            pass
    path.write_text("[" * 100_000)
    assert Timeline(timeline.folder).name
    assert not Timeline.broken_in(timeline.folder.parents[1])


def test_damaged_description_is_written_anew_and_the_states_stay(timeline: Timeline) -> None:
    name = timeline.name
    (timeline.folder / "timeline.json").write_bytes(b"{")
    again = Timeline(timeline.folder)
    assert again.name == name
    again.belongs_to("kernel-1")
    assert json.loads((timeline.folder / "timeline.json").read_bytes())["name"] == name


def test_reading_a_store_imports_nothing_that_unpickles(timeline: Timeline) -> None:
    """Checked in a process of its own: no pickle module is even loaded."""
    code = (
        "import sys; from pathlib import Path\n"
        "from respawner.store.timeline import Timeline; from respawner.store.reader import SnapshotReader\n"
        "from respawner.store.writer import TimelineWriter\n"
        f"timeline = Timeline(Path({str(timeline.folder)!r}))\n"
        "for found in timeline.snapshots():\n"
        "    with SnapshotReader(timeline, found) as reader: reader.verify()\n"
        "assert not {'pickle', '_pickle', 'cloudpickle', 'dill'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_crowd_of_damaged_manifests_does_not_keep_retention_from_its_work(timeline: Timeline) -> None:
    for sequence in range(100, 130):
        timeline.manifest_path(sequence).write_bytes(b"{}")
    target = TimelineWriter(timeline)
    for _ in range(3):
        target.publish(manifest_of(target, target.add_stream([os.urandom(100)])))
    prune(timeline, rules=Rules(latest=3, hourly=0, daily=0), now=4e9)
    left = timeline.sequences()
    assert left[:3] == [132, 131, 130]
    assert not [sequence for sequence in left if 100 <= sequence < 130]
