"""Restoring by mapping: what is on the disk is what is seen, whoever writes and whatever becomes of the packs."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from respawner import restoring
from respawner.errors import DamagedError
from respawner.manifest import CHUNK_BYTES, Manifest, Payload, Stream
from respawner.store import mapping, reader, unwritten
from respawner.store.digest import ALGORITHMS, PREFERRED
from respawner.store.layout import open_store
from respawner.store.reader import SnapshotReader
from respawner.store.timeline import Timeline
from respawner.store.unwritten import is_truthful, known_digests
from respawner.store.writer import TimelineWriter
from respawner.verification import Mapped, Verification

from tests.snapshot.fidelity import bare_shell
from tests.snapshot.notebook import PYTHON, Notebook, flip_a_byte
from tests.snapshot.test_store import manifest_of

CHUNKS = 9
BYTES = (CHUNKS - 1) * CHUNK_BYTES + 12_345
DIGEST = ALGORITHMS[PREFERRED]


@pytest.fixture
def timeline(tmp_path: Path) -> Timeline:
    return Timeline.create(open_store(tmp_path / "store", create=True), "/home/ada/big.ipynb")


def publish(timeline: Timeline, *contents: bytes) -> Manifest:
    """A snapshot with one payload for each of ``contents``."""
    writer = TimelineWriter(timeline)
    payloads = [Payload(n, "numpy", "uint8", writer.add_stream([c])) for n, c in enumerate(contents, 1)]
    manifest = manifest_of(writer, writer.add_stream([b"skeleton"]), payloads=payloads)
    writer.publish(manifest)
    writer.close()
    return manifest


def map_it(timeline: Timeline, manifest: Manifest, number: int = 0) -> Any:
    with SnapshotReader(timeline, manifest) as opened:
        return opened.map(manifest.payloads[number].stream)


def known(memory: Any) -> list[bool]:
    found = known_digests(memory.address, len(memory), PREFERRED)
    return [digest is not None for digest in found]


# Mapping -----------------------------------------------------------------------------------------------


def test_mapped_memory_is_the_stream_and_writing_to_it_changes_no_pack(timeline: Timeline) -> None:
    content = os.urandom(BYTES)
    manifest = publish(timeline, content)
    memory = map_it(timeline, manifest)
    assert bytes(memory) == content
    memory[:] = bytes(BYTES)
    with SnapshotReader(timeline, manifest) as opened:
        assert bytes(opened.read(manifest.payloads[0].stream)) == content


def test_stream_of_many_extents_in_several_packs_is_one_memory(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("respawner.store.writer.PACK_BYTES", 5 * CHUNK_BYTES)
    content = bytearray(os.urandom(BYTES))
    publish(timeline, bytes(content))
    for chunk in (1, 4, 8):
        content[chunk * CHUNK_BYTES + 5] ^= 1
        manifest = publish(timeline, bytes(content))
    assert len({extent.pack for extent in manifest.payloads[0].stream.extents}) > 1
    memory = map_it(timeline, manifest)
    assert memory.pieces > 3
    assert bytes(memory) == bytes(content)
    assert known(memory) == [True] * CHUNKS


def test_pack_may_be_deleted_while_it_is_mapped(timeline: Timeline) -> None:
    content = os.urandom(BYTES)
    memory = map_it(timeline, publish(timeline, content))
    for path in timeline.packs.iterdir():
        path.unlink()
    assert bytes(memory) == content


MAPPER = """
import sys
from pathlib import Path
from respawner.store.reader import SnapshotReader
from respawner.store.timeline import Timeline
timeline = Timeline(Path(sys.argv[1]))
manifest = timeline.latest()
with SnapshotReader(timeline, manifest) as reader:
    memory = reader.map(manifest.payloads[0].stream)
print("mapped", flush=True)
sys.stdin.readline()
print(sum(memory[::4096]), flush=True)
"""


@pytest.mark.parametrize("before", [0, 1], ids=["the only one", "one of two"])
def test_bytes_whose_manifest_is_gone_stay_for_whoever_has_mapped_them(
    timeline: Timeline, before: int
) -> None:
    """Cut off, they would end that process with SIGBUS at the first touch."""
    for number in range(before):
        publish(timeline, os.urandom(BYTES) + bytes([number]))
    content = os.urandom(BYTES)
    manifest = publish(timeline, content)
    command = [PYTHON, "-c", MAPPER, str(timeline.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mapper:
        assert mapper.stdin is not None
        assert mapper.stdout is not None
        assert mapper.stdout.readline() == "mapped\n"
        timeline.manifest_path(manifest.sequence).unlink()
        writer = TimelineWriter(timeline)
        writer.add_stream([os.urandom(CHUNK_BYTES)])
        writer.roll_back()
        writer.close()
        newer = publish(timeline, os.urandom(BYTES))
        mapper.stdin.write("touch\n")
        mapper.stdin.close()
        touched = mapper.stdout.readline()
    assert mapper.returncode == 0
    assert touched == f"{sum(content[::4096])}\n"
    with SnapshotReader(timeline, newer) as opened:
        opened.verify()


def test_memory_is_unmapped_with_its_last_owner(timeline: Timeline) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    gc.collect()  # what earlier tests have left
    pieces = mapping._pieces
    memory = map_it(timeline, manifest)
    address = memory.address
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    array = np.frombuffer(memory, np.uint8)
    del memory
    assert mapping._pieces == pieces + 1
    del tensor
    assert int(array[-1]) >= 0
    assert f"{address:x}-" in Path("/proc/self/maps").read_text()
    del array
    gc.collect()
    assert f"{address:x}-" not in Path("/proc/self/maps").read_text()
    assert mapping._pieces == pieces
    assert known_digests(address, BYTES, PREFERRED) == [None] * CHUNKS


@pytest.mark.parametrize("size", [100, CHUNK_BYTES + 1, 4096 + BYTES - 1])
def test_pack_that_is_too_short_is_damage_and_not_mapped(timeline: Timeline, size: int) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    os.truncate(timeline.packs / "00000001.pack", size)
    with pytest.raises(DamagedError, match=r"too (short|early)"):
        map_it(timeline, manifest)


def test_missing_pack_is_damage(timeline: Timeline) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    (timeline.packs / "00000001.pack").unlink()
    with pytest.raises(DamagedError, match="missing"):
        map_it(timeline, manifest)


REASONS_TO_READ: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "network file system": lambda patch: patch.setattr(reader, "may_map", lambda folder: False),
    "too many pieces": lambda patch: patch.setattr(mapping, "MOST_PIECES", 0),
    "mmap fails": lambda patch: patch.setattr(
        mapping, "_libc", SimpleNamespace(mmap=lambda *_: -1, statfs=mapping._libc.statfs)
    ),
}


@pytest.mark.parametrize("reason", REASONS_TO_READ)
def test_what_cannot_be_mapped_is_left_to_reading(
    timeline: Timeline, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    REASONS_TO_READ[reason](monkeypatch)
    assert map_it(timeline, manifest) is None


def test_small_and_compressed_streams_are_not_mapped(timeline: Timeline) -> None:
    manifest = publish(timeline, os.urandom(CHUNK_BYTES))
    assert map_it(timeline, manifest) is None
    writer = TimelineWriter(timeline)
    stream = writer.add_stream([b"ab" * BYTES], compress=True)
    assert not mapping.is_worth_mapping(stream)


def test_compressed_chunks_in_a_mapped_stream_are_read_and_checked(timeline: Timeline) -> None:
    writer = TimelineWriter(timeline)
    random, text = os.urandom(4 * CHUNK_BYTES), b"ab" * (CHUNK_BYTES // 2)
    parts = [writer.add_stream([random]), writer.add_stream([text], compress=True)]
    stream = Stream(
        sum(part.length for part in parts),
        b"".join(part.digests for part in parts),
        tuple(extent for part in parts for extent in part.extents),
    )
    manifest = manifest_of(writer, stream, payloads=[Payload(1, "numpy", "uint8", stream)])
    writer.publish(manifest)
    memory = map_it(timeline, manifest)
    assert bytes(memory) == random + text
    assert known(memory) == [True] * 4 + [False]
    del memory
    flip_a_byte(timeline.packs / "00000001.pack", parts[1].extents[0].offset + 20)
    with pytest.raises(DamagedError):
        map_it(timeline, manifest)


# What has not been written to ----------------------------------------------------------------------------

WRITES: dict[str, Callable[[Any], object]] = {
    "numpy": lambda m: np.frombuffer(m, np.uint8).__setitem__(5, 7),
    "numpy copyto": lambda m: np.copyto(np.frombuffer(m, np.uint8)[3:4], 2),
    "torch": lambda m: torch.frombuffer(m, dtype=torch.uint8).add_(1),
    "torch out": lambda m: torch.add(
        torch.ones(4, dtype=torch.uint8), 1, out=torch.frombuffer(m, dtype=torch.uint8)[:4]
    ),
    "torch .data": lambda m: torch.frombuffer(m, dtype=torch.uint8).data.zero_(),
    "ctypes": lambda m: ctypes.memset(m.address + 9, 1, 1),
    "same value": lambda m: m.__setitem__(0, m[0]),
    "readinto": lambda m: open("/dev/zero", "rb", buffering=0).readinto(memoryview(m)[:10]),  # noqa: SIM115
    "process memory": lambda m: os.pwrite(os.open("/proc/self/mem", os.O_WRONLY), b"x", m.address + 1),
    "thread": lambda m: _in_a_thread(lambda: m.__setitem__(0, 1)),
    "after fork": lambda m: _after_fork(lambda: m.__setitem__(0, 1)),
}


def _in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _after_fork(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        os._exit(0)
    work()
    os.waitpid(child, 0)


@pytest.mark.parametrize("way", WRITES)
def test_every_write_is_seen(timeline: Timeline, way: str) -> None:
    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    assert known(memory) == [True] * CHUNKS
    WRITES[way](memory)
    assert not known(memory)[0]


@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("chunk", [0, 3, CHUNKS - 1])
@pytest.mark.parametrize("page", ["first", "last"])
def test_one_byte_costs_its_chunk_and_no_other(
    timeline: Timeline, chunk: int, page: str, read_first: bool
) -> None:
    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    if read_first:
        assert len(bytes(memory)) == BYTES
    end = min((chunk + 1) * CHUNK_BYTES, BYTES)
    memory[chunk * CHUNK_BYTES if page == "first" else end - 1] = 1
    assert known(memory) == [index != chunk for index in range(CHUNKS)]


def test_write_across_a_chunk_boundary_costs_both(timeline: Timeline) -> None:
    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    ctypes.memset(memory.address + 2 * CHUNK_BYTES - 1, 0, 2)
    assert [index for index, there in enumerate(known(memory)) if not there] == [1, 2]


def test_childs_writes_are_not_ours(timeline: Timeline) -> None:
    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    child = os.fork()
    if child == 0:
        memory[0] = 1
        os._exit(int(known(memory)[0]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert known(memory) == [True] * CHUNKS


def test_known_digests_are_those_of_the_bytes(timeline: Timeline) -> None:
    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    rng = np.random.default_rng(7)
    view = memoryview(memory)
    for _ in range(30):
        start = int(rng.integers(BYTES))
        length = int(rng.integers(1, 5000))
        memory[start : start + length] = rng.bytes(len(view[start : start + length]))
        found = known_digests(memory.address, BYTES, PREFERRED)
        for index, digest in enumerate(found):
            place = slice(index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, BYTES))
            assert digest in (None, DIGEST(view[place]))


def test_part_of_a_mapping_is_known_only_on_its_grid(timeline: Timeline) -> None:
    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    view, address = memoryview(memory), memory.address
    found = known_digests(address + 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 10, PREFERRED)
    assert found[:2] == [DIGEST(view[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]) for n in (2, 3)]
    assert found[2] is None  # shorter than the chunk that was stored
    assert set(known_digests(address + 4096, CHUNK_BYTES, PREFERRED)) == {None}
    assert set(known_digests(address, BYTES + 1, PREFERRED)) == {None}
    assert set(known_digests(address, BYTES, "another")) == {None}
    assert set(known_digests(address - 8 * CHUNK_BYTES, CHUNK_BYTES, PREFERRED)) == {None}


LIES: dict[str, bytes] = {
    "all pages are files": bytes(256),
    "no page is a file": bytes(bool(top & 0xC0) for top in range(256)),
}


@pytest.mark.parametrize("lie", LIES)
def test_kernel_that_does_not_tell_the_truth_is_found_out(
    timeline: Timeline, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    with open(timeline.packs / "00000001.pack", "rb") as file:
        assert is_truthful(file.fileno())
        monkeypatch.setattr(unwritten, "_WRITTEN", LIES[lie])
        assert not is_truthful(file.fileno())
    assert known(map_it(timeline, manifest)) == [False] * CHUNKS


def test_without_pagemap_nothing_is_known(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: int, length: int) -> bytes:
        raise PermissionError("/proc/self/pagemap")

    memory = map_it(timeline, publish(timeline, os.urandom(BYTES)))
    monkeypatch.setattr(unwritten, "_written_pages", fail)
    assert known(memory) == [False] * CHUNKS
    assert known(map_it(timeline, publish(timeline, os.urandom(BYTES)))) == [False] * CHUNKS


def test_dropped_pages_are_the_files_again(timeline: Timeline) -> None:
    content = os.urandom(BYTES)
    memory = map_it(timeline, publish(timeline, content))
    memory[:] = bytes(BYTES)
    assert known(memory) == [False] * CHUNKS
    memory.madvise(mmap.MADV_DONTNEED)
    assert known(memory) == [True] * CHUNKS
    assert bytes(memory) == content


# Verification -------------------------------------------------------------------------------------------


def verify(timeline: Timeline, manifest: Manifest) -> tuple[Verification, list[Any]]:
    opened = SnapshotReader(timeline, manifest)
    memories = [opened.map(payload.stream) for payload in manifest.payloads]
    mapped = [
        Mapped(payload, weakref.ref(memory), [f"v{payload.id}"])
        for payload, memory in zip(manifest.payloads, memories, strict=True)
    ]
    verification = Verification(opened, mapped)
    verification.start()
    assert verification.wait(60)
    return verification, memories


def test_verification_of_what_is_whole(timeline: Timeline) -> None:
    verification, _ = verify(timeline, publish(timeline, os.urandom(BYTES), os.urandom(2 * BYTES)))
    assert verification.is_good()
    assert verification.progress() == (3 * BYTES, 3 * BYTES)


@pytest.mark.parametrize("place", [0, BYTES // 2, BYTES - 1])
def test_verification_names_the_damaged_payload(timeline: Timeline, place: int) -> None:
    manifest = publish(timeline, os.urandom(BYTES), os.urandom(BYTES), os.urandom(BYTES))
    [extent] = manifest.payloads[1].stream.extents
    flip_a_byte(timeline.packs / "00000001.pack", extent.offset + place)
    verification, memories = verify(timeline, manifest)
    assert not verification.is_good()
    [damage] = verification.damage
    assert damage.names == ("v2",)
    assert "digest" in damage.reason
    assert [any(known(memory)) for memory in memories] == [True, False, True]


def test_verification_survives_the_deletion_of_its_packs(timeline: Timeline) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    opened = SnapshotReader(timeline, manifest)
    memory = opened.map(manifest.payloads[0].stream)
    for path in timeline.packs.iterdir():
        path.unlink()
    verification = Verification(opened, [Mapped(manifest.payloads[0], weakref.ref(memory))])
    verification.start()
    assert verification.wait(60)
    assert verification.is_good()


def test_stopped_verification_is_not_good(timeline: Timeline) -> None:
    manifest = publish(timeline, os.urandom(BYTES))
    opened = SnapshotReader(timeline, manifest)
    memory = opened.map(manifest.payloads[0].stream)
    verification = Verification(opened, [Mapped(manifest.payloads[0], weakref.ref(memory))])
    verification.stop()
    verification.start()
    assert not verification.is_good()


# Whole states, in fresh processes -----------------------------------------------------------------------

BIG = """
import numpy as np, torch, torch.nn as nn
rng = np.random.default_rng(0)
array = rng.random((2000, 1000))
column = array[:, 3]
shared = np.arange(1_500_000.0); alias = torch.from_numpy(shared)
model = nn.Linear(1000, 1000); tied = model.weight
frame = np.asfortranarray(rng.random((1000, 900)))
readonly = rng.random(400_000); readonly.flags.writeable = False
tensor = torch.arange(9_000_000.0)
view = tensor[10:20]
small = np.arange(10)
"""

CHECKS = {
    "mapped": "from respawner.store.mapping import MappedMemory as M\n"
    "assert type(array.base) is M and type(small.base) is not M\n"
    "assert not tensor.untyped_storage().resizable()",
    "values": "rng = np.random.default_rng(0)\nassert (array == rng.random((2000, 1000))).all()\n"
    "assert (frame == rng.random((1000, 900))).all() and frame.flags.f_contiguous\n"
    "assert (tensor == torch.arange(9_000_000.0)).all()",
    "views": "array[7, 3] = -1\nassert column[7] == -1\ntensor[10] = -5\nassert view[0] == -5",
    "across libraries": "alias[3] = 77\nassert shared[3] == 77\nshared[4] = 78\nassert alias[4] == 78",
    "tied": "assert tied is model.weight\nmodel(torch.ones(1, 1000)).sum().backward()\n"
    "torch.optim.SGD(model.parameters(), 0.1).step()",
    "read-only": "assert not readonly.flags.writeable",
    "copies can be resized": "tensor = tensor.clone(); tensor.resize_(5)\narray = array.copy(); array.resize((5, 5), refcheck=False)",
}


def test_objects_on_mapped_memory_are_what_they_were(tmp_path: Path) -> None:
    assert bare_shell("save", tmp_path, {"big": BIG})["outcome"] == {"big": None}
    outcome = bare_shell("load", tmp_path, CHECKS)["outcome"]
    assert outcome == dict.fromkeys(CHECKS)


def test_what_was_mapped_is_the_same_state_when_it_is_saved_again(tmp_path: Path) -> None:
    bare_shell("save", tmp_path, {"big": BIG})
    store = tmp_path / "timelines"
    size = sum(path.stat().st_size for path in store.glob("*/packs/*"))
    again = (
        "from respawner.capture import Moment, capture\nfrom respawner.processstate import Baseline\n"
        "from IPython import get_ipython as g\nfrom IPython.core.interactiveshell import InteractiveShell as S\n"
        "shell = S.instance()\n"
        "from types import SimpleNamespace as N\n"
        "hashed = []; import respawner.capture as c; real = c.digests_of\n"
        "c.digests_of = lambda ranges, digest, **named: hashed.extend(ranges) or real(ranges, digest)\n"
        "stored = N(stream=lambda d, n: None, has=lambda d, n: True)\n"
        "job = capture(shell, Moment(2), Baseline(), ('shell', 'stored', 'job', 'real', 'c', 'hashed'), stored)\n"
        "from respawner.store.timeline import Timeline; from pathlib import Path\n"
        f"head = Timeline.all_in(Path({str(tmp_path)!r}))[0].latest()\n"
        "assert {p.stream.digests for p in job.payloads} == {p.stream.digests for p in head.payloads if p.id}\n"
        "assert sum(n for _, n in hashed) == 0, hashed"
    )
    assert bare_shell("load", tmp_path, {"again": again})["outcome"] == {"again": None}
    assert sum(path.stat().st_size for path in store.glob("*/packs/*")) == size


VERIFIED = "__import__('respawner').startup.active_engine()._verification.wait()"


def payload_with(notebook: Notebook, about: str) -> Payload:
    return next(p for p in notebook.manifests()[0].payloads if about in p.about)


def damage(notebook: Notebook, payload: Payload) -> None:
    extent = payload.stream.extents[-1]
    pack = notebook.timeline.packs / f"{extent.pack:08d}.pack"
    flip_a_byte(pack, extent.offset + extent.length - 3)


@pytest.fixture
def two_states(notebook: Notebook) -> Notebook:
    """The newer of two states is large, and in it `victim` will be damaged."""
    notebook.run("import torch, numpy as np; x = 'first'; kept = torch.arange(11_000_000.0)")
    notebook.run("x = 'second'; victim = torch.full((7_000_000,), 2.0); other = [victim, np.ones(3)]")
    notebook.kill()
    return notebook


def test_damage_found_in_the_background_costs_the_cells_since_and_names_the_variable(
    two_states: Notebook,
) -> None:
    notebook = two_states
    damaged = notebook.manifests()[0]
    damage(notebook, payload_with(notebook, "7000000"))
    notebook.start()
    assert "second" in notebook.run("print(x)").text
    assert notebook.value(VERIFIED) == "True"
    ran = notebook.run("print(x, 'victim' in globals(), float(kept[-1]))")
    assert ran.text.endswith("first False 10999999.0\n")
    assert f"snapshot {damaged.sequence}: victim (" in ran.text
    notebook.settle()
    assert notebook.manifests()[0].parent == notebook.manifests()[-1].id
    notebook.start()
    assert notebook.run("print(x)").text.endswith("first\n")


def test_nothing_is_published_that_goes_on_from_damage(two_states: Notebook) -> None:
    notebook = two_states
    before = [m.id for m in notebook.manifests()]
    damage(notebook, payload_with(notebook, "7000000"))
    notebook.start()
    notebook.run("y = 1")
    [kernel] = notebook.settle()["kernels"]
    assert kernel["state"] == "failed"
    assert "turned out to be damaged" in kernel["error"]
    assert [m.id for m in notebook.manifests()] == before
    notebook.run("z = 1")
    assert notebook.settle()["durable"]


def test_salvage_brings_all_but_the_damaged(two_states: Notebook) -> None:
    notebook = two_states
    damaged = notebook.manifests()[0]
    damage(notebook, payload_with(notebook, "7000000"))
    notebook.start()
    notebook.run("pass")
    assert notebook.value(VERIFIED) == "True"
    notebook.run("pass")
    ran = notebook.run(f"%restore --salvage {damaged.id}")
    assert ran.error is None
    assert "victim" in ran.text
    assert "damaged on disk" in ran.text
    shown = notebook.value("(x, type(victim).__name__, victim is other[0], float(kept[1]), other[1].sum())")
    assert shown == "('second', 'Placeholder', True, 1.0, np.float64(3.0))"


def test_truncated_pack_is_passed_over_at_once(two_states: Notebook) -> None:
    notebook = two_states
    extent = payload_with(notebook, "7000000").stream.extents[-1]
    os.truncate(notebook.timeline.packs / f"{extent.pack:08d}.pack", extent.offset + extent.length - 1)
    notebook.start()
    ran = notebook.run("print(x)")
    assert ran.text.endswith("first\n")
    assert "damaged, passed over" in ran.text


def test_restored_state_outlives_its_deleted_packs(two_states: Notebook) -> None:
    notebook = two_states
    notebook.start()
    notebook.run("x = 'third'")
    notebook.settle()
    for path in notebook.timeline.packs.iterdir():
        path.unlink()
    assert notebook.run("print(float(victim.sum()), float(kept[-1]))").text.endswith(
        "14000000.0 10999999.0\n"
    )


def test_kill_while_it_is_restored_and_verified_leaves_everything(two_states: Notebook) -> None:
    notebook = two_states
    for _ in range(2):
        notebook.start()
        notebook.client.execute("y = 1")
        time.sleep(0.3)
        notebook.kill_at_once()
    notebook.start()
    notebook.run("pass")
    head = notebook.manifests()[0]
    with SnapshotReader(notebook.timeline, head) as opened:
        opened.verify()


def test_eager_load_finds_damage_before_it_returns(timeline: Timeline, tmp_path: Path, shell: Any) -> None:
    bare_shell("save", tmp_path, {"big": BIG})
    [saved] = Timeline.all_in(tmp_path)
    manifest = saved.latest()
    assert manifest is not None
    payload = next(p for p in manifest.payloads if "[9000000]" in p.about)
    extent = payload.stream.extents[0]
    flip_a_byte(saved.packs / f"{extent.pack:08d}.pack", extent.offset + 9)
    with pytest.raises(DamagedError, match="digest"):
        restoring.load(shell, saved, manifest, eager=True)
    mapped = restoring.load(shell, saved, manifest, eager=False)
    assert mapped.verification.wait(60)
    assert [d.names for d in mapped.verification.damage] == [("tensor", "view")]
    salvaged = restoring.load(shell, saved, manifest, salvage=True)
    assert salvaged.verification.is_good()
    lost = {p.__dict__["respawner_path"] for p in salvaged.lost}
    assert lost <= {"tensor", "view"}
    assert salvaged.variables["array"].shape == (2000, 1000)
