"""Parameters, gradients and optimizers' state are copied beside the next pass, and the next step waits for that.

A cell writes down what all of it was after every step; what comes back after SIGKILL is what it was after the one that the
restored kernel has.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from respawner.manifest import SAFEPOINT, Manifest
from respawner.saving.ranges import Ranges

from tests.snapshot.notebook import PATIENCE_SECONDS, Notebook
from tests.snapshot.test_safepoints import AT_EVERY, OpenNotebook

SETUP = """
import hashlib, os, time, torch
torch.manual_seed(0)
width = 1536
model = torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(2)])
average = torch.optim.swa_utils.AveragedModel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
other = torch.optim.SGD(model[0].parameters(), lr=1e-4, momentum=0.9)
steps = 0

def fingerprint():
    parts = [*model.parameters(), *average.parameters(), *(p.grad for p in model.parameters())]
    for each in (optimizer, other):
        parts += [v for p in each.state for v in each.state[p].values()]
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(b"none" if part is None else part.detach().contiguous().numpy().tobytes())
    return found.hexdigest()

def written_down(which, args, kwargs):
    global steps
    steps += 1
    os.write(log, f"{steps} {fingerprint()}\\n".encode())

log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for each in (optimizer, other):
    each.register_step_post_hook(written_down)
"""
"""38 MB of parameters and moments. An optimizer's own hooks run before those of all optimizers, which are ours."""

STEP = "model(torch.randn(2, width)).square().mean().backward(); optimizer.step()"
CELLS = {
    "gradients are made anew": f"while True: optimizer.zero_grad(); {STEP}",
    "gradients are set to zero": f"while True: optimizer.zero_grad(set_to_none=False); {STEP}",
    "gradients add up": f"while True: {STEP}",
    "weights are clipped": f"while True: {STEP}; [p.data.clamp_(-0.01, 0.01) for p in model.parameters()]",
    "two optimizers": f"while True: optimizer.zero_grad(); {STEP}; other.step()",
    "an average of the weights": f"while True: optimizer.zero_grad(); {STEP}; average.update_parameters(model)",
}


def inside_cells(notebook: Notebook) -> list[Manifest]:
    """Snapshots inside cells that are on the disk, the newest first."""
    found = notebook.timeline.snapshots()
    return [each for each in found if isinstance(each, Manifest) and each.kind == SAFEPOINT]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel after the other: each goes on from what the last one has left."""
    notebook = Notebook(tmp_path_factory.mktemp("training"), **AT_EVERY).start()
    assert notebook.run(SETUP).error is None
    yield notebook
    notebook.shut_down()


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_what_comes_back_is_of_one_step(cell: str, training: Notebook) -> None:
    assert training.settle()["durable"]
    training.client.execute(cell)
    seen: set[str] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(seen) < 3:
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
        seen |= {found.id for found in inside_cells(training)[:1]}
    time.sleep(random.Random(cell).random())
    training.kill_at_once()
    training.start().run("log = os.open('log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)")
    told = training.value("(steps, fingerprint())").strip("()").replace("'", "").replace(",", "")
    assert told in training.value("open('log').read().splitlines()")


def test_the_next_step_finds_memory_that_was_left_alone_copied(open_notebook: OpenNotebook) -> None:
    """And the cell waits for less than all of it: the arena has room for what the optimizer changes, filled beside it."""
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(SETUP)
    ran = notebook.run(
        "from respawner.recorder import Recorder\n"
        "kept = []\n"
        "capture, freeze = Recorder.capture_inside, Recorder.freeze_inside\n"
        "def captured(self, moment, memory, **named):\n"
        "    kept.append(memory.cover(model[0].weight.data_ptr(), model[0].weight.nbytes))\n"
        "    return capture(self, moment, memory, **named)\n"
        "def frozen(self):\n"
        "    freeze(self)\n"
        "    kept.append(any(s.state in (0, 1) for job in self._saver.unfinished() for s in job.sources))\n"
        "Recorder.capture_inside, Recorder.freeze_inside = captured, frozen\n"
        f"for _ in range(3): optimizer.zero_grad(); {STEP}\n"
        "Recorder.capture_inside, Recorder.freeze_inside = capture, freeze"
    )
    assert ran.error is None
    assert notebook.value("kept[:2]") == "[True, False]"


def test_ranges_that_meet_are_one() -> None:
    ranges = Ranges([(300, 50), (100, 50), (150, 50), (120, 10), (400, 0)])
    assert ranges.cover(100, 100)
    assert ranges.cover(149, 2)
    assert not ranges.cover(100, 101)
    assert not ranges.cover(99, 2)
    assert not ranges.cover(199, 200)
    assert not ranges.cover(400, 1)
    assert not Ranges([(400, 0)])
