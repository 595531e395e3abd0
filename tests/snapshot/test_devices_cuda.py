"""Tensors on a GPU, saved and restored: what the stand-in accelerator of test_devices.py cannot show.

    pytest tests/snapshot/test_devices_cuda.py

on a host with a GPU and a torch with CUDA, one test at a time, for some fill its memory. Everywhere else these are skipped;
docs/unverified.md says where they have passed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.snapshot.device_session import run_in_session

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is False here"
    ),
]

MODEL = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(2000, 2000), torch.nn.ReLU(), torch.nn.Linear(2000, 10)).cuda()
optimizer = torch.optim.Adam(model.parameters())
def step():
    optimizer.zero_grad()
    loss = model(torch.ones(8, 2000, device='cuda')).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()
first = [step() for _ in range(3)]
half = torch.randn(1000, 1000, device='cuda').half()
"""
REPRODUCIBLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def run_on_gpu(folder: Path, code: str, **environment: str) -> None:
    run_in_session(folder, code, device="cuda", **REPRODUCIBLE, **environment)


def test_training_goes_on_on_the_gpu_with_the_same_bits(tmp_path: Path) -> None:
    run_on_gpu(tmp_path, f"exec({MODEL!r}, ns)\nmanifest = session.save()\nassert manifest.devices['cuda:0']")
    code = f"""
torch.use_deterministic_algorithms(True)
loaded = session.load()
assert not loaded.lost and not loaded.notes, (loaded.lost, loaded.notes)
restored = dict(loaded.variables)
assert {{str(p.device) for p in restored['model'].parameters()}} == {{'cuda:0'}}
ns.update(restored)
losses = [ns['step']() for _ in range(3)]
exec({MODEL!r}, ns)
assert torch.equal(restored['half'], ns['half'])
assert losses == [ns['step']() for _ in range(3)]
assert all(torch.equal(a, b) for a, b in zip(restored['model'].parameters(), ns['model'].parameters()))
"""
    run_on_gpu(tmp_path, code)


def test_without_a_gpu_on_the_cpu_and_back_on_the_gpu(tmp_path: Path) -> None:
    run_on_gpu(
        tmp_path, f"exec({MODEL!r}, ns)\nns['total'] = ns['half'].double().sum().item()\nsession.save()"
    )
    code = """
assert not torch.cuda.is_available()
loaded = session.load()
ns.update(loaded.variables)
assert str(ns['half'].device) == 'cpu' and ns['half'].double().sum().item() == ns['total']
session.save()
"""
    run_on_gpu(tmp_path, code, CUDA_VISIBLE_DEVICES="")
    code = """
restored = dict(session.load().variables)
assert str(restored['half'].device) == 'cuda:0' and str(restored['model'][0].weight.device) == 'cuda:0'
assert abs(restored['half'].double().sum().item() - restored['total']) < 1e-6
"""
    run_on_gpu(tmp_path, code)


def test_only_changed_chunks_cross(tmp_path: Path) -> None:
    """2 GB; what crosses is what the ring is asked for, and the copies are pinned and on a stream of their own."""
    code = """
from respawner.device import ring
from respawner.device.lane import lane_of
asked = []
read = ring.Ring.read
def counted(self, pieces, use, after=None):
    asked.append(sum(piece.length for piece in pieces))
    assert self._stream != torch.cuda.default_stream() and all(slot.is_pinned() for slot in self._slots)
    return read(self, pieces, use, after)
ring.Ring.read = counted
ns['big'] = torch.randn(2**29, device='cuda')
session.save(freeze=True)
assert sum(asked) == 2**31
asked.clear()
session.save(freeze=True)
assert sum(asked) == 0
ns['big'][12345] += 1
session.save(freeze=True)
assert sum(asked) == 2**18
assert torch.equal(session.load().variables['big'], ns['big'])
"""
    run_on_gpu(tmp_path, code)


def test_what_is_still_being_computed_is_waited_for(tmp_path: Path) -> None:
    """On another stream, begun and not ended when the capture begins; and overwritten right after `freeze`."""
    code = """
stream = torch.cuda.Stream()
ns['result'] = torch.zeros(4096, 4096, device='cuda')
factor = torch.eye(4096, device='cuda')
with torch.cuda.stream(stream):
    for _ in range(50):
        ns['result'] = ns['result'] @ factor + 1
job = session.capture()
session.saver.submit(job)
session.saver.freeze()
ns['result'].fill_(-1)
assert job.done.wait(120) and job.error is None, job.error
assert session.load().variables['result'].unique().tolist() == [50.0]
"""
    run_on_gpu(tmp_path, code)


def test_inside_a_cell_memory_may_be_overwritten_while_its_copy_on_the_gpu_crosses(tmp_path: Path) -> None:
    """1 GB, put aside, overwritten by work that is queued at once; what was allocated for it is given back."""
    code = """
ns['big'] = torch.randn(2**28, device='cuda')
before = ns['big'].cpu()
session.save()
ns['big'].add_(1)
before = ns['big'].cpu()
held = torch.cuda.memory_allocated()
job = session.capture()
session.saver.submit(job)
session.saver.freeze(on_devices=True)
put_aside = sum(source.length for source in job.sources if source.aside)
for _ in range(50):
    ns['big'].mul_(1.01)
assert job.done.wait(120) and job.error is None, job.error
assert put_aside > 2**29, put_aside
assert torch.equal(session.load().variables['big'].cpu(), before)
torch.cuda.empty_cache()
assert torch.cuda.memory_allocated() - held < 2**29 + 2**20, torch.cuda.memory_allocated() - held
"""
    run_on_gpu(tmp_path, code)


def test_graphs_are_recorded_while_memory_that_was_put_aside_crosses(tmp_path: Path) -> None:
    """Recording forbids other threads to wait for the device, unless they say that it is none of the graph's business."""
    code = """
ns['big'] = torch.randn(2**28, device='cuda')
x = torch.ones(1000, device='cuda')
job = session.capture()
session.saver.submit(job)
session.saver.freeze(on_devices=True)
recorded = 0
while not job.done.is_set() or not recorded:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2
    graph.replay()
    assert y.sum().item() == 2000
    recorded += 1
assert job.error is None, job.error
assert torch.equal(session.load().variables['big'], ns['big'])
"""
    run_on_gpu(tmp_path, code)


def test_digests_do_not_depend_on_the_device(tmp_path: Path) -> None:
    code = """
from respawner.device.digests import DeviceDigests
there, here = DeviceDigests('cuda:0'), DeviceDigests('cpu')
memory = torch.randint(0, 256, (40 * 2**20 + 77,), dtype=torch.uint8, device='cuda')
made = there.of([memory])
here._keys = there._keys.cpu()
assert made == here.of([memory.cpu()])
"""
    run_on_gpu(tmp_path, code)


def test_a_sticky_error_ends_saving_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    code = """
ns['big'] = torch.ones(2**20, device='cuda')
good = session.save()
ns['big'] += 1
try:
    torch.ones(3, device='cuda')[torch.tensor([7], device='cuda')].cpu()  # an assertion on the device
except RuntimeError:
    pass
try:
    session.save()
    raise SystemExit('published')
except DeviceError as error:
    assert 'cuda:0 has failed' in str(error)
assert session.timeline.latest().id == good.id
"""
    run_on_gpu(tmp_path, code)


def test_a_capture_with_a_full_gpu_reads_everything_instead_of_failing(tmp_path: Path) -> None:
    code = """
ns['big'] = torch.ones(2**26, device='cuda')
session.save()
free, _ = torch.cuda.mem_get_info()
filler = torch.empty(max(0, free - 2**22), dtype=torch.uint8, device='cuda')
ns['big'][0] = 2
session.save(freeze=True)
del filler
assert session.load().variables['big'][:2].tolist() == [2.0, 1.0]
"""
    run_on_gpu(tmp_path, code)


def test_sparse_and_complex_tensors_come_back_to_the_gpu(tmp_path: Path) -> None:
    code = """
ns['sparse'] = torch.eye(4, device='cuda').to_sparse()
ns['conjugated'] = torch.randn(100, device='cuda', dtype=torch.complex64).conj()
session.save()
restored = session.load().variables
assert restored['sparse'].is_sparse and restored['sparse'].is_cuda
assert torch.equal(restored['sparse'].to_dense(), ns['sparse'].to_dense())
assert torch.equal(restored['conjugated'], ns['conjugated'])
"""
    run_on_gpu(tmp_path, code)
