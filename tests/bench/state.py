"""The state that is saved and restored, as the cells of a notebook: tensors, a model that trains, small things."""

from __future__ import annotations

import math
from dataclasses import dataclass

TENSORS = 40
TENSOR_MB = 25
MODEL_MB = 104
SMALL_VARIABLES = 200
FULL_MB = TENSORS * TENSOR_MB + MODEL_MB
MB = 10**6

NOTHING = "x = 1"
TRIVIAL = "pass"
LOOK = "tensors[0][0].item()"
"""A next cell that names what is being written, so that it waits for a copy; `TRIVIAL` does not."""
ONE_TENSOR = "tensors[7] += 1"
EVERYTHING = """\
for index in range(len(tensors)):
    tensors[index] += 1
train_step()"""

DEFINITIONS = """\
import torch

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = torch.nn.Linear(width, width)
        self.second = torch.nn.Linear(width, width)

    def forward(self, batch):
        return self.second(torch.relu(self.first(batch)))

def train_step():
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
"""

NAMESPACE = (
    "{k: v for k, v in globals().items() if not k.startswith('_') and not isinstance(v, type(__builtins__))"
    " and k not in ('In', 'Out', 'get_ipython', 'exit', 'quit', 'open')}"
)
"""An expression for the user's variables, without modules and what IPython puts there."""


def dump_cell(call: str, path: object) -> str:
    """A cell that saves the namespace and waits for the disk; ``call`` writes ``what`` to ``file``."""
    return f"""\
import os
def _save(what):
    with open({str(path)!r}, "wb") as file:
        {call}
        file.flush()
        os.fsync(file.fileno())
_save({NAMESPACE})"""


@dataclass(frozen=True)
class State:
    """How large: `FULL_MB` is what the benchmarks' claims are about, less is for tests of the benchmarks."""

    megabytes: float

    @property
    def tensor_bytes(self) -> int:
        return int(self.megabytes / FULL_MB * TENSOR_MB * MB) // 4 * 4

    @property
    def setup(self) -> str:
        """A cell that makes it. Parameters, and Adam's two moments for each; no gradients: torch.save drops them."""
        width = math.isqrt(int(self.megabytes / FULL_MB * MODEL_MB * MB) // (3 * 2 * 4))
        return f"""\
{DEFINITIONS}
torch.manual_seed(0)
tensors = [torch.randn({self.tensor_bytes // 4}) for _ in range({TENSORS})]
model = Net({width})
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
batch = torch.randn(8, {width})
train_step()
for number in range({SMALL_VARIABLES}):
    globals()[f"small_{{number}}"] = {{"number": number, "text": "t" * (number % 50), "list": list(range(number))}}"""

    @property
    def size(self) -> str:
        """An expression for the bytes of all tensors."""
        return (
            "sum(t.numel() * t.element_size() for t in [*tensors, *model.parameters(), "
            "*(v for s in optimizer.state.values() for v in s.values())])"
        )


ALL_TENSORS = (
    "[*tensors, *model.parameters(), *(v for s in optimizer.state.values() for v in s.values() if v.dim())]"
)
TOUCH_EACH = f"touched = [(t.view(-1)[0].item(), t.view(-1)[-1].item()) for t in {ALL_TENSORS}]"
"""A first cell as people write it: something of every tensor."""
READ_ALL = f"for tensor in {ALL_TENSORS}: tensor.detach().sum()"
"""The memory is read once, and no more than added up."""
TOUCH_ALL = f"touched = [t.sum().item() for t in {ALL_TENSORS}]"
"""Every byte of every tensor."""
