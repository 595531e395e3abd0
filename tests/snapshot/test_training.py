"""The case that everything is for: training goes on as if the kernel had not died, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

from tests.snapshot.notebook import Notebook

SETUP = """
import random
import numpy as np
import torch
from torch import nn

torch.manual_seed(1); np.random.seed(2); random.seed(3)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        return x + self.drop(torch.relu(self.norm(self.layer(x))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        return self.head(self.blocks(x))

model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
generator = torch.Generator().manual_seed(4)
history, epoch = [], 0

def train_one_epoch():
    global epoch
    for _ in range(5):
        x = torch.randn(16, 32, generator=generator) + torch.randn(1) + np.random.rand() + random.random()
        loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step()
    epoch += 1
    history.append(loss.item())
"""
FINGERPRINT = (
    "print(epoch, [v.hex() for v in history], sum(p.double().sum().item() for p in model.parameters()).hex())"
)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_training_goes_on_bit_for_bit_after_sigkill(open_notebook: Callable[..., Notebook]) -> None:
    undisturbed = open_notebook("/undisturbed.ipynb").start()
    disturbed = open_notebook("/disturbed.ipynb").start()
    for notebook in (undisturbed, disturbed):
        assert notebook.run(SETUP).error is None
    for step in range(4):
        undisturbed.run("train_one_epoch()")
        ran = disturbed.run("train_one_epoch()")
        assert ran.error is None, ran.text
        if step in (0, 2):
            disturbed.restart_after_kill()
    assert _last_line(disturbed.run(FINGERPRINT).text) == _last_line(undisturbed.run(FINGERPRINT).text)
    identities = disturbed.run(
        "print(type(model) is Net, all(a is b for a, b in zip(optimizer.param_groups[0]['params'], model.parameters())),"
        " scheduler.optimizer is optimizer, model.head.weight.grad is not None, model.head.weight.is_leaf)"
    )
    assert _last_line(identities.text) == "True True True True True"


def test_unchanged_memory_is_not_written_again(open_notebook: Callable[..., Notebook]) -> None:
    notebook = open_notebook().start()
    notebook.run("import torch; big = torch.randn(8_000_000)")
    assert notebook.settle()["durable"]
    before = _pack_bytes(notebook)
    for number in range(3):
        notebook.run(f"x = {number}")
    assert notebook.settle()["durable"]
    assert _pack_bytes(notebook) - before < 200_000
    notebook.run("big[5_000_000] = 0.5")
    assert notebook.settle()["durable"]
    assert 256 * 1024 <= _pack_bytes(notebook) - before < 256 * 1024 + 300_000
    notebook.restart_after_kill()
    notebook.run("y = 1")
    assert notebook.settle()["durable"]
    assert _pack_bytes(notebook) - before < 256 * 1024 + 400_000, "chunks are found again after a restart"
    assert notebook.run("print(big[5_000_000].item(), big.numel())").text == "0.5 8000000\n"


def _pack_bytes(notebook: Notebook) -> int:
    return sum(path.stat().st_size for path in notebook.timeline.packs.iterdir())
