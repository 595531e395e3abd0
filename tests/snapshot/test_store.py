"""The store on disk: what is written, and what happens when it is not what was written."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from respawner.errors import DamagedError, NewerFormatError, StoreError
from respawner.manifest import CHUNK_BYTES, Manifest, Name, Stream
from respawner.store import codec, digest, writer
from respawner.store.compaction import compact
from respawner.store.layout import open_store, slug_of
from respawner.store.lock import TimelineLock
from respawner.store.pack import align, pack_path
from respawner.store.reader import SnapshotReader
from respawner.store.retention import prune
from respawner.store.timeline import Damage, Timeline
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import Notebook, flip_a_byte

EMPTY = Stream(0, b"", ())


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    return Timeline.create(open_store(tmp_path, create=True), "/home/ada/my notebook.ipynb")


def manifest_of(target: TimelineWriter, skeleton: Stream, **fields: object) -> Manifest:
    manifest = Manifest(
        id=f"id-{target.next_sequence}",
        sequence=target.next_sequence,
        timeline=target.timeline.name,
        created="2026-01-02T03:04:05.000+00:00",
        parent=None,
        kind="cell",
        state="ok",
        cell={},
        versions={},
        hash=target.hash,
        live=[],
        skeleton=skeleton,
        regions=EMPTY,
        payloads=[],
        names=[],
    )
    return replace(manifest, **fields)  # type: ignore[arg-type]


def publish(target: TimelineWriter, *pieces: bytes, compress: bool = False, **fields: object) -> Manifest:
    manifest = manifest_of(target, target.add_stream(pieces, compress=compress), **fields)
    target.publish(manifest)
    return manifest


def read(timeline: Timeline, manifest: Manifest) -> bytes:
    with SnapshotReader(timeline, manifest) as reader:
        return bytes(reader.read(manifest.skeleton))


CONTENTS = [
    (b"",),
    (b"x",),
    (os.urandom(CHUNK_BYTES),),
    (os.urandom(CHUNK_BYTES + 1),),
    (b"ab" * CHUNK_BYTES, b"c", os.urandom(3 * CHUNK_BYTES + 7)),
]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("pieces", CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize("algorithm", digest.ALGORITHMS)
def test_stream_is_read_back(
    timeline: Timeline,
    pieces: tuple[bytes, ...],
    compress: bool,
    algorithm: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "PREFERRED", algorithm)
    manifest = publish(TimelineWriter(timeline), *pieces, compress=compress)
    found = timeline.latest()
    assert found == manifest
    assert found.hash == algorithm
    assert read(timeline, found) == b"".join(pieces)
    with SnapshotReader(timeline, found) as reader, reader.open(found.skeleton) as file:
        assert file.read() == b"".join(pieces)


def test_chunk_is_stored_once_a_timeline(timeline: Timeline) -> None:
    content = os.urandom(5 * CHUNK_BYTES + 100)
    first = TimelineWriter(timeline)
    publish(first, content)
    size = _pack_bytes(timeline)
    publish(first, b"in front", content)
    first.close()
    publish(TimelineWriter(timeline), content)
    assert _pack_bytes(timeline) - size <= 2 * 4096


def test_chunks_are_aligned_so_that_packs_can_be_mapped(timeline: Timeline) -> None:
    manifest = publish(TimelineWriter(timeline), b"a", b"b" * (2 * CHUNK_BYTES), b"c")
    assert all(extent.offset % 4096 == 0 for extent in manifest.skeleton.extents)


def test_contiguous_chunks_are_one_extent(timeline: Timeline) -> None:
    manifest = publish(TimelineWriter(timeline), os.urandom(9 * CHUNK_BYTES + 5))
    assert len(manifest.skeleton.extents) == 1


def test_full_pack_is_followed_by_another(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PACK_BYTES", 3 * CHUNK_BYTES)
    content = os.urandom(10 * CHUNK_BYTES)
    target = TimelineWriter(timeline)
    manifest = publish(target, content)
    assert len({extent.pack for extent in manifest.skeleton.extents}) == 4
    assert read(timeline, manifest) == content
    target.close()
    assert read(timeline, publish(TimelineWriter(timeline), content, b"more")) == content + b"more"


def test_unpublished_chunks_are_forgotten_on_roll_back(timeline: Timeline) -> None:
    target = TimelineWriter(timeline)
    publish(target, b"first")
    size = _pack_bytes(timeline)
    target.add_stream([os.urandom(CHUNK_BYTES)])
    target.roll_back()
    assert _pack_bytes(timeline) == align(size)
    assert read(timeline, publish(target, b"second")) == b"second"


def test_roll_back_gives_back_every_pack_that_was_begun(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full stays full otherwise, however often the same state is tried."""
    monkeypatch.setattr(writer, "PACK_BYTES", 3 * CHUNK_BYTES)
    target = TimelineWriter(timeline)
    publish(target, os.urandom(CHUNK_BYTES))
    before = {path.name: align(path.stat().st_size) for path in timeline.packs.iterdir()}
    for _ in range(3):
        target.add_stream([os.urandom(10 * CHUNK_BYTES)])
        assert len(list(timeline.packs.iterdir())) == 4
        target.roll_back()
        assert {path.name: align(path.stat().st_size) for path in timeline.packs.iterdir()} == before
    content = os.urandom(5 * CHUNK_BYTES)
    assert read(timeline, publish(target, content)) == content


def test_pack_that_cannot_be_begun_leaves_nothing(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = TimelineWriter(timeline)
    with monkeypatch.context() as patched:
        patched.setattr("respawner.store.pack._write_all", full)
        with pytest.raises(OSError, match="No space"):
            target.add_stream([b"x"])
        target.roll_back()
    assert list(timeline.packs.iterdir()) == []
    assert read(timeline, publish(target, b"x")) == b"x"


def test_pack_of_a_session_that_was_given_up_and_still_writes_is_left_alone(timeline: Timeline) -> None:
    target = TimelineWriter(timeline)
    taken = pack_path(timeline.packs, 1)
    taken.write_bytes(b"another session's")
    manifest = publish(target, b"ours")
    assert {extent.pack for extent in manifest.skeleton.extents} == {2}
    assert taken.read_bytes() == b"another session's"
    assert read(timeline, manifest) == b"ours"


def test_pack_deleted_between_two_snapshots_is_not_taken_for_zeros(timeline: Timeline) -> None:
    target = TimelineWriter(timeline)
    publish(target, b"first")
    target.close()
    pack_path(timeline.packs, 1).unlink()
    with pytest.raises(StoreError, match="deleted under the kernel"):
        publish(target, b"first", b"second")
    target.roll_back()
    assert read(timeline, publish(target, b"first", b"second")) == b"firstsecond"


def test_left_overs_of_a_crash_are_left_alone_and_given_back_by_compaction(timeline: Timeline) -> None:
    """A writer that died between its chunks and its manifest. Nobody can tell them from bytes that a manifest
    named which is gone, and which a kernel has mapped."""
    publish(TimelineWriter(timeline), b"first")
    died = TimelineWriter(timeline)
    died.add_stream([os.urandom(64 * CHUNK_BYTES)])  # more than the buffer holds
    died.close()  # waits for what a thread was writing
    [left] = timeline.packs.iterdir()
    size = left.stat().st_size
    target = TimelineWriter(timeline)
    manifest = publish(target, b"second")
    assert left.stat().st_size == size > 32 * CHUNK_BYTES
    assert {extent.pack for extent in manifest.skeleton.extents} == {2}
    assert read(timeline, manifest) == b"second"
    assert [m.id for m in timeline.snapshots() if isinstance(m, Manifest)] == ["id-2", "id-1"]
    compact(timeline, keep=2, least_bytes=0)
    assert not left.exists()
    assert [read(timeline, m) for m in timeline.snapshots() if isinstance(m, Manifest)] == [
        b"second",
        b"first",
    ]


def test_writer_without_left_overs_goes_on_in_the_last_pack(timeline: Timeline) -> None:
    for content in (b"first", os.urandom(3 * CHUNK_BYTES + 5), b"third"):
        target = TimelineWriter(timeline)
        publish(target, content)
        target.close()
    assert len(list(timeline.packs.iterdir())) == 1


# Damage ---------------------------------------------------------------------------------------------------


MANIFEST_DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "zeros": lambda path: path.write_bytes(bytes(500)),
    "not_json": lambda path: path.write_bytes(b"\xff\xfe"),
    "another_json": lambda path: path.write_text("[1]"),
    "one_bit": lambda path: path.write_bytes(path.read_bytes().replace(b'"state":"ok"', b'"state":"oK"')),
    "no_checksum": lambda path: path.write_text(
        json.dumps({**json.loads(path.read_bytes()), "checksum": None})
    ),
    "a_folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", MANIFEST_DAMAGE.values(), ids=MANIFEST_DAMAGE)
def test_damaged_manifest_is_reported_and_the_one_before_is_the_latest(
    timeline: Timeline, damage: Callable[[Path], object]
) -> None:
    target = TimelineWriter(timeline)
    publish(target, b"good")
    publish(target, b"bad")
    damage(timeline.manifest_path(2))
    newest, before = timeline.snapshots()
    assert isinstance(newest, Damage)
    assert str(timeline.manifest_path(2)) in newest.reason
    assert timeline.latest() == before


def test_malformed_stream_is_damage_not_a_crash() -> None:
    good = Stream.from_json(
        {"bytes": 3, "digests": "AAAAAAAAAAAAAAAAAAAAAA==", "extents": [[1, 4096, 3, 3, "raw"]]}
    )
    assert good.length == 3
    for broken in (
        {"bytes": 4, "digests": "AAAAAAAAAAAAAAAAAAAAAA==", "extents": [[1, 4096, 3, 3, "raw"]]},
        {"bytes": 3, "digests": "", "extents": [[1, 4096, 3, 3, "raw"]]},
        {"bytes": 3, "digests": "!", "extents": [[1, 4096, 3, 3, "raw"]]},
        {"bytes": 3, "digests": "AAAAAAAAAAAAAAAAAAAAAA==", "extents": [[1, 4096, 3]]},
    ):
        with pytest.raises(ValueError, match=r"."):
            Stream.from_json(broken)


PACK_DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, 4096 + 100),
    "one_bit": lambda path: flip_a_byte(path, 4096 + 7),
    "foreign_header": lambda path: flip_a_byte(path, 0),
    "number_of_another": lambda path: flip_a_byte(path, 12),
}


@pytest.mark.parametrize("damage", PACK_DAMAGE.values(), ids=PACK_DAMAGE)
@pytest.mark.parametrize("compress", [False, True])
def test_damaged_pack_is_reported_not_loaded(
    timeline: Timeline, damage: Callable[[Path], object], compress: bool
) -> None:
    manifest = publish(TimelineWriter(timeline), b"content " * 1000, compress=compress)
    damage(timeline.packs / "00000001.pack")
    if compress and damage is PACK_DAMAGE["truncated"]:
        os.truncate(timeline.packs / "00000001.pack", 4096 + 10)
    with pytest.raises(DamagedError, match=r"00000001\.pack"):
        read(timeline, manifest)


def test_chunk_of_a_truncated_pack_is_written_anew(timeline: Timeline) -> None:
    content = os.urandom(2 * CHUNK_BYTES)
    publish(TimelineWriter(timeline), content)
    os.truncate(timeline.packs / "00000001.pack", 4096 + CHUNK_BYTES)
    assert read(timeline, publish(TimelineWriter(timeline), content)) == content


def test_distrusted_chunks_are_written_anew(timeline: Timeline) -> None:
    content = os.urandom(2 * CHUNK_BYTES)
    publish(TimelineWriter(timeline), content)
    flip_a_byte(timeline.packs / "00000001.pack", 5000)
    target = TimelineWriter(timeline)
    target.distrust()
    assert read(timeline, publish(target, content)) == content


def test_without_the_hash_lengths_are_still_checked(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(TimelineWriter(timeline), b"content")
    monkeypatch.delitem(digest.ALGORITHMS, manifest.hash)
    with SnapshotReader(timeline, manifest) as reader:
        assert not reader.verified
        assert bytes(reader.read(manifest.skeleton)) == b"content"
        os.truncate(timeline.packs / "00000001.pack", 4096 + 3)
        with pytest.raises(DamagedError):
            reader.read(manifest.skeleton)


# Newer formats ----------------------------------------------------------------------------------------------


def _raise_version(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": 99}))


def test_newer_store_is_refused(timeline: Timeline, tmp_path: Path) -> None:
    _raise_version(tmp_path / "format.json")
    with pytest.raises(NewerFormatError, match="version 99"):
        open_store(tmp_path, create=True)


def test_newer_timeline_and_manifest_are_refused(timeline: Timeline, tmp_path: Path) -> None:
    publish(TimelineWriter(timeline), b"x")
    _raise_version(timeline.manifest_path(1))
    with pytest.raises(NewerFormatError, match=r"0000000001\.json has format version 99"):
        timeline.latest()
    with pytest.raises(NewerFormatError):
        TimelineWriter(timeline)
    _raise_version(timeline.folder / "timeline.json")
    with pytest.raises(NewerFormatError):
        Timeline.find(tmp_path, timeline.slug)


def test_unknown_keys_of_a_manifest_are_ignored(timeline: Timeline) -> None:
    manifest = publish(TimelineWriter(timeline), b"x", names=[Name("a", "int", 28)])
    data = json.loads(manifest.to_bytes())
    data["mood"], data["names"][0]["colour"] = "good", "blue"
    del data["checksum"]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    data["checksum"] = hashlib.blake2b(canonical, digest_size=16).hexdigest()
    assert Manifest.from_bytes(json.dumps(data, indent=2).encode(), "here") == manifest


def test_unknown_encoding_is_named(timeline: Timeline) -> None:
    manifest = publish(TimelineWriter(timeline), b"content")
    [extent] = manifest.skeleton.extents
    strange = replace(
        manifest, skeleton=replace(manifest.skeleton, extents=(replace(extent, encoding="lz77"),))
    )
    with pytest.raises(StoreError, match="'lz77'"):
        read(timeline, strange)


@pytest.mark.parametrize("place", ["format.json", "timeline.json", "manifest"])
def test_kernel_leaves_a_newer_store_untouched_and_says_so(notebook: Notebook, place: str) -> None:
    notebook.run("x = 1")
    notebook.kill()
    path = {
        "format.json": notebook.store / "format.json",
        "timeline.json": notebook.timeline.folder / "timeline.json",
        "manifest": notebook.timeline.manifest_path(1),
    }[place]
    _raise_version(path)
    before = _contents(notebook.store)
    notebook.start()
    ran = notebook.run("y = 2; import respawner")
    assert ran.error is None
    assert "Respawner is off" in ran.text
    assert "NewerFormatError" in ran.text
    assert "version 99" in notebook.run("print(respawner.status()['why'])").text
    assert _contents(notebook.store) == before


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# A kernel and damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["manifest", "payload"])
def test_kernel_falls_back_to_the_snapshot_before_and_says_which_and_why(
    notebook: Notebook, what: str
) -> None:
    notebook.run("import numpy as np; x = 'first'")
    notebook.run("x = 'second'; array = np.arange(500_000)")
    notebook.kill()
    newest = notebook.manifests()[0]
    if what == "manifest":
        flip_a_byte(notebook.timeline.manifest_path(2), 100)
    else:
        [extent] = newest.payloads[-1].stream.extents
        flip_a_byte(notebook.timeline.packs / f"{extent.pack:08d}.pack", extent.offset + 1000)
    notebook.start()
    ran = notebook.run("print(x)")
    assert ran.text.endswith("first\n")
    assert "damaged, passed over: snapshot 2" in ran.text
    # What was damaged must not be referred to by new snapshots.
    notebook.run("array = np.arange(500_000)")
    notebook.restart_after_kill()
    ran = notebook.run("print(array.sum())")
    assert ran.text.endswith("124999750000\n")
    assert "damaged" not in ran.text


def test_kernel_starts_empty_when_everything_is_damaged(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.kill()
    flip_a_byte(notebook.timeline.packs / "00000001.pack", 4096)
    notebook.start()
    ran = notebook.run("print('x' in globals())")
    assert "no snapshot that is whole" in ran.text
    assert ran.text.endswith("False\n")
    notebook.run("y = 1")
    notebook.restart_after_kill()
    assert notebook.run("print(y)").text.endswith("1\n")


# A full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_keeps_the_last_snapshot_and_tells_the_user_once(
    open_notebook: Callable[..., Notebook], small_disk: Path
) -> None:
    notebook = open_notebook(RESPAWNER_STORE=str(small_disk / "store"))
    notebook.store = small_disk / "store"
    notebook.start()
    notebook.run("import numpy as np, respawner; small = 'safe'")
    assert notebook.settle()["durable"]
    notebook.run("large = np.random.default_rng(0).bytes(40_000_000)")
    assert not notebook.settle()["durable"]
    told = notebook.run("print(respawner.status()['error'])")
    assert "Respawner: the state could not be saved (the disk is full" in told.text
    assert "the last good snapshot is" in told.text
    assert "the disk is full" in told.text.splitlines()[-1]
    assert "Respawner" not in notebook.run("print('quiet')").text
    assert notebook.settle()["durable"] is False
    usage = os.statvfs(small_disk)
    assert usage.f_bavail * usage.f_frsize > 20_000_000, "what the failed attempts wrote is given back"
    # The old snapshot is good, and saving goes on by itself once there is room.
    assert [m.state for m in notebook.manifests()] == ["ok"]
    notebook.run("del large")
    assert notebook.settle()["durable"]
    assert "saving works again" in notebook.run("pass").text
    notebook.restart_after_kill()
    assert notebook.run("print(small)").text.endswith("safe\n")


def fill(folder: Path) -> None:
    """Leave no byte."""
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_state_is_restored_from_a_disk_that_is_full(
    open_notebook: Callable[..., Notebook], small_disk: Path
) -> None:
    notebook = open_notebook(RESPAWNER_STORE=str(small_disk / "store"))
    notebook.store = small_disk / "store"
    notebook.start().run("x = 'kept'")
    notebook.kill()
    fill(small_disk)
    notebook.start()
    assert notebook.run("print(x)").text.endswith("kept\n")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EROFS])
def test_failing_manifest_leaves_the_timeline_as_it_was(
    timeline: Timeline, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TimelineWriter(timeline)
    publish(target, b"first")

    def failing(path: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr("respawner.store.timeline.write_atomically", failing)
        with pytest.raises(OSError, match=os.strerror(number)):
            publish(target, os.urandom(CHUNK_BYTES))
        target.roll_back()
    assert [m.id for m in timeline.snapshots() if isinstance(m, Manifest)] == ["id-1"]
    assert read(timeline, publish(target, b"second")) == b"second"


# Retention, names, locks -------------------------------------------------------------------------------------------


def test_latest_labelled_and_pinned_snapshots_stay(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PACK_BYTES", CHUNK_BYTES)
    target = TimelineWriter(timeline)
    contents = [os.urandom(2 * CHUNK_BYTES) for _ in range(10)]
    published = [
        publish(target, content, labels=["best"] if n == 2 else []) for n, content in enumerate(contents)
    ]
    timeline.pin(published[4].id, "kept")
    prune(timeline, keep_latest=3)
    target.drop_unnamed_packs()
    left = [m for m in timeline.snapshots() if isinstance(m, Manifest)]
    assert [m.sequence for m in left] == [10, 9, 8, 5, 3]
    assert [read(timeline, m) for m in left] == [contents[n - 1] for n in (10, 9, 8, 5, 3)]
    assert _pack_bytes(timeline) < 7 * 2 * CHUNK_BYTES
    deleted_content = publish(target, contents[0])
    assert read(timeline, deleted_content) == contents[0], "chunks of deleted packs are written again"


def test_different_notebooks_have_different_folders() -> None:
    names = ["/a/x.ipynb", "/b/x.ipynb", "/a/X.ipynb", "x", "", "..", "/a/ü ß/ñ.ipynb", "a" * 300]
    slugs = [slug_of(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all("/" not in slug and not slug.startswith(".") and len(slug.encode()) < 100 for slug in slugs)


def test_lock_is_held_by_one(timeline: Timeline) -> None:
    lock = TimelineLock.acquire(timeline.lock_path)
    assert lock is not None
    assert TimelineLock.acquire(timeline.lock_path) is None
    lock.release()
    lock.release()
    again = TimelineLock.acquire(timeline.lock_path)
    assert again is not None
    again.release()


def _pack_bytes(timeline: Timeline) -> int:
    return sum(path.stat().st_size for path in timeline.packs.iterdir())


def test_kernel_reports_damage_when_no_manifest_can_be_read(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.kill()
    notebook.timeline.manifest_path(1).write_bytes(b"")
    notebook.start()
    ran = notebook.run("y = 2")
    assert "damaged, passed over: snapshot 1" in ran.text
    assert notebook.restart_after_kill().run("print(y)").text.endswith("2\n")


# Zeros and compression -------------------------------------------------------------------------------------------


def planned(*chunks: bytes) -> list[tuple[bytes, int, Callable[[int], None]]]:
    """Chunks as a job hands them to the writer."""

    def copier(chunk: bytes) -> Callable[[int], None]:
        return lambda address: ctypes.memmove(address, chunk, len(chunk)) and None

    hash_of = digest.ALGORITHMS[digest.PREFERRED]
    return [(hash_of(chunk), len(chunk), copier(chunk)) for chunk in chunks]


def test_zeros_are_not_stored(timeline: Timeline) -> None:
    target = TimelineWriter(timeline)
    content = b"a" + bytes(40 * CHUNK_BYTES)
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    stream = target.add_planned(len(content), planned(*chunks), restless=False)
    manifest = manifest_of(target, stream)
    target.publish(manifest)
    assert manifest.version == 2
    assert [(e.encoding, e.stored) for e in stream.extents if e.encoding == "zero"] == [("zero", 0)]
    assert _pack_bytes(timeline) < 2 * CHUNK_BYTES
    assert timeline.latest() == manifest
    assert read(timeline, manifest) == content
    assert target.knows(target._digest(bytes(CHUNK_BYTES)), CHUNK_BYTES)
    target.close()
    assert read(timeline, publish(TimelineWriter(timeline), content)) == content


def test_a_state_of_nothing_but_zeros_needs_no_pack(timeline: Timeline) -> None:
    content = bytes(3 * CHUNK_BYTES)
    assert read(timeline, publish(TimelineWriter(timeline), content)) == content
    assert not list(timeline.packs.iterdir())


@pytest.mark.parametrize(
    ("what", "chunk", "length", "encoding"),
    [
        ("text, small", b"the quick brown fox " * 13107, 1 << 18, "zlib"),
        ("weights", os.urandom(CHUNK_BYTES), 1 << 18, "raw"),
        ("text, large: mapped", b"".join(b"%d," % (n * n) for n in range(30000))[:CHUNK_BYTES], 1 << 24, "raw"),
        ("labels, large: mapped", bytes([1, 0, 0, 0, 0, 0, 0, 0]) * (CHUNK_BYTES // 8), 1 << 24, "raw"),
        ("compressible only in front", bytes(4096) + os.urandom(CHUNK_BYTES - 4096), 1 << 18, "raw"),
    ],
)  # fmt: skip
def test_payloads_are_compressed_where_it_pays(
    timeline: Timeline, what: str, chunk: bytes, length: int, encoding: str
) -> None:
    target = TimelineWriter(timeline)
    count = length // CHUNK_BYTES
    chunks = [bytes([n]) + chunk[1:CHUNK_BYTES] for n in range(count)]
    stream = target.add_planned(sum(map(len, chunks)), planned(*chunks), restless=False)
    manifest = manifest_of(target, stream)
    target.publish(manifest)
    assert {extent.encoding for extent in stream.extents} == {encoding}
    assert manifest.version == 1, "version 1 reads zlib everywhere"
    assert read(timeline, manifest) == b"".join(chunks)
    if encoding == "raw":
        assert len(stream.extents) == 1, "what is mapped lies in one piece"


def test_zstandard_is_read(timeline: Timeline) -> None:
    zstandard = pytest.importorskip("zstandard")
    stored = zstandard.compress(b"x" * 1000)
    assert codec.decode("zstd", stored, 1000, "here") == b"x" * 1000
    for length in (999, 1001):
        with pytest.raises(DamagedError, match="here"):
            codec.decode("zstd", stored, length, "here")


def test_a_chunk_that_inflates_beyond_its_length_is_damage_not_memory(timeline: Timeline) -> None:
    bomb = zlib.compress(bytes(100_000_000))
    with pytest.raises(DamagedError, match="here"):
        codec.decode("zlib", bomb, 1000, "here")


@pytest.mark.parametrize(
    "row",
    [
        [1, 4096, 1 << 61, 1 << 61, "raw"],
        [1, 4096, CHUNK_BYTES + 1, 100, "zlib"],
        [0, 4096, 100, 100, "raw"],
        [1, 0, 100, 0, "zero"],
        [1, 4096, 0, 0, "raw"],
        [-1, 4096, 3, 3, "raw"],
        [1, 4096.0, 3, 3, "raw"],
        [True, 4096, 3, 3, "raw"],
        [1, 4096, 3, 3, None],
    ],
)
def test_impossible_extent_is_refused(row: list[object]) -> None:
    with pytest.raises(ValueError, match=r"extent|digests"):
        Stream.from_json({"bytes": row[2], "digests": "AAAAAAAAAAAAAAAAAAAAAA==", "extents": [row]})
