"""`respawner.resume`: training that is killed again and again ends as if it had never been, bit for bit."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from respawner import contract
from respawner.errors import ResumeError
from respawner.safepoints.positions import Zipped, at_position, refuse_begun_loaders, start_of

from tests.snapshot.notebook import PATIENCE_SECONDS, PYTHON, Notebook, Ran
from tests.snapshot.test_safepoints import (
    AT_EVERY,
    one_step,
    run_freely,
    step_by_step,
    wait_for_safepoint,
)

OpenNotebook = Callable[..., Notebook]
KILLS = int(os.environ.get("RESPAWNER_KILLS", "3"))
"""Of one training; it is as much longer as this is larger."""

SETUP = """
import copy, random, time
import numpy as np, torch
from torch import nn
import respawner

class Noisy(torch.utils.data.Dataset):
    '''Draws from every generator when an item is loaded.'''
    def __len__(self):
        return 24
    def __getitem__(self, index):
        return torch.randn(6) + index / 24 + np.random.rand() + random.random()

def tell(*values):
    with open('trace', 'a') as file:
        print(*(value.hex() if isinstance(value, float) else value for value in values), file=file)
    time.sleep(0.03)

def fingerprint(*modules):
    return [tensor.double().sum().item().hex() for module in modules for tensor in module.state_dict().values()]

def loss_of(model, x):
    return (model(x) - x.sum(1, keepdim=True)).pow(2).mean()

def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))

length = LENGTH
""".replace("LENGTH", str(-(-KILLS // 3)))

PLAIN = """
torch.manual_seed(0); random.seed(1); np.random.seed(2)
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True)
history = []
for epoch in respawner.resume(range(5 * length), name="epochs"):
    total = 0.0
    for x in respawner.resume(loader):
        loss = loss_of(model, x)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        total += loss.item()
        tell(epoch, total)
    scheduler.step()
    history.append(total)
print(fingerprint(model), [value.hex() for value in history], optimizer.param_groups[0]['lr'])
"""

ACCUMULATION = """
torch.manual_seed(0); random.seed(1); np.random.seed(2)
model, steps = network(), 0
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
generator = torch.Generator().manual_seed(3)
sampler = torch.utils.data.RandomSampler(Noisy(), replacement=True, num_samples=40, generator=generator)
loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, sampler=sampler)
epoch = 0
while epoch < 3 * length:
    optimizer.zero_grad()
    for number, x in respawner.resume(loader, name="batches", counted=True):
        loss = loss_of(model, x) / 3
        loss.backward()
        if (number + 1) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        tell(epoch, number, steps, loss.item())
    epoch += 1
print(fingerprint(model), steps, generator.get_state().sum().item())
"""

IN_FUNCTIONS = """
def one_epoch(model, average, optimizer, loader, history):
    running = 0.0
    for x in respawner.resume(loader, name="batches"):
        loss = loss_of(model, x)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        with torch.no_grad():
            for mine, other in zip(average.parameters(), model.parameters()):
                mine.lerp_(other, 0.1)
        running = 0.9 * running + 0.1 * loss.item()
        tell(len(history), running)
    history.append(running)

def train(epochs):
    torch.manual_seed(0); random.seed(1); np.random.seed(2)
    model = network()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True)
    history = []
    def note():
        return len(history)
    for epoch in respawner.resume(range(epochs)):
        one_epoch(model, average, optimizer, loader, history)
        assert note() == epoch + 1
    return model, average, history

for number in respawner.resume(range(3), name="warm-up"):
    pass
model, average, history = train(5 * length)
print(fingerprint(model, average), [value.hex() for value in history])
"""


IN_A_MODULE = """
import pathlib
pathlib.Path('gan.py').write_text('''
import random
import numpy as np, torch
from torch import nn
from tqdm import tqdm
import respawner

class Trainer:
    def __init__(self, loader):
        self.maker, self.critic = nn.Linear(3, 6), nn.Linear(6, 1)
        self.of_maker = torch.optim.RMSprop(self.maker.parameters(), lr=1e-2)
        self.of_critic = torch.optim.LBFGS(self.critic.parameters(), lr=1e-2, max_iter=3)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=5)
        self.loader = loader
        self.log = []

    def fit(self, epochs, tell):
        for self.epoch in respawner.resume(range(epochs), name="epochs"):
            self.part(tell)

    def part(self, tell):
        bar = tqdm(respawner.resume(self.loader, name="batches"))
        for x in bar:
            made = self.maker(torch.randn(len(x), 3))
            def closure():
                self.of_critic.zero_grad()
                loss = (self.critic(x) - 1).pow(2).mean() + self.critic(made.detach()).pow(2).mean()
                loss.backward()
                return loss
            self.of_critic.step(closure)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (self.critic(made) - 1).pow(2).mean()
            self.of_maker.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.of_maker)
            self.scaler.update()
            self.log.append(loss.item())
            bar.set_postfix(loss=loss.item())
            tell(self.epoch, loss.item())
''')
import gan
torch.manual_seed(0); random.seed(1); np.random.seed(2)
trainer = gan.Trainer(torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True))
trainer.fit(4 * length, tell)
print(fingerprint(trainer.maker, trainer.critic), [v.hex() for v in trainer.log], trainer.scaler.get_scale())
"""


def undisturbed(cell: str, folder: Path) -> tuple[list[str], list[str]]:
    """What the cell prints where Respawner is off, and its trace."""
    folder.mkdir()
    done = subprocess.run(
        [PYTHON, "-c", SETUP + cell],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        check=True,
    )
    return done.stdout.splitlines(), (folder / "trace").read_text().splitlines()


def trace_of(notebook: Notebook) -> list[str]:
    path = notebook.folder / "trace"
    return path.read_text().splitlines() if path.exists() else []


def kill_after(notebook: Notebook, cell: str, lines: int) -> None:
    """Run the cell and kill the kernel when it has told so many lines, and two of its safe points are on the disk: the first
    may be where it began, and what is killed before that has nothing to go on from."""
    assert notebook.settle()["durable"]
    wanted = len(trace_of(notebook)) + lines
    before = max(notebook.timeline.sequences())
    step_by_step(notebook)
    notebook.client.execute(cell)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(trace_of(notebook)) < wanted or max(notebook.timeline.sequences()) < before + 2:
        assert time.monotonic() < deadline, trace_of(notebook)
        one_step(notebook)
        time.sleep(0.005)
    notebook.kill_at_once()


@pytest.mark.parametrize(
    "cell",
    [PLAIN, ACCUMULATION, IN_FUNCTIONS, IN_A_MODULE],
    ids=["plain", "accumulation", "functions", "module"],
)
def test_training_killed_at_random_steps_ends_bit_for_bit_as_one_that_was_not(
    cell: str, open_notebook: OpenNotebook, tmp_path: Path
) -> None:
    printed, trace = undisturbed(cell, tmp_path / "undisturbed")
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(SETUP)
    chance = random.Random(cell)
    kills = [chance.randint(3, 8) for _ in range(KILLS)]
    for lines in kills:
        kill_after(notebook, cell, lines)
        notebook.start()
    ran = notebook.run(cell)
    assert ran.error is None, ran.error
    assert "goes on with item" in ran.text
    assert printed[-1] in ran.text
    told = trace_of(notebook)
    assert dict.fromkeys(told) == dict.fromkeys(trace), "every step gave the same bits, in the same order"
    # Each kill costs what ran since the last boundary that had reached the disk; no life began anew.
    assert told.count(trace[0]) == 1
    assert len(told) - len(trace) <= sum(kills) - KILLS


def test_cells_between_restore_and_rerun_are_kept_and_so_is_the_place(open_notebook: OpenNotebook) -> None:
    """What other cells changed stays, also when the kernel dies again before the loop has gone on."""
    cell = "import respawner, time\nseen = []\nfor i in respawner.resume(range(40), name='it'):\n    seen.append((i, rate))\n    time.sleep(0.03)"
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("rate = 1")
    step_by_step(notebook)
    notebook.client.execute(cell)
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 3)
    notebook.kill_at_once()
    notebook.start()
    ran = notebook.run("rate = 2")
    assert "run that cell again and it goes on there" in ran.text
    notebook.restart_after_kill()
    ran = notebook.run("import respawner; print(respawner.stopped()['loops'])")
    assert "had not ended; it has not gone on yet from its state before item" in ran.text
    # A changed cell finds the loop by its name.
    ran = notebook.run("# changed\n" + cell)
    assert ran.error is None
    assert "loop 'it' goes on with item" in ran.text
    assert notebook.value("[i for i, _ in seen] == list(range(40))") == "True"
    assert notebook.value("sorted({rate for _, rate in seen})") == "[1, 2]"
    assert notebook.value("respawner.stopped()") == "None"
    notebook.run(cell)
    assert notebook.value("seen == [(i, 2) for i in range(40)]") == "True", "what has ended begins anew"


def test_a_run_that_fails_before_its_loop_spoils_nothing_and_what_is_mended_after_it_counts(
    open_notebook: OpenNotebook,
) -> None:
    """What it has made anew gives way at once, so other cells change the state to go on from; also after another kill."""
    cell = (
        "import os, time\nseen, rates = [], set()\nassert not os.path.exists('fail')\n"
        "for i in respawner.resume(range(40)):\n    seen.append(i); rates.add(step(rate['lr']))\n    time.sleep(0.03)"
    )
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner; rate = {'lr': 1}\ndef step(rate):\n    return rate")
    step_by_step(notebook)
    notebook.client.execute(cell)
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 3)
    notebook.kill_at_once()
    (notebook.folder / "fail").touch()
    ran = notebook.start().run(cell)
    assert (ran.error or "").startswith("AssertionError")
    assert "failed before its loop, so the variables are again those to go on from" in ran.text
    assert notebook.value("seen == list(range(len(seen))) and len(seen) > 3") == "True"
    notebook.run("rate['lr'] = 2; rates.add('mended')\ndef step(rate):\n    return rate * 10")
    notebook.restart_after_kill()
    (notebook.folder / "fail").unlink()
    ran = notebook.run(cell)
    assert "goes on with item" in ran.text
    assert notebook.value("seen == list(range(40))") == "True"
    assert notebook.value("rates == {1, 20, 'mended'}") == "True"
    assert notebook.timeline.pins() == {}


def stop_at(notebook: Notebook, cell: str, count: int = 5, cell_id: str = "") -> None:
    """The kernel dies in the cell when so many items are done and saved, and comes back."""
    step_by_step(notebook)
    execute_with_id(notebook, cell, cell_id) if cell_id else notebook.client.execute(cell)
    first = cell.partition("\n")[0]
    wait_for_safepoint(
        notebook,
        lambda found: (
            found.cell["first_line"] == first and found.cell["safepoint"]["loops"][-1]["iteration"] >= count
        ),
    )
    notebook.kill_at_once()
    notebook.start()


def test_a_run_that_fails_after_it_has_gone_on_and_before_its_next_safe_point_names_and_keeps_the_one_before(
    open_notebook: OpenNotebook,
) -> None:
    """Neither its own state nor retention takes the place of the safe point; another start comes back to it."""
    cell = (
        "seen = []\nfor i in respawner.resume(range(30)):\n    if os.path.exists('bad'): raise OSError('gone')\n"
        "    seen.append(i); time.sleep(0.03)"
    )
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner, time, os")
    notebook.environment[contract.SAFEPOINT_SECONDS_ENV] = "300"  # from the next start on
    stop_at(notebook, cell)
    notebook.run("between = 1")
    (notebook.folder / "bad").touch()
    ran = notebook.run(cell)
    assert "goes on with item" in ran.text
    found = re.search(r"`%restore (\S+)` brings back the last safe point of this cell, before item", ran.text)
    assert found, ran.text
    ran = notebook.run(cell)
    assert f"this run begins anew; `%restore {found[1]}` brings back" in ran.text
    (notebook.folder / "bad").unlink()
    assert notebook.run(f"%restore {found[1]}").error is None
    (notebook.folder / "bad").touch()
    ran = notebook.run(cell)
    assert "goes on with item" in ran.text
    assert "begins anew" not in ran.text
    (notebook.folder / "bad").unlink()
    notebook.restart_after_kill()
    ran = notebook.run("print(between, respawner.stopped() is not None)")
    assert "True" in ran.text
    assert "that cell failed, and `%restore" in ran.text
    for number in range(6):
        notebook.run(f"between = {number}")
        notebook.settle()
    assert notebook.run(f"%restore {found[1]}").error is None
    assert notebook.value("between") == "1"
    assert "goes on with item" in notebook.run(cell).text
    assert notebook.value("seen == list(range(30))") == "True"


def wait_until_there(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_fails_or_is_interrupted_while_items_are_passed_over_keeps_the_place(
    open_notebook: OpenNotebook,
) -> None:
    cell = "N = 30\nseen = []\nfor i in respawner.resume(slow(N), name='it'):\n    seen.append(i); time.sleep(0.03)"
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(
        "import respawner, time, os\ndef slow(n):\n    for i in range(n):\n"
        "        if os.path.exists('slow'): open('begun', 'w').close(); time.sleep(600)\n        yield i"
    )
    stop_at(notebook, cell)
    ran = notebook.run(cell.replace("N = 30", "N = 3"))
    assert "and now there are only 3" in (ran.error or "")
    assert "goes on with item" not in ran.text
    assert "the variables are again those to go on from" in ran.text
    (notebook.folder / "slow").touch()
    request = execute_with_id(notebook, cell)
    wait_until_there(notebook.folder / "begun")
    notebook.manager.interrupt_kernel()
    told = output_of(notebook, request)
    assert (told.error or "").startswith("KeyboardInterrupt")
    assert "goes on with item" not in told.text
    (notebook.folder / "slow").unlink()
    assert "goes on with item" in notebook.run(cell).text
    assert notebook.value("seen == list(range(30))") == "True"


def test_an_interrupt_while_a_run_is_undone_comes_too_late_to_tear_the_state(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(
        "import respawner, time, os\nclass Model:\n    k = 0\n"
        "    def __setstate__(self, state):\n        self.__dict__.update(state)\n"
        "        if os.path.exists('slow'):\n            open('undoing', 'w').close()\n"
        "            until = time.time() + 3\n            while time.time() < until: pass"
    )
    cell = (
        "model = Model()\nif os.path.exists('slow'): open('begun', 'w').close(); time.sleep(60)\n"
        "for x in respawner.resume(range(30)):\n    model.k += 1; time.sleep(0.03)"
    )
    stop_at(notebook, cell)
    notebook.run("pass")
    (notebook.folder / "slow").touch()
    request = execute_with_id(notebook, cell)
    wait_until_there(notebook.folder / "begun")
    notebook.manager.interrupt_kernel()
    wait_until_there(notebook.folder / "undoing")
    notebook.manager.interrupt_kernel()
    told = output_of(notebook, request)
    assert "the variables are again those to go on from" in told.text
    assert "Error in callback" not in told.text
    (notebook.folder / "slow").unlink()
    assert int(notebook.value("model.k")) >= 5
    assert "goes on with item" in notebook.run(cell).text
    assert notebook.value("model.k") == "30"


def test_a_loop_of_the_same_name_in_another_cell_is_another_loop(open_notebook: OpenNotebook) -> None:
    """Where the frontend tells the cells' ids. The place is kept meanwhile, whether the other cell is saved inside or not."""
    other = "pre = []\nfor epoch in respawner.resume(range(12), name='epochs'):\n    pre.append(epoch); time.sleep(0.03)"
    cell = "seen = []\nfor epoch in respawner.resume(range(30), name='epochs'):\n    seen.append(epoch); time.sleep(0.03)"
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner, time")
    stop_at(notebook, cell, cell_id="b")
    told = output_of(notebook, execute_with_id(notebook, other, "a"))
    assert "goes on with item" not in told.text
    assert notebook.value("pre == list(range(12))") == "True"
    found = re.search(r"`seen = \[\]` has not gone on yet; .* `%restore (\S+)` brings back where", told.text)
    assert found, told.text
    assert found[1] in notebook.timeline.pins()
    told = output_of(notebook, execute_with_id(notebook, "# mended\n" + cell, "b"))
    assert "loop 'epochs' goes on with item" in told.text
    assert notebook.value("seen == list(range(30)) and pre == list(range(12))") == "True"


def test_what_cannot_be_made_of_the_state_any_more_is_refused_and_what_never_could_is_told(
    open_notebook: OpenNotebook,
) -> None:
    cell = (
        "opt = Opt(); items = (i for i in range(9)); next(items)\n"
        "for x in respawner.resume(range(30)):\n    opt.k += 1; time.sleep(0.03)"
    )
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(
        "import respawner, time, os\nclass Opt:\n    k = 0\n    def __setstate__(self, state):\n"
        "        if os.path.exists('full'): raise RuntimeError('out of memory')\n        self.__dict__.update(state)"
    )
    stop_at(notebook, cell)
    notebook.run("between = 1")
    (notebook.folder / "full").touch()
    ran = notebook.run(cell)
    assert re.match(r"ResumeError: .* cannot be made now \(opt .*out of memory", ran.error or ""), ran.error
    assert "the variables are as this run has left them" in ran.text
    found = re.search(r"`%restore (\S+)` brings back the last safe point of this cell", ran.text)
    assert found, ran.text
    (notebook.folder / "full").unlink()
    assert notebook.run(f"%restore {found[1]}").error is None
    ran = notebook.run(cell)
    assert "goes on with item" in ran.text
    assert "could not be saved or restored, and so as the cell has made it: items" in ran.text
    assert notebook.value("opt.k, between") == "(30, 1)"


NEVER_IN_TIME = """
from respawner.startup import active_engine
recorder = active_engine().recorder
wait = recorder._saver.wait
recorder._saver.wait = lambda timeout: timeout is None and wait(None)
"""


def test_what_cells_have_changed_is_waited_for_and_where_it_cannot_be_saved_the_loop_refuses(
    open_notebook: OpenNotebook,
) -> None:
    cell = "seen = []\nfor x in respawner.resume(range(30)):\n    seen.append(lr); time.sleep(0.03)"
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner, time\nlr = 1")
    stop_at(notebook, cell)
    notebook.run(NEVER_IN_TIME)
    notebook.run("recorder._saver.wait = lambda timeout: False; lr = 2")
    ran = notebook.run(cell)
    assert "the state before this cell could not be saved" in (ran.error or "")
    found = re.search(r"`%restore (\S+)` brings back the last safe point of this cell", ran.text)
    assert found, ran.text
    notebook.run("recorder._saver.wait = wait")
    assert notebook.run(f"%restore {found[1]}").error is None
    notebook.run(NEVER_IN_TIME)
    notebook.run("lr = 3")
    assert "goes on with item" in notebook.run(cell).text
    assert notebook.value("lr, sorted(set(seen)), len(seen)") == "(3, [1, 3], 30)"


def test_a_plain_loop_around_is_told_and_start_over_begins_anew(open_notebook: OpenNotebook) -> None:
    cell = (
        "import respawner, time\nfor epoch in range(3):\n"
        "    for i in respawner.resume(range(8)):\n        last = epoch, i\n        time.sleep(0.15)"
    )
    notebook = open_notebook(**AT_EVERY).start()
    step_by_step(notebook)
    notebook.client.execute(cell)
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["variables"].get("epoch") == 1)
    notebook.kill_at_once()
    notebook.start()
    error = notebook.run(cell).error or ""
    assert "stopped where epoch was 1, and here it is 0" in error
    assert "for epoch in respawner.resume" in error
    assert notebook.run("respawner.start_over()").error is None
    ran = notebook.run(cell)
    assert (ran.error, ran.text) == (None, "")
    assert notebook.value("last") == "(2, 7)"


def test_an_interrupted_loop_goes_on_in_the_same_kernel_after_restore(open_notebook: OpenNotebook) -> None:
    cell = "import time\nfor i in respawner.resume(range(60)):\n    seen.append(i)\n    time.sleep(0.02)"
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner; seen = []")
    step_by_step(notebook)
    request = notebook.client.execute(cell, stop_on_error=False)  # else what is sent next is aborted
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 5)
    notebook.manager.interrupt_kernel()
    told = Ran()
    while told.error is None or "%restore" not in told.text:
        message = notebook.client.get_iopub_msg(timeout=PATIENCE_SECONDS)
        if message["parent_header"].get("msg_id") == request:
            told.take(message)
    [snapshot] = re.findall(
        r"`%restore (\S+)` brings back the last safe point of this cell, before item", told.text
    )
    assert notebook.run(f"%restore {snapshot}").error is None
    run_freely(notebook)
    ran = notebook.run(cell)
    assert "goes on with item" in ran.text
    assert notebook.value("seen == list(range(60))") == "True"


def test_code_between_loops_gets_what_the_loop_before_had_left(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(
        """
import respawner, time
class Kept: pass
def train():
    history = []
    for epoch in respawner.resume(range(3), name="epochs"):
        total = n = 0
        losses = []
        for x in respawner.resume(range(4)):
            total += x; n += 1; losses.append(x + epoch); made = Kept()
        mean = total / n, sum(losses) / len(losses)
        told.append(mean)
        kept = globals().get('strict') and made
        for x in respawner.resume(range(12), name="check"):
            time.sleep(0.03)
        history.append(mean)
    return history
"""
    )
    cell = "told = []\nhistory = train()"
    step_by_step(notebook)
    notebook.client.execute(cell)
    wait_for_safepoint(
        notebook,
        lambda f: (
            [(x["name"], x["iteration"] > 2) for x in f.cell["safepoint"]["loops"]][1:] == [("check", True)]
        ),
    )
    notebook.kill_at_once()
    ran = notebook.start().run("strict = True")
    ran = notebook.run(cell)
    assert "had ended and is passed over; until a loop goes on, what it left in made is not there" in ran.text
    assert (ran.error or "").startswith("UnboundLocalError")
    notebook.run("strict = False")
    assert notebook.run(cell).error is None
    assert notebook.value("history == told == [(1.5, 1.5 + epoch) for epoch in range(3)]") == "True"


LOOPS = """
import itertools, respawner
losses, total, older = [], 0, iter('ab')
def train(*given):
    for x in respawner.resume('ab'):
        pass
    return 1
def items():
    for x in respawner.resume('ab'):
        yield x
"""


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (
            "for epoch in respawner.resume(range(2)):\n    losses.append(train(epoch))",
            "`losses.append` before it calls `train(epoch)`.*Write `value = train(epoch)` and then `losses.append(value)`",
        ),
        ("total += train()", "takes `total` before.* then `total += value`"),
        ("if total < train():\n    pass", "takes `total`.*then `if total < value:`"),
        ("print(train(), train())", "takes `train()` before it calls `train()`"),
        ("for a, b in [([1], [2])]:\n    train(a)", "`for a, b in .*resume([([1], [2])]):`"),
        ("rates = [train(rate) for rate in (1, 2)]", "is a comprehension around a loop that goes on"),
        ("same = [x for x in respawner.resume('ab')]", "is a comprehension around"),
        ("total = sum(len(x) for x in respawner.resume('ab'))", "is a comprehension around"),
        ("same = list(respawner.resume('ab'))", "`list(respawner.resume('ab'))` in line 1 holds what"),
        ("same = list(map(train, 'ab'))", "Write a `for` loop that appends"),
        (
            "for i, x in enumerate(respawner.resume('ab')): pass",
            "count by `respawner.resume(…, counted=True)`",
        ),
        ("for x in itertools.islice(respawner.resume('ab'), 1): pass", "resume(itertools.islice(…))"),
        ("from tqdm import tqdm\nfor i, x in enumerate(tqdm(respawner.resume('ab'))): pass", "begin at 0"),
        ("for x in respawner.resume(older): pass", "older is an iterator ("),
        ("for i, x in enumerate(items()): pass", "`enumerate(items())` would begin at 0"),
    ],
)
def test_what_could_not_go_on_exactly_is_refused_when_its_loop_begins_first(
    shared: Notebook, cell: str, told: str
) -> None:
    pattern = ".*".join(map(re.escape, told.split(".*")))
    assert re.search(pattern, shared.run(cell).error or ""), shared.run(cell).error


@pytest.mark.parametrize(
    "cell",
    [
        "x = train()",
        "own = iter('ab')\nfor x in respawner.resume(own): pass",
        "x, y = train(), 1",
        "print(float(train()))",
        "assert train() < 2",
        "def f():\n    return train()\nf()",
        "async def f():\n    train()\nx = await f()",
        "for x in items(): total += 1",
        "for x in (y for y in respawner.resume('ab')): total += 1",
        "for epoch in range(2):\n    train()",
        "for a, b in respawner.resume([([1], [2])]):\n    for y in respawner.resume(a):\n        train(b)",
        "for i, x in respawner.resume('ab', counted=True):\n    print(i, x)",
        "while total < 9:\n    total += 1\n    train()",
    ],
)
def test_what_can_go_on_is_not_refused(shared: Notebook, cell: str) -> None:
    assert shared.run(cell).error is None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel for cells that leave nothing behind."""
    notebook = Notebook(tmp_path_factory.mktemp("shared")).start()
    notebook.run(LOOPS)
    yield notebook
    notebook.shut_down()


# Code that was edited -----------------------------------------------------------------------------------------

TRAIN = """
def train(epochs, lr=0.1):
    history = []
    factor = 2
    for warm in respawner.resume(range(2)):
        history.append('warm')
    for epoch in respawner.resume(range(epochs)):
        for i in respawner.resume(range(4)):
            history.append((epoch, i, lr, factor))
            time.sleep(0.03)
    return history
"""


def stop_in_train(open_notebook: OpenNotebook) -> Notebook:
    """A kernel after the one that died in ``result = train(4)``, in the second epoch."""
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner, time")
    notebook.run(TRAIN)
    step_by_step(notebook)
    notebook.client.execute("result = train(4)")
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["variables"].get("train: epoch") == 1)
    notebook.kill_at_once()
    return notebook.start()


def test_a_run_goes_on_in_a_function_that_was_edited(open_notebook: OpenNotebook) -> None:
    """Lines have moved, a plain variable's statement and the order's code are others; the state is the old one."""
    notebook = stop_in_train(open_notebook)
    edited = TRAIN.replace("history = []", "history = []\n    added = [1]\n    # a comment")
    edited = (
        edited.replace("factor = 2", "factor = 3")
        .replace("lr=0.1", "lr=0.2")
        .replace("time.sleep", "time.sleep")
    )
    notebook.run(edited.replace("history.append((epoch", "history.append(('new', epoch"))
    ran = notebook.run("result = train(4)")
    assert ran.error is None, ran.error
    assert "goes on with item" in ran.text
    assert (
        "train(): was edited: its new code runs; as edited: factor, lr; new, and so as its code has made it: added"
        in ran.text
    )
    assert notebook.value("result[:2]") == "['warm', 'warm']"
    assert (
        notebook.value("[x[-4:-2] for x in result[2:]] == [(e, i) for e in range(4) for i in range(4)]")
        == "True"
    )
    assert notebook.value("{x[-2:] for x in result if x[0] == 'new'}") == "{(0.2, 3)}"
    assert notebook.value("{x[-2:] for x in result[2:] if x[0] != 'new'}") == "{(0.1, 2)}"


def test_a_loop_that_edited_code_has_made_new_is_told_and_saved(open_notebook: OpenNotebook) -> None:
    notebook = stop_in_train(open_notebook)
    notebook.run(
        TRAIN.replace(
            "    for warm in",
            "    for z in respawner.resume(range(30)):\n        time.sleep(0.03)\n    for warm in",
        )
    )
    notebook.settle()  # else its first safe points are passed over
    ran = notebook.run("result = train(4)")
    assert (
        "`for z in respawner.resume(range(30))` begins anew: it is none of the loops that there were"
        in ran.text
    )
    found = re.search(
        r"this run is saved now; `%restore (\S+)` brings back where the last one stopped", ran.text
    )
    assert found, ran.text
    assert found[1] in notebook.timeline.pins()
    assert "goes on with item" in ran.text, "where the old loop comes, it goes on all the same"
    assert notebook.value("len(result)") == "18"


def test_a_cell_whose_loop_is_gone_is_saved_and_says_that_it_did_not_go_on(
    open_notebook: OpenNotebook,
) -> None:
    notebook = stop_in_train(open_notebook)
    notebook.run(
        "import torch\nfrom respawner.startup import active_engine\n"
        "def train(epochs):\n    w = torch.nn.Parameter(torch.ones(2)); o = torch.optim.SGD([w], lr=0.1)\n"
        "    while active_engine().safepoints._written < 2:\n        w.sum().backward(); o.step(); time.sleep(0.02)"
    )
    before = notebook.manifests()[0].sequence
    assert notebook.value("respawner.stopped()['functions']['train']['epochs']") == "4"
    ran = notebook.run("result = train(4)")
    assert "this run is saved now" in ran.text
    assert notebook.value("respawner.stopped()") == "None", "and so its variables are let go of"
    assert notebook.settle()["durable"]
    newest = notebook.manifests()[0]
    assert newest.cell["safepoints"] > 1
    assert newest.sequence > before + 1


def test_an_inner_loop_that_does_not_come_is_refused_before_the_outer_goes_on_without_it(
    open_notebook: OpenNotebook,
) -> None:
    notebook = stop_in_train(open_notebook)
    notebook.run(TRAIN.replace("for i in respawner.resume(range(4))", "for i in range(4)"))
    ran = notebook.run("result = train(4)")
    assert "has gone on with item 2, and `for i in respawner.resume(range(4))` inside it" in (ran.error or "")
    notebook.run(TRAIN)
    assert "goes on with item" in notebook.run("result = train(4)").text
    assert notebook.value("len(result)") == "18"


def test_what_was_edited_in_the_cell_wins_over_the_state(open_notebook: OpenNotebook) -> None:
    cell = (
        "import respawner, time\nlr, size = 1, 2\nseen = []\ndef scale(x):\n    return x\n"
        "for i in respawner.resume(range(30), name='it'):\n    seen.append((i, scale(lr), size))\n    size += 1\n    time.sleep(0.03)"
    )
    notebook = open_notebook(**AT_EVERY).start()
    step_by_step(notebook)
    notebook.client.execute(cell)
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 3)
    notebook.kill_at_once()
    notebook.start()
    edited = (
        cell.replace("lr, size = 1, 2", "lr = 7\nsize = 2")
        .replace("return x", "return -x")
        .replace("range(30)", "range(33)")
    )
    ran = notebook.run(edited.replace("lr = 7\nsize = 2", "lr = 7"))
    assert "loop 'it' goes on with item" in ran.text
    assert "as edited: lr, scale" in ran.text
    assert notebook.value("[(i, size) for i, _, size in seen] == [(i, i + 2) for i in range(33)]") == "True"
    assert notebook.value("sorted({x for _, x, _ in seen})") == "[-7, 1]"


def test_an_edited_cell_whose_loops_have_no_name_says_that_it_begins_anew(
    open_notebook: OpenNotebook,
) -> None:
    """Jupyter's frontends tell the cell's id, by which it is known as the same one."""
    cell = "import respawner, time\nclass Model: pass\nmodel = Model()\nfor i in respawner.resume(range(30)):\n    time.sleep(0.03)"
    notebook = open_notebook(**AT_EVERY).start()
    step_by_step(notebook)
    execute_with_id(notebook, cell)
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][0]["iteration"] > 3)
    notebook.kill_at_once()
    notebook.start()
    told = output_of(notebook, execute_with_id(notebook, cell + "\nend = 1"))
    assert "begins anew, because the cell was edited since it stopped before item" in told.text
    assert "respawner.resume(…, name='epochs')" in told.text
    assert "this run is saved now" in told.text
    assert notebook.value("__import__('gc').collect() and respawner.stopped()") == "None"
    assert notebook.value("sum(type(x) is Model for x in __import__('gc').get_objects())") == "1"


def execute_with_id(notebook: Notebook, code: str, cell_id: str = "the-cell") -> str:
    """As JupyterLab sends it."""
    session = notebook.client.session
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    message = session.msg("execute_request", content, metadata={"cellId": cell_id})
    notebook.client.shell_channel.send(message)
    return str(message["header"]["msg_id"])


GOES_ON = {
    "a mutable argument beside an edited one": (
        "def train(history, epochs):\n    for e in respawner.resume(range(epochs), name='e'):\n        history.append(e); time.sleep(0.03)",
        "history = []\ntrain(history, epochs=20)",
        ("20", "22"),
        "history == list(range(22))",
    ),
    "an edited container that the loop fills": (
        "",
        "history = [-1]\nfor e in respawner.resume(range(20), name='e'):\n    history.append(e); time.sleep(0.03)",
        ("history = [-1]", "history, val = [-1], []"),
        "history == list(range(-1, 20))",
    ),
    "an edited dictionary of options": (
        "def train(options):\n    for e in respawner.resume(range(20), name='e'):\n        last = options['lr']; time.sleep(0.03)\n    return last",
        "options = {'lr': 1}\nlast = train(options)",
        ("1", "2"),
        "last == 2",
    ),
    "a range of a variable that the loop changes": (
        "queue, done = list(range(20)), []",
        "for i in respawner.resume(range(len(queue))):\n    done.append(queue.pop(0)); time.sleep(0.03)",
        ("", ""),
        "(done, queue) == (list(range(20)), [])",
    ),
    "a range of a variable that another cell changed": (
        "n, done = 20, []",
        "for i in respawner.resume(range(n)):\n    done.append(i); time.sleep(0.03)",
        ("", ""),
        "done == list(range(25))",
    ),
    "a set of texts": (
        "names, seen = {f'name {i}' for i in range(20)}, []",
        "for x in respawner.resume(names):\n    seen.append(x); time.sleep(0.03)",
        ("", ""),
        "(len(seen), set(seen)) == (20, names)",
    ),
    "persistent workers": (
        "import torch\nclass D(torch.utils.data.Dataset):\n    def __len__(self): return 12\n    def __getitem__(self, i): return i",
        "loader = torch.utils.data.DataLoader(D(), shuffle=True, num_workers=1, persistent_workers=True)\nseen = []\nfor e in respawner.resume(range(2)):\n    for x in respawner.resume(loader):\n        seen.append((e, int(x))); time.sleep(0.05)",
        ("", ""),
        "sorted(seen) == [(e, i) for e in range(2) for i in range(12)]",
    ),
}


@pytest.mark.parametrize("case", list(GOES_ON))
def test_no_item_is_lost_or_done_twice_after_a_kill(case: str, open_notebook: OpenNotebook) -> None:
    before, cell, (old, new), wanted = GOES_ON[case]
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run("import respawner, time\n" + before)
    step_by_step(notebook)
    notebook.client.execute(cell)
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["loops"][-1]["iteration"] > 3)
    notebook.kill_at_once()
    notebook.start().run("n = 25")
    ran = notebook.run(cell.replace(old, new) if old else cell)
    assert ran.error is None, ran.error
    assert "goes on with item" in ran.text
    assert notebook.value(wanted) == "True", ran.text
    if "range of" in case:
        assert "when it stopped range(0, 20)" in ran.text


def output_of(notebook: Notebook, request: str) -> Ran:
    """Of a cell that was sent before."""
    told = Ran()
    while not any(m["content"].get("execution_state") == "idle" for m in told.messages):
        message = notebook.client.get_iopub_msg(timeout=PATIENCE_SECONDS)
        if message["parent_header"].get("msg_id") == request:
            told.take(message)
    return told


# Positions ---------------------------------------------------------------------------------------------------


class Drawn(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> float:
        return index + torch.rand(()).item()


def dataloaders() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    return {
        "shuffled": torch.utils.data.DataLoader(Drawn(), batch_size=3, shuffle=True),
        "own generator": torch.utils.data.DataLoader(
            Drawn(), batch_size=3, shuffle=True, generator=generator
        ),
        "enumerated": enumerate(torch.utils.data.DataLoader(Drawn(), batch_size=3, shuffle=True)),
        "workers": torch.utils.data.DataLoader(Drawn(), batch_size=3, shuffle=True, num_workers=2),
        "zipped": Zipped(torch.utils.data.DataLoader(Drawn(), shuffle=True, num_workers=1), range(10)),
        "range": range(3, 20, 5),
        "list": ["a", "b", "c", "d"],
    }


@pytest.mark.parametrize("kind", list(dataloaders()))
@pytest.mark.parametrize("count", [0, 2, 4])
def test_what_comes_next_is_the_same(kind: str, count: int) -> None:
    torch.manual_seed(1)
    iterable = dataloaders()[kind]
    start = start_of(iterable)
    iterator = iter(iterable)
    for _ in range(count):
        next(iterator)
    state, own = torch.get_rng_state(), start_of(iterable)["generators"]
    wanted = [str(item) for item in iterator]
    torch.manual_seed(99)
    again = dataloaders()[kind]
    generator = getattr(again, "generator", None)
    if generator is not None:
        generator.set_state(own[0])
    iterator = at_position(again, count, start)
    torch.set_rng_state(state)
    assert [str(item) for item in iterator] == wanted


def test_the_order_of_later_epochs_of_persistent_workers_comes_again() -> None:
    def loader() -> Any:
        return torch.utils.data.DataLoader(
            range(10), batch_size=3, shuffle=True, num_workers=1, persistent_workers=True
        )

    torch.manual_seed(1)
    first = loader()
    list(first)
    start = start_of(first)
    wanted = [str(item) for item in first][2:]
    torch.manual_seed(99)
    assert [str(item) for item in at_position(loader(), 2, start)] == wanted


@pytest.mark.parametrize(
    ("options", "refused"),
    [({"num_workers": 1}, True), ({"generator": torch.Generator()}, True), ({}, False)],
    ids=["workers", "own generator", "neither"],
)
def test_a_loader_that_has_drawn_its_order_before_the_loop_is_refused(
    options: dict[str, Any], refused: bool
) -> None:
    def loader() -> Any:
        return torch.utils.data.DataLoader(Drawn(), shuffle=True, **options)

    for made, told in (
        (enumerate(loader()), "counted=True"),
        (zip(loader(), range(3), strict=False), "yield from zip"),
    ):
        if refused:
            with pytest.raises(ResumeError, match=told):
                refuse_begun_loaders(made)
        else:
            refuse_begun_loaders(made)


def test_fewer_items_than_were_done_are_told() -> None:
    with pytest.raises(ResumeError, match="stopped after 5 items, and now there are only 3"):
        at_position([1, 2, 3], 5, {"random": {}, "generators": []})


def test_position_is_in_the_manifest(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    step_by_step(notebook)
    request = notebook.client.execute(
        "import respawner\nfor i in respawner.resume(range(4), name='it'): pass"
    )
    inside = wait_for_safepoint(notebook)
    assert inside.state == "running"
    [place] = inside.cell["safepoint"]["loops"]
    assert (place["name"], place["iteration"]) == ("it", 0)
    for _ in range(5):  # at the end of the items, too
        wait_until_there(notebook.folder / "held")
        one_step(notebook)
    output_of(notebook, request)
    assert notebook.settle()["durable"]
    assert notebook.manifests()[0].cell["safepoints"] == 5
