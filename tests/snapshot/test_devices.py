"""Tensors on a device, saved and restored: on the stand-in accelerator, whose memory the host cannot read.

What it cannot show (copies that really overlap, pinned memory, CUDA's own errors) is in test_devices_cuda.py, which
needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from respawner.manifest import SAFEPOINT

from tests.snapshot.device_session import run_in_session
from tests.snapshot.notebook import Notebook, Ran
from tests.snapshot.test_safepoints import AT_EVERY, wait_for_safepoint
from tests.standins import accelerator

OpenNotebook = Callable[..., Notebook]

MODEL = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10)).to('standin:1')
optimizer = torch.optim.Adam(model.parameters())
def step():
    optimizer.zero_grad()
    loss = model(torch.ones(4, 300, device='standin:1')).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()
first = [step() for _ in range(3)]
big = torch.arange(2**20, device='standin:0', dtype=torch.float32)
view, alias = big[1000:2000].view(10, 100), big
tiny = torch.tensor([1.5, 2.5], device='standin:0', requires_grad=True)
"""
CONTENT = "(big.sum().item(), view[3, 4].item(), tiny.tolist(), [p.sum().item() for p in model.parameters()])"
PLACES = "(str(big.device), str(tiny.device), {str(p.device) for p in model.parameters()})"
SHARES = "view.data_ptr() == big.data_ptr() + 4000"


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    try:
        accelerator.library()
    except accelerator.CannotBuildError as why:
        pytest.skip(str(why))


@pytest.fixture
def open_device_notebook(open_notebook: OpenNotebook) -> OpenNotebook:
    """A notebook whose kernels have the stand-in from their start, as they would have CUDA."""

    def make(**environment: str) -> Notebook:
        notebook = open_notebook(**environment)
        (notebook.startup_folder / "10-standin.py").write_text(accelerator.startup())
        return notebook

    return make


def run(notebook: Notebook, code: str) -> Ran:
    ran = notebook.run(code)
    assert ran.error is None, ran.error
    return ran


def restart_with(notebook: Notebook, devices: int) -> Ran:
    notebook.kill()
    notebook.environment["STANDIN_DEVICES"] = str(devices)
    return run(notebook.start(), "pass")


# Round trips -----------------------------------------------------------------------------------------------

SAVE = f"""
exec({MODEL!r}, ns)
before = eval({CONTENT!r}, ns)
manifest = session.save()
"""
LOAD = f"""
loaded = session.load()
restored = dict(loaded.variables)
assert not loaded.lost
def value(expression): return eval(expression, restored)
places = value({PLACES!r})
"""


def test_tensors_come_back_to_the_devices_that_they_were_on(tmp_path: Path) -> None:
    run_in_session(tmp_path, SAVE + "assert manifest.devices == {'standin:0': None, 'standin:1': None}")
    code = f"""
assert loaded.notes == [], loaded.notes
assert places == ('standin:0', 'standin:0', {{'standin:1'}}), places
assert value({SHARES!r}) and value('alias is big')
assert value('tiny.is_leaf and tiny.requires_grad')
weight = value('model[0].weight')
assert str(value('optimizer').state[weight]['exp_avg'].device) == 'standin:1'
assert str(weight.grad.device) == 'standin:1'
assert value('optimizer').param_groups[0]['params'][0] is weight
# The next steps have the same bits as those of the process that was never saved.
ns.update(restored)
losses = [ns['step']() for _ in range(3)]
exec({MODEL!r}, ns)
assert losses == [ns['step']() for _ in range(3)]
assert all(torch.equal(a, b) for a, b in zip(restored['model'].parameters(), ns['model'].parameters()))
"""
    run_in_session(tmp_path, LOAD + code)


def test_on_one_device_what_was_on_two(tmp_path: Path) -> None:
    run_in_session(tmp_path, SAVE)
    code = f"""
assert loaded.notes == ['what was on standin:1 is on standin:0'], loaded.notes
assert places == ('standin:0', 'standin:0', {{'standin:0'}}), places
assert value({SHARES!r})
"""
    run_in_session(tmp_path, LOAD + code, STANDIN_DEVICES="1")


def test_without_a_device_on_the_cpu_and_back_when_there_is_one(open_device_notebook: OpenNotebook) -> None:
    notebook = open_device_notebook().start()
    run(notebook, MODEL)
    before = notebook.value(CONTENT)
    ran = restart_with(notebook, 0)
    assert "what was on standin:1 is on the CPU, since there is no such device here" in ran.text
    assert notebook.value(CONTENT) == before
    assert notebook.value(PLACES) == "('cpu', 'cpu', {'cpu'})"
    run(notebook, "big += 1; mine = torch.ones(70000)")
    after = notebook.value(CONTENT)
    restart_with(notebook, 2)
    assert notebook.value(CONTENT) == after
    assert notebook.value(PLACES) == "('standin:0', 'standin:0', {'standin:1'})"
    assert notebook.value(f"{SHARES}, str(mine.device)") == "(True, 'cpu')"


def test_storages_views_and_empty_tensors_come_back_too(tmp_path: Path) -> None:
    cells = """
import torch
storage = torch.arange(5, device='standin:0').untyped_storage()
nothing = torch.empty(0, 3, device='standin:1')
parts = list(torch.arange(60000, device='standin:0', dtype=torch.int64).chunk(2))
halves = torch.ones(8, device='standin:0', dtype=torch.float16)
"""
    run_in_session(tmp_path, f"exec({cells!r}, ns)\nassert session.save().skipped == []")
    code = """
restored = dict(session.load().variables)
assert str(restored['storage'].device) == 'standin:0' and restored['storage'].nbytes() == 40
assert str(restored['nothing'].device) == 'standin:1' and restored['nothing'].shape == (0, 3)
assert restored['parts'][1].tolist() == list(range(30000, 60000))
assert restored['parts'][0].untyped_storage().data_ptr() == restored['parts'][1].untyped_storage().data_ptr()
assert restored['halves'].sum().item() == 8
"""
    run_in_session(tmp_path, code)


def test_numbers_drawn_on_a_device_go_on_where_they_were(tmp_path: Path) -> None:
    code = """
def states(): return [g.initial_seed() for g in torch.standin.default_generators], [torch.rand(3, generator=g).tolist() for g in torch.standin.default_generators]
torch.manual_seed(5)
states()
session.save()
open('drawn', 'w').write(repr(states()))
"""
    run_in_session(tmp_path, code)
    code = """
exec("def states(): return [g.initial_seed() for g in torch.standin.default_generators], [torch.rand(3, generator=g).tolist() for g in torch.standin.default_generators]")
from respawner.processstate import put_random_state
loaded = session.load()
assert put_random_state(loaded.random) == []
assert repr(states()) == open('drawn').read()
"""
    run_in_session(tmp_path, code)
    code = """
from respawner.processstate import put_random_state
assert put_random_state(session.load().random) == ["random state of torch_devices could not be set: there is no standin:1 here"]
"""
    run_in_session(tmp_path, code, STANDIN_DEVICES="1")


# What crosses ----------------------------------------------------------------------------------------------


def test_nothing_crosses_to_find_out_that_nothing_changed(tmp_path: Path) -> None:
    code = """
counts()
session.save()
crossed = counts()['to_host']
# 16 bytes a chunk for 4 MiB and four matrices of 360 kB; then whole what is small and stored together.
small = sum(4 * p.numel() for p in ns['model'].parameters() if p.numel() < 16384) * 4
assert crossed <= 16 * (16 + 4 * 2) + small + 64, crossed
"""
    run_in_session(tmp_path, SAVE + code)


@pytest.mark.parametrize("freeze", [False, True], ids=["read by the writer", "copied before the next cell"])
def test_only_changed_chunks_cross_and_are_written(tmp_path: Path, freeze: bool) -> None:
    code = f"""
ns['big'] = torch.arange(2**23, device='standin:0', dtype=torch.float32)
assert session.save(freeze={freeze}).added_bytes > 2**24
counts()
ns['big'][2**20] += 1
ns['big'][7 * 2**20] += 1
manifest = session.save(freeze={freeze})
assert counts()['to_host'] < 2 * 2**18 + 16 * 130 + 64
assert manifest.added_bytes < 2 * 2**18 + 4096
assert torch.equal(session.load().variables['big'], ns['big'])
"""
    run_in_session(tmp_path, code)


def test_the_ring_waits_for_what_runs_and_a_cell_for_the_ring(tmp_path: Path) -> None:
    code = """
ns['big'] = torch.zeros(2**23, device='standin:0').random_()
session.save(freeze=True)
calls = torch.standin.calls
assert calls.index('synchronize') < calls.index('wait for what runs') < calls.index('event'), calls
assert calls.count('event') == calls.count('wait for event') >= 4, calls
"""
    run_in_session(tmp_path, code)


def test_the_ring_counts_against_the_memory_that_the_arena_may_take(tmp_path: Path) -> None:
    code = """
from respawner.device.ring import RING_BYTES
arena = session.saver.arena
arena.limit_bytes = RING_BYTES + 2 * 2**24
ns['big'] = torch.arange(2**24, device='standin:0', dtype=torch.float32)  # twice what there is room for
session.save(freeze=True)
assert arena.size_bytes <= 2 * 2**24, arena.size_bytes
assert torch.equal(session.load().variables['big'], ns['big'])
"""
    run_in_session(tmp_path, code)


# Digests ---------------------------------------------------------------------------------------------------


def test_digests_are_the_sums_that_they_say_they_are(tmp_path: Path) -> None:
    """Against whole numbers of Python's, on the tail as well; and every kind of small change is seen."""
    code = """
from respawner.device.digests import DeviceDigests
made_by = DeviceDigests('standin:0')
def digests(tensor): return made_by.of([tensor])[0]
memory = torch.randint(0, 256, (2 * 2**18 + 1001,), dtype=torch.uint8).to('standin:0')
made = digests(memory)
assert made == digests(memory.clone()) and len(made) == 3
words = torch.cat([memory[2 * 2**18 :].cpu(), torch.zeros(2**18 - 1001, dtype=torch.uint8)]).view(torch.int32).tolist()
for half, key in enumerate(made_by._keys.tolist()):
    expected = sum(w * k for w, k in zip(words, key)) % 2**64
    assert int.from_bytes(made[2][8 * half : 8 * half + 8], 'little') == expected
for place in (0, 1, 2**18 - 1, 2**18, 2 * 2**18, memory.numel() - 1):
    for bit in range(8):
        memory[place] ^= 1 << bit
        now = digests(memory)
        assert [a != b for a, b in zip(made, now)] == [n == place // 2**18 for n in range(3)], (place, bit)
        memory[place] ^= 1 << bit
floats = torch.ones(2**16, device='standin:0')
one = digests(floats.view(torch.uint8))
for change in (lambda f: f.neg_(), lambda f: f[[3, 9]].neg_(), lambda f: f.roll(1), lambda f: f[7].mul_(-1)):
    changed = torch.arange(2**16, device='standin:0', dtype=torch.float32)
    before = digests(changed.view(torch.uint8))
    result = change(changed)
    same = torch.equal(changed, torch.arange(2**16, device='standin:0', dtype=torch.float32))
    assert same == (digests(changed.view(torch.uint8)) == before)
odd = memory[1:]
assert made_by.of([memory, odd, memory[:1000]])[:2] == [made, None] and len(made_by.of([memory, memory[:1000]])[1]) == 1
assert DeviceDigests('standin:0').of([memory]) != [made], 'keys are drawn anew'
"""
    run_in_session(tmp_path, code)


# Put aside inside a cell -----------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1 << 40, 9 << 20, 0], ids=["all of it", "a part of it", "no room"])
def test_inside_a_cell_what_has_changed_is_copied_on_the_device_as_far_as_there_is_room(
    tmp_path: Path, room: int
) -> None:
    """16 MB, of which a quarter of the room may be taken: what fits crosses after the cell has gone on, the rest before."""
    code = f"""
torch.standin.free_bytes = {room}
ns['big'] = torch.arange(2**21, device='standin:0', dtype=torch.float32)
ns['other'] = torch.arange(2**21 + 100, device='standin:0', dtype=torch.float32)
before = [ns['big'].cpu(), ns['other'].cpu()]
job = session.capture()
counts()
session.saver._thread = object()  # nobody writes yet
session.saver.submit(job)
session.saver.freeze(on_devices=True)
crossed = counts()['to_host']
rest = 2**24 - min(2**24, {room} // 4)
assert rest - 400 <= crossed <= rest + 2 * 2**18 + 16 * 66, (crossed, rest)
ns['big'].fill_(-1), ns['other'].fill_(-1)
session.saver._thread = None
session.saver.prepare()
assert job.done.wait(120) and job.error is None, job.error
assert ('wait for the copies' in torch.standin.calls) == ({room} > 0)
restored = session.load().variables
assert torch.equal(restored['big'].cpu(), before[0]) and torch.equal(restored['other'].cpu(), before[1])
assert not any(source.memory for source in job.sources), 'given back'
counts()
session.save(inside=True)
session.save(inside=True)
assert counts()['to_host'] <= 2**24 + 400 + 3 * 16 * 66, 'what is known once is known'
"""
    run_in_session(tmp_path, code)


def test_inside_a_cell_the_writer_may_have_begun_with_all_of_a_device(tmp_path: Path) -> None:
    """Nothing of it is left to be put aside then; the host's memory is."""
    code = """
import threading
from respawner.device import ring
torch.standin.free_bytes = 1 << 40
ns['small'] = torch.arange(2**20, device='standin:0', dtype=torch.float32)
ns['host'] = torch.arange(2**23, dtype=torch.float32)
reading, may_read, read = threading.Event(), threading.Event(), ring.Ring.read
def slow(self, pieces, use, after=None):
    reading.set()
    may_read.wait(60)
    return read(self, pieces, use, after)
ring.Ring.read = slow
job = session.capture()
session.saver.submit(job)
reading.wait(60) or exit('nobody reads')
threading.Timer(0.3, may_read.set).start()
session.saver.freeze(on_devices=True)
assert job.done.wait(120) and job.error is None, job.error
assert torch.equal(session.load().variables['small'], ns['small'])
"""
    run_in_session(tmp_path, code)


def test_inside_a_cell_a_job_may_fail_while_its_memory_is_put_aside(tmp_path: Path) -> None:
    """Whoever forgets it and whoever froze it both come back, and the device has its room back."""
    code = """
import threading
from respawner.device import memory
torch.standin.free_bytes = 1 << 40
ns['a'] = torch.arange(2**23, device='standin:0', dtype=torch.float32)
ns['b'] = torch.arange(2**23, device='standin:1', dtype=torch.float32)
job = session.capture()
copy_there = memory.copy_there
def forgotten_meanwhile(places):
    forgets = threading.Thread(target=job.forget, args=(session.saver.arena,))
    forgets.start()
    made = copy_there(places)
    session.forgets = forgets
    return made
memory.copy_there = forgotten_meanwhile
freezes = threading.Thread(target=job.freeze, args=(session.saver.arena,), kwargs={'on_devices': True}, daemon=True)
freezes.start()
freezes.join(60)
session.forgets.join(60)
assert not freezes.is_alive() and not session.forgets.is_alive()
assert all(source.memory is None for source in job.sources)
"""
    run_in_session(tmp_path, code)


@pytest.mark.parametrize("asked", ["raises", "says nothing"])
def test_a_device_that_does_not_tell_its_room_is_read_at_once(tmp_path: Path, asked: str) -> None:
    code = f"""
def raises(self, index): raise RuntimeError('this allocator keeps no statistics')
type(torch.standin).mem_get_info = raises
if {asked!r} == 'says nothing':
    del type(torch.standin).mem_get_info
ns['big'] = torch.arange(2**21, device='standin:0', dtype=torch.float32)
before = ns['big'].cpu()
job = session.capture()
session.saver.submit(job)
session.saver.freeze(on_devices=True)
ns['big'].fill_(-1)
assert job.done.wait(120) and job.error is None, job.error
assert torch.equal(session.load().variables['big'].cpu(), before)
"""
    run_in_session(tmp_path, code)


def test_of_a_share_no_more_is_taken_than_is_left_of_it(tmp_path: Path) -> None:
    code = """
from respawner.device.hardware import room_on
torch.standin.free_bytes = 1 << 40
torch.standin.memory_reserved = lambda index: 3 << 30
assert room_on('standin:0') == 2**30 // 4
"""
    run_in_session(tmp_path, code, RESPAWNER_GPU_MEMORY_BYTES=str(4 << 30))


def test_a_state_may_be_taken_in_inference_mode(tmp_path: Path) -> None:
    """What is made then for the device lives on, and is written to outside of that mode."""
    code = """
ns['big'] = torch.arange(2**21, device='standin:0', dtype=torch.float32)
torch.standin.free_bytes = 1 << 40
with torch.inference_mode():
    session.save(inside=True)
ns['big'] += 1
session.save()
ns['big'] += 1
session.save(inside=True)
assert torch.equal(session.load().variables['big'], ns['big'])
"""
    run_in_session(tmp_path, code)


def test_what_one_digest_has_no_room_for_takes_no_other_along(tmp_path: Path) -> None:
    code = """
from respawner.device.digests import DeviceDigests
made_by = DeviceDigests('standin:0')
memories = [torch.arange(2**17 * n, device='standin:0', dtype=torch.float32).view(torch.uint8) for n in (1, 2, 3)]
all_of_them = made_by.of(memories)
sums = DeviceDigests._sums_of
def full(self, memory):
    if memory is memories[1]: raise torch.OutOfMemoryError('no room')
    return sums(self, memory)
DeviceDigests._sums_of = full
assert made_by.of(memories) == [all_of_them[0], None, all_of_them[2]]
"""
    run_in_session(tmp_path, code)


# Inside a cell ---------------------------------------------------------------------------------------------


def test_a_kernel_killed_in_a_cell_comes_back_at_a_safe_point(open_device_notebook: OpenNotebook) -> None:
    notebook = open_device_notebook(**AT_EVERY).start()
    run(notebook, MODEL + "torch.standin.free_bytes = 1 << 40")
    notebook.client.execute("for number in range(100000): step()")
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["steps"] > 10)
    notebook.kill_at_once()
    run(notebook.start(), "pass")
    found = next(m for m in notebook.manifests() if m.kind == SAFEPOINT)
    steps = found.cell["safepoint"]["steps"]
    assert notebook.value("int(optimizer.state[model[0].weight]['step'])") == str(3 + steps)
    # A whole step, not a mixture: the same as so many steps anew.
    saved = "saved = [p.detach().clone() for p in model.parameters()]"
    run(notebook, f"{saved}\n{MODEL}\nfor _ in range({steps}): step()")
    same = "all(torch.equal(a, b) for a, b in zip(saved, model.parameters()))"
    assert notebook.value(same) == "True"


# Failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True], ids=["read by the writer", "put aside"])
def test_memory_that_changes_while_it_is_read_is_not_published(tmp_path: Path, inside: bool) -> None:
    code = f"""
torch.standin.free_bytes = 1 << 40
ns['big'] = torch.arange(2**20, device='standin:0', dtype=torch.float32)
good = session.save(inside={inside})
ns['big'] *= 2
job = session.capture()
ns['big'] *= 2
try:
    session.write(job, inside={inside})
    raise SystemExit('published')
except TornError:
    pass
assert session.timeline.latest().id == good.id
session.save(restless=True, inside={inside})
session.save(inside={inside})
assert torch.equal(session.load().variables['big'], ns['big'])
"""
    run_in_session(tmp_path, code)


@pytest.mark.parametrize(
    "moment", ["before the capture", "while it is read", "while it is copied", "while it is put aside"]
)
def test_of_a_device_that_has_failed_nothing_is_published(tmp_path: Path, moment: str) -> None:
    code = f"""
ns['big'] = torch.arange(2**20, device='standin:0', dtype=torch.float32)
good = session.save()
ns['big'] *= 2
if {moment!r} == 'before the capture':
    torch.standin.break_device()
try:
    job = session.capture()
    torch.standin.break_device()
    torch.standin.free_bytes = 1 << 40
    session.write(job, freeze={moment!r} == 'while it is copied', inside={moment!r} == 'while it is put aside')
    raise SystemExit('published')
except DeviceError as error:
    assert 'standin:0 has failed and cannot be read any more in this process' in str(error)
assert session.timeline.latest().id == good.id
assert session.saver.idle and not session.saver.arena._used
"""
    run_in_session(tmp_path, code)


def test_a_failed_device_is_told_with_the_advice_to_restart(open_device_notebook: OpenNotebook) -> None:
    notebook = open_device_notebook().start()
    run(notebook, "import torch; big = torch.ones(2**20, device='standin:0'); small = 1")
    notebook.settle()
    good = notebook.manifests()[0]
    notebook.run("small = 2; torch.standin.break_device()")
    notebook.settle()
    told = notebook.run("small = 3")
    assert "standin:0 has failed and cannot be read any more in this process" in told.text
    assert (
        f"the last good snapshot is {good.id}. Nothing more is saved in this kernel: restart it" in told.text
    )
    notebook.settle()
    assert notebook.manifests()[0].id == good.id
    notebook.kill_at_once()
    run(notebook.start(), "pass")
    assert notebook.value("small, big.sum().item()") == "(1, 1048576.0)"


def test_a_damaged_pack_costs_a_state_with_device_tensors_as_any_other(tmp_path: Path) -> None:
    code = """
from respawner.store.pack import pack_path
from tests.snapshot.notebook import flip_a_byte
ns['big'] = torch.arange(2**20, device='standin:0')
ns['name'] = 'first'
session.save()
ns['big'][7] = 0
ns['name'] = 'second'
newest = session.save()
[payload] = [p for p in newest.payloads if p.kind == 'torch']
changed = payload.stream.extents[0]
flip_a_byte(pack_path(session.timeline.packs, changed.pack), changed.offset + 100)
loaded = session.load()
assert [d.sequence for d in loaded.damaged] == [newest.sequence]
assert loaded.variables['name'] == 'first' and loaded.variables['big'][7].item() == 7
"""
    run_in_session(tmp_path, code)
