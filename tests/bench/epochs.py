"""What a store takes after 100 epochs in which only a small head trains on a frozen body."""

from __future__ import annotations

import sys
from pathlib import Path

from . import meters
from .kernel import Kernel

EPOCHS = 100
BODY_WIDTH = 5000
CLASSES = 20


def epochs_store_vs_ideal(folder: Path, scale: float) -> tuple[float, dict[str, int]]:
    """Disk taken, as a multiple of one full state and 100 heads; and the bytes that it is made of.

    A head is everything that an epoch changes: its parameters, their gradients, Adam's two moments.
    """
    kernel = Kernel(folder / "epochs", sys.executable, saving=True)
    width = max(64, int(BODY_WIDTH * scale**0.5))
    try:
        kernel.start()
        kernel.run(_setup(width))
        for epoch in range(EPOCHS):
            kernel.run(f"epoch = {epoch}; train()")
            kernel.flush()
        full, head = kernel.value("(full_bytes(), head_bytes())")
    finally:
        kernel.stop()
    taken = meters.disk_usage(kernel.store)
    ideal = full + EPOCHS * head
    return round(taken / ideal, 3), {"store": taken, "full": full, "head": head}


def _setup(width: int) -> str:
    return f"""\
import torch
torch.manual_seed(0)
body = torch.nn.Linear({width}, {width}).requires_grad_(False)
head = torch.nn.Linear({width}, {CLASSES})
optimizer = torch.optim.Adam(head.parameters())
inputs, labels = torch.randn(16, {width}), torch.randint({CLASSES}, (16,))

def train():
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(head(body(inputs)), labels)
    loss.backward()
    optimizer.step()

def size(parameters):
    return sum(p.numel() * p.element_size() for p in parameters)

def head_bytes():
    return 4 * size(head.parameters())

def full_bytes():
    return size(body.parameters()) + size([inputs, labels]) + head_bytes()"""
