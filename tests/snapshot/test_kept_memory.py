"""Parameters and optimizers' state are copied beside the next pass, and the next step waits for that.

A cell writes down what all of it was after every step; what comes back after SIGKILL is what it was after the one that the
restored kernel has.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from respawner import contract
from respawner.errors import StoreError
from respawner.manifest import CHUNK_BYTES, SAFEPOINT, Manifest
from respawner.saving.job import FROZEN, LIVE, Job, PlannedPayload, PlannedStream, Source
from respawner.saving.ranges import Ranges
from respawner.saving.saver import Saver
from respawner.store.writer import TimelineWriter

from tests.snapshot.notebook import PATIENCE_SECONDS, Notebook
from tests.snapshot.test_safepoints import AT_EVERY, OpenNotebook

AT_ONCE = {**AT_EVERY, contract.WRITES_ENV: str(10**15)}
"""However much that writes."""

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
    notebook = Notebook(tmp_path_factory.mktemp("training"), **AT_ONCE).start()
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


SLOW = """
from respawner.saving.job import Job
take = Job.take
changing = False
def slowly(self, *arguments):
    time.sleep(0.02)
    while changing: time.sleep(0.01)
    take(self, *arguments)
Job.take = slowly
from respawner.saving.saver import Saver
def end(self, job, ended=Saver._end):
    with open("ends", "a") as file:
        print(job.guessed, type(job.error).__name__, file=file)
    ended(self, job)
Saver._end = end
Saver.freeze_beside = lambda self: None
"""
"""Some 150 chunks take three seconds to write, and the thread that copies does not come to it; nothing is written while
a cell is ``changing`` what was guessed to stay."""


def ends_of(notebook: Notebook) -> list[str]:
    """Of each job in its order: whether more was guessed than usual, and what it failed with."""
    return (notebook.folder / "ends").read_text().splitlines()


WRONG_GUESS = f"changing = True; optimizer.zero_grad(); {STEP}; [p.data.mul_(0.5) for p in model.parameters()]; changing = False"


def test_a_wrong_guess_costs_no_finished_cell(open_notebook: OpenNotebook) -> None:
    """The cell ends, and the next one runs, while what was guessed about the first is still being written."""
    notebook = open_notebook(**AT_ONCE).start()
    notebook.run(SETUP)
    notebook.run(f"optimizer.zero_grad(); {STEP}")  # an optimizer is known when it has stepped
    assert notebook.settle()["durable"]
    notebook.run(SLOW)
    assert notebook.settle()["durable"]
    notebook.client.execute(f"{WRONG_GUESS}; result = fingerprint()")
    notebook.client.execute("time.sleep(600)")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(
        isinstance(found, Manifest) and found.kind == "cell" and found.cell["execution_count"] == 4
        for found in notebook.timeline.snapshots()  # some are being deleted meanwhile
    ):
        assert time.monotonic() < deadline, ends_of(notebook)
        time.sleep(0.05)
    notebook.kill_at_once()
    notebook.start().run("pass")
    assert notebook.value("fingerprint() == result") == "True"
    assert "True TornError" in ends_of(notebook), "it was a guess, and it was wrong"


def test_what_the_user_saves_does_not_hang_on_a_guess(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_ONCE).start()
    notebook.run(SETUP)
    notebook.run(f"optimizer.zero_grad(); {STEP}")
    assert notebook.settle()["durable"]
    notebook.run(SLOW)
    assert notebook.settle()["durable"]
    ran = notebook.run(f"import respawner\n{WRONG_GUESS}; respawner.save('best')")
    assert ran.error is None
    torn = ends_of(notebook).index("True TornError")
    after = notebook.run(
        f"while len(open('ends').readlines()) < {torn + 5}: optimizer.zero_grad(); {STEP}; time.sleep(0.1)\n"
        "print(respawner.status()['error'])"
    )
    assert after.text.strip() == "None"
    assert set(ends_of(notebook)[torn + 1 :]) == {"False NoneType"}
    assert len(ends_of(notebook)) > torn + 3


def test_what_is_kept_is_copied_beside_and_the_rest_at_once() -> None:
    """The writer waits for a disk that never comes."""
    kept, changed = np.ones(3 << 20, np.uint8), np.ones(3 << 20, np.uint8)
    streams = [PlannedStream(memory.nbytes, b"", sources_of(memory)) for memory in (kept, changed)]
    job = Job({"id": "1"}, [], b"", b"", [PlannedPayload("array", "", stream) for stream in streams])
    comes = threading.Event()

    def no_writer() -> TimelineWriter:
        comes.wait()
        raise StoreError("there is no disk")

    saver = Saver(no_writer, lambda job: None)
    try:
        saver.submit(job)
        saver.freeze(Ranges([(kept.ctypes.data, kept.nbytes)]))
        assert {source.state for source in streams[0].sources.values()} == {LIVE}
        assert {source.state for source in streams[1].sources.values()} == {FROZEN}
        saver.freeze_beside()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while LIVE in {source.state for source in streams[0].sources.values()}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        saver.freeze()
        assert {source.state for source in job.sources} == {FROZEN}
    finally:
        comes.set()
        job.done.wait()


def sources_of(memory: np.ndarray) -> dict[int, Source]:
    starts = range(0, memory.nbytes, CHUNK_BYTES)
    return {number: Source(memory.ctypes.data + at, CHUNK_BYTES) for number, at in enumerate(starts)}


def test_ranges_that_meet_are_one() -> None:
    ranges = Ranges([(300, 50), (100, 50), (150, 50), (120, 10), (400, 0)])
    assert ranges.cover(100, 100)
    assert ranges.cover(149, 2)
    assert not ranges.cover(100, 101)
    assert not ranges.cover(99, 2)
    assert not ranges.cover(199, 200)
    assert not ranges.cover(400, 1)
    assert not Ranges([(400, 0)])
