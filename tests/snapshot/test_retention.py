"""What stays in a store, what goes, and what a store costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from respawner import contract
from respawner.errors import StoreError, TornError
from respawner.manifest import CHUNK_BYTES, Manifest, Payload
from respawner.store import compaction, writer
from respawner.store.budget import DAY_BYTES, OLDEST_SECONDS, Account, decide, written_in_a_day
from respawner.store.compaction import compact
from respawner.store.facts import Facts, facts_of
from respawner.store.layout import open_store
from respawner.store.pack import PackReader
from respawner.store.reader import SnapshotReader
from respawner.store.retention import Rules, packs_bytes, prune, to_keep
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import Notebook, flip_a_byte
from tests.snapshot.test_store import manifest_of, planned, publish, read, timeline  # noqa: F401

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=timezone.utc).timestamp()
HOUR, DAY = 3600.0, 86400.0


def at(sequence: int, age: float, **more: object) -> Facts:
    return Facts(sequence, good=True, id=f"id-{sequence}", created=NOW - age, target=True, **more)  # type: ignore[arg-type]


def kept(snapshots: list[Facts], rules: Rules | None = None, pinned: tuple[str, ...] = ()) -> list[int]:
    return sorted(to_keep(snapshots, pinned, NOW, rules or Rules(latest=2)))


def test_one_an_hour_stays_for_a_day_and_one_a_day_for_a_fortnight() -> None:
    every_20_minutes = [at(3000 - n, n * 1200.0) for n in range(3 * 24 * 30)]
    left = to_keep(every_20_minutes, (), NOW, Rules(latest=5))
    ages = sorted((3000 - sequence) * 1200.0 for sequence in left)
    assert ages[:5] == [n * 1200.0 for n in range(5)]
    assert 23 <= len([age for age in ages if age < DAY]) - 5 + 2 <= 26
    assert len([age for age in ages if age >= DAY]) == 13
    assert max(ages) < 14 * DAY


def test_labels_pins_the_newest_and_the_newest_that_is_restored_stay_whatever_their_age() -> None:
    old = [replace(at(n, (50 - n) * 100 * DAY), target=n < 4) for n in range(9, 0, -1)]
    old[7] = replace(old[7], labelled=True)
    assert kept(old, Rules(latest=1), pinned=("id-1",)) == [1, 2, 3, 9]


def test_clock_set_back_loses_nothing_new_and_keeps_no_crowd_from_the_future() -> None:
    """Numbers tell the order. A hundred snapshots from next year count as one of now."""
    future = [at(n, -365 * DAY - n) for n in range(100, 0, -1)]
    after = [at(100 + n, 60.0 * (10 - n)) for n in range(10, 0, -1)]
    left = kept(after + future, Rules(latest=3))
    assert {110, 109, 108} <= set(left)
    assert len([sequence for sequence in left if sequence <= 100]) <= 1


def test_damaged_manifests_go_when_they_are_old() -> None:
    snapshots = [at(5, 0), Facts(4, good=False), at(3, 1), at(2, 20 * DAY), Facts(1, good=False)]
    assert kept(snapshots) == [3, 4, 5]


def test_what_is_deleted_while_it_is_listed_is_not_told_as_damage(timeline: Timeline) -> None:  # noqa: F811
    target = TimelineWriter(timeline)
    for sequence in range(3):
        publish(target, b"%d" % sequence)
    target.close()
    listing = timeline.snapshots()
    newest = next(listing)
    timeline.manifest_path(timeline.sequences()[1]).unlink()
    oldest = next(listing)
    assert isinstance(newest, Manifest)
    assert isinstance(oldest, Manifest)
    assert newest.sequence - oldest.sequence == 2
    assert next(listing, None) is None


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contract.KEEP_LATEST_ENV, "7")
    monkeypatch.setenv(contract.TIMELINE_QUOTA_ENV, "1.5 GB")
    assert Rules.from_environment() == Rules(latest=7, timeline_bytes=1_500_000_000)
    monkeypatch.setenv(contract.STORE_QUOTA_ENV, "plenty")
    with pytest.raises(StoreError, match="RESPAWNER_STORE_QUOTA is 'plenty'"):
        Rules.from_environment()


def created(age: float) -> str:
    return (datetime.fromtimestamp(NOW, timezone.utc) - timedelta(seconds=age)).isoformat()


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SMALL_PACK_BYTES", 4 * CHUNK_BYTES)


def test_quota_takes_the_oldest_and_never_the_labelled_or_the_last(
    timeline: Timeline,  # noqa: F811
    small_packs: None,
) -> None:
    target = TimelineWriter(timeline)
    for n in range(10):
        publish(target, os.urandom(4 * CHUNK_BYTES), created=created(10 - n), labels=["l"] if n == 1 else [])
    rules = Rules(timeline_bytes=5 * 4 * CHUNK_BYTES)
    assert prune(timeline, rules=rules, now=NOW) == [1, 3, 4, 5, 6]
    target.drop_unnamed_packs()
    assert packs_bytes(timeline) <= 6.5 * 4 * CHUNK_BYTES
    prune(timeline, rules=Rules(timeline_bytes=1), now=NOW)
    left = [m for m in timeline.snapshots() if isinstance(m, Manifest)]
    assert [m.sequence for m in left] == [10, 2]
    assert all(len(read(timeline, m)) == 4 * CHUNK_BYTES for m in left)


def test_quota_of_the_store_counts_other_notebooks(timeline: Timeline, small_packs: None) -> None:  # noqa: F811
    other = Timeline.create(timeline.folder.parent.parent, "/another.ipynb")
    publish(TimelineWriter(other), os.urandom(8 * CHUNK_BYTES))
    target = TimelineWriter(timeline)
    for n in range(4):
        publish(target, os.urandom(4 * CHUNK_BYTES), created=created(4 - n))
    assert prune(timeline, rules=Rules(store_bytes=17 * CHUNK_BYTES), now=NOW) == [1, 2]
    assert len(other.sequences()) == 1, "another kernel's timeline is its own affair"


def test_facts_are_read_anew_only_where_a_manifest_changed(timeline: Timeline) -> None:  # noqa: F811
    target = TimelineWriter(timeline)
    publish(target, b"one")
    [first] = facts_of(timeline)
    publish(target, b"two")
    assert facts_of(timeline)[1] is first
    flip_a_byte(timeline.manifest_path(1), 50)
    assert [facts.good for facts in facts_of(timeline)] == [True, False]


# Dead space ---------------------------------------------------------------------------------------------------


def train(timeline: Timeline, epochs: int, body: bytes, head_bytes: int) -> list[tuple[Manifest, bytes]]:  # noqa: F811
    """One cell an epoch, of which only the head is new, as the recorder does it: pruned every five."""
    target = TimelineWriter(timeline)
    published = []
    for epoch in range(epochs):
        head = os.urandom(head_bytes)
        when = created((epochs - epoch) * 60.0)
        regions = target.add_stream([head])
        manifest = manifest_of(target, target.add_stream([body]), created=when, regions=regions)
        target.publish(manifest)
        published.append((manifest, head))
        if epoch % 5 == 4 and prune(timeline, rules=Rules(), now=NOW - (epochs - epoch) * 60.0):
            target.drop_unnamed_packs()
    target.close()
    return published


def test_store_after_100_epochs_is_smaller_than_full_and_100_heads(
    timeline: Timeline,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    body, head = os.urandom(64 << 20), 4 << 20
    published = train(timeline, 100, body, head)
    size, ideal = packs_bytes(timeline), len(body) + 100 * head
    with capsys.disabled():
        print(f" store after 100 epochs: {size >> 20} MiB; full + 100 heads: {ideal >> 20} MiB", end="")
    assert size < 0.6 * ideal
    left = {m.sequence for m in timeline.snapshots() if isinstance(m, Manifest)}
    assert len(left) >= 20
    for manifest, content in published:
        if manifest.sequence in left:
            found = timeline.read(manifest.sequence)
            assert (found.id, found.created) == (manifest.id, manifest.created)
            with SnapshotReader(timeline, found) as reader:
                assert bytes(reader.read(found.regions)) == content
                assert bytes(reader.read(found.skeleton)) == body


def mostly_dead(timeline: Timeline) -> tuple[TimelineWriter, list[tuple[Manifest, bytes]]]:  # noqa: F811
    """Three snapshots of ten are left, in one pack, and a pack that is being written."""
    target = TimelineWriter(timeline)
    contents = [os.urandom(3 * CHUNK_BYTES + 5) for _ in range(10)]
    for content in contents:
        publish(target, content, content[:CHUNK_BYTES], b"z" * 9999, compress=len(contents) % 2 == 0)
    target.distrust()
    publish(target, os.urandom(CHUNK_BYTES))
    for sequence in (1, 2, 4, 5, 7, 8, 9):
        timeline.manifest_path(sequence).unlink()
    left = [m for m in timeline.snapshots() if isinstance(m, Manifest)]
    return target, [(m, read(timeline, m)) for m in left]


def test_compaction_moves_what_is_named_and_changes_nothing_else(timeline: Timeline) -> None:  # noqa: F811
    target, before = mostly_dead(timeline)
    mapped = PackReader(timeline.packs, 1)
    size = packs_bytes(timeline)
    moves = compact(timeline, keep=target._committed_pack, least_bytes=0)
    assert moves
    assert not (timeline.packs / "00000001.pack").exists()
    assert packs_bytes(timeline) < size / 2
    for manifest, content in before:
        found = timeline.read(manifest.sequence)
        assert read(timeline, found) == content
        assert replace(found, skeleton=manifest.skeleton) == manifest
        assert len(found.skeleton.extents) == len(manifest.skeleton.extents), (
            "what lay side by side still does"
        )
    mapped.read_into(memoryview(bytearray(CHUNK_BYTES)), 4096)  # who had it open goes on reading
    mapped.close()
    assert compact(timeline, keep=target._committed_pack, least_bytes=0) == {}
    target.close()
    content = before[-1][1]
    again = TimelineWriter(timeline)
    size = packs_bytes(timeline)
    assert read(timeline, publish(again, content[: 2 * CHUNK_BYTES])) == content[: 2 * CHUNK_BYTES]
    assert packs_bytes(timeline) - size < CHUNK_BYTES, "moved chunks are known where they are"


def test_compaction_waits_while_a_manifest_is_damaged(timeline: Timeline) -> None:  # noqa: F811
    target, _ = mostly_dead(timeline)
    flip_a_byte(timeline.manifest_path(3), 40)
    assert compact(timeline, keep=target._committed_pack, least_bytes=0) == {}


def test_compaction_leaves_a_pack_alone_that_cannot_be_read(timeline: Timeline) -> None:  # noqa: F811
    target, _ = mostly_dead(timeline)
    os.truncate(timeline.packs / "00000001.pack", 5 * CHUNK_BYTES)
    names = sorted(path.name for path in timeline.packs.iterdir())
    assert compact(timeline, keep=target._committed_pack, least_bytes=0) == {}
    assert sorted(path.name for path in timeline.packs.iterdir()) == names


def test_writer_goes_on_after_compaction_in_a_pack_of_its_own(
    timeline: Timeline,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compacted pack has a higher number than the one being written: neither may run into the other."""
    monkeypatch.setattr(compaction, "LEAST_BYTES", 0)
    monkeypatch.setattr(compaction.compact, "__defaults__", (0,))
    monkeypatch.setattr(writer, "SMALL_PACK_BYTES", 2 * CHUNK_BYTES)
    target, before = mostly_dead(timeline)
    target.drop_unnamed_packs()
    more = [(m, c) for c in (os.urandom(3 * CHUNK_BYTES) for _ in range(5)) for m in [publish(target, c)]]
    target.close()
    more += [(publish(TimelineWriter(timeline), c), c) for c in (os.urandom(CHUNK_BYTES), before[0][1])]
    for manifest, content in before + more:
        assert read(timeline, timeline.read(manifest.sequence)) == content


def test_payload_streams_are_rewritten_too(timeline: Timeline) -> None:  # noqa: F811
    target = TimelineWriter(timeline)
    publish(target, os.urandom(20 * CHUNK_BYTES))
    content = os.urandom(2 * CHUNK_BYTES)
    empty = target.add_stream([])
    payloads = [Payload(1, "numpy", "uint8", target.add_stream([content]))]
    target.publish(manifest_of(target, empty, payloads=payloads))
    target.distrust()
    timeline.manifest_path(1).unlink()
    publish(target, b"x")
    assert compact(timeline, keep=target._committed_pack, least_bytes=0)
    found = timeline.read(2)
    with SnapshotReader(timeline, found) as reader:
        assert bytes(reader.read(found.payloads[0].stream)) == content


# The budget -------------------------------------------------------------------------------------------------------


def test_budget_defers_large_states_only_when_half_of_it_is_gone() -> None:
    gb = 10**9
    assert decide(0, 0.0, 900 * gb, DAY_BYTES).save
    assert decide(999 * gb, 0.0, gb, DAY_BYTES).save
    deferred = decide(1900 * gb, 10.0, gb, DAY_BYTES)
    assert not deferred.save
    assert "1900.0 of 2000 GB" in deferred.reason
    assert decide(1900 * gb, 10.0 + deferred.wait_seconds, gb, DAY_BYTES).save
    assert decide(1900 * gb, 10.0, gb // 10_000, DAY_BYTES).save, "age grows with size"
    assert not decide(3000 * gb, OLDEST_SECONDS - 1, 1, DAY_BYTES).save
    assert decide(3000 * gb, OLDEST_SECONDS, 50 * gb, DAY_BYTES).save, "never unsaved for longer than an hour"


def test_a_day_of_saving_as_often_as_allowed_stays_within_the_budget() -> None:
    size, day, written, saved_at, saves = 10**9, 200 * 10**9, 0, -DAY, 0
    for now in range(0, 86400, 10):
        if decide(written, now - saved_at, size, day).save:
            written, saved_at, saves = written + size, float(now), saves + 1
    assert saves > 100
    assert written <= day + 24 * size


def test_written_bytes_are_counted_over_all_notebooks_of_a_store(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    for name in ("/a.ipynb", "/b.ipynb"):
        publish(TimelineWriter(Timeline.create(store, name)), os.urandom(CHUNK_BYTES))
    assert written_in_a_day(store) == 2 * CHUNK_BYTES
    account = Account(Timeline.create(store, "/a.ipynb").folder)
    account.add(1000, now=NOW)
    assert written_in_a_day(store, NOW + 23 * HOUR) >= 1000
    assert written_in_a_day(store, NOW + 25 * HOUR) < 1000
    (tmp_path / "timelines" / "a.ipynb-0" / "written.json").parent.mkdir()
    (tmp_path / "timelines" / "a.ipynb-0" / "written.json").write_text("[]")
    assert written_in_a_day(store, NOW + 25 * HOUR) < 1000


def test_large_memory_with_zeros_in_it_is_restored_and_writable(
    open_notebook: Callable[..., Notebook],
) -> None:
    notebook = open_notebook().start()
    notebook.run(
        "import numpy as np\n"
        "array = np.zeros(4 << 20)\narray[: 1 << 20] = np.random.default_rng(0).random(1 << 20)\n"
        "array[-5:] = 7.0\nbefore = array.sum()"
    )
    notebook.kill()
    newest = notebook.manifests()[0]
    assert newest.version == 2
    assert sum(path.stat().st_size for path in notebook.timeline.packs.iterdir()) < 10 << 20
    notebook.start()
    ran = notebook.run("print(array.sum() == before); array[2 << 20] = 1.0; array[0] += 1.0")
    assert ran.text.endswith("True\n"), ran.text
    notebook.restart_after_kill()
    assert notebook.run("print(round(array.sum() - before, 6))").text.endswith("2.0\n")


def test_snapshot_that_was_captured_before_a_compaction_is_captured_anew(
    timeline: Timeline,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its streams name packs that are gone: publishing it would lose the state."""
    monkeypatch.setattr(compaction.compact, "__defaults__", (0,))
    target, _ = mostly_dead(timeline)
    old = timeline.read(10)
    target.drop_unnamed_packs()
    with pytest.raises(TornError, match="moved since the capture"):
        target.publish(replace(old, sequence=target.next_sequence))
    target.roll_back()
    content = os.urandom(100)
    assert read(timeline, publish(target, content)) == content


def test_stream_with_zeros_in_it_is_mapped_and_writable(timeline: Timeline) -> None:  # noqa: F811
    target = TimelineWriter(timeline)
    chunks = [os.urandom(2 * CHUNK_BYTES), bytes(20 * CHUNK_BYTES), os.urandom(99)]
    content = b"".join(chunks)
    pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    stream = target.add_planned(len(content), planned(*pieces), restless=False)
    manifest = manifest_of(target, stream)
    target.publish(manifest)
    assert [extent.encoding for extent in stream.extents] == ["raw", "zero", "raw"]
    with SnapshotReader(timeline, manifest) as reader:
        mapped = memoryview(reader.map(stream)).cast("B")
        assert bytes(mapped) == content
        mapped[5 * CHUNK_BYTES] = 3
        assert mapped[5 * CHUNK_BYTES] == 3
        assert reader.damage_in(stream) is None
