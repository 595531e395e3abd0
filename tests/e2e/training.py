"""The training notebook of the tests: a small CNN on scikit-learn's digits, the way people write it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import nbformat

SETUP = """\
import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.manual_seed(0)
digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16,
    torch.tensor(digits.target),
    test_size=0.25,
    random_state=0,
)


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


model = SmallCNN()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.7)
loss_history, epoch = [], 0"""

TRAIN = """\
def train_epochs(count):
    global epoch
    for _ in range(count):
        for batch in torch.randperm(len(X_train)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X_train[batch]), y_train[batch])
            loss.backward()
            optimizer.step()
            loss_history.append(loss.item())
        scheduler.step()
        epoch += 1


train_epochs(4)
print(f"epoch {epoch}, loss {loss_history[-1]:.4f}, {len(loss_history)} steps")"""

MORE = """\
train_epochs(4)
accuracy = (model(X_test).argmax(1) == y_test).float().mean().item()
print(f"epoch {epoch}, loss {loss_history[-1]:.4f}, {len(loss_history)} steps, accuracy {accuracy:.3f}")"""

PLOT = """\
import matplotlib.pyplot as plt

plt.figure(figsize=(7, 2.6))
plt.plot(loss_history)
plt.axvline(len(loss_history) // 2, color="crimson", linestyle="--", label="kernel killed here")
plt.xlabel("step"); plt.ylabel("loss"); plt.legend(); plt.show()"""

LONG_CELL = """\
%%resumable
import time

torch.manual_seed(1)
model = SmallCNN()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.7)
loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(X_train, y_train), batch_size=64, shuffle=True
)
loss_history = []
for epoch in range(4):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss_history.append(loss.item())
        with open("steps.txt", "a") as steps:
            print(len(loss_history), loss_history[-1].hex(), file=steps)
        time.sleep(0.5)
    scheduler.step()
print(f"epoch {epoch + 1}, loss {loss_history[-1]:.4f}, {len(loss_history)} steps")"""
"""Training in one cell, which is killed in its middle. Tells every step in a file."""

CURVE = """\
import matplotlib.pyplot as plt

told = [line.split() for line in open("steps.txt")]
plt.figure(figsize=(7, 2.6))
plt.plot(range(1, len(loss_history) + 1), loss_history, label="loss_history")
plt.plot([int(n) for n, _ in told], [float.fromhex(loss) for _, loss in told], "x", ms=4, label="as each step told it")
plt.axvline(KILLED_AT, color="crimson", linestyle="--", label="kernel killed here")
plt.xlabel("step"); plt.ylabel("loss"); plt.legend(); plt.show()"""

CELLS = (SETUP, TRAIN, MORE, PLOT)

FINGERPRINT = """\
{
    "epoch": epoch,
    "losses": loss_history,
    "weights": float(sum(p.double().sum() for p in model.parameters())),
    "moments": float(sum(s["exp_avg"].double().sum() for s in optimizer.state.values())),
    "lr": scheduler.get_last_lr(),
    "rng": int(torch.get_rng_state().sum()),
    "trains_the_model": optimizer.param_groups[0]["params"][0] is next(model.parameters()),
    "is_its_class": type(model) is SmallCNN,
}"""


def notebook(sources: Sequence[str] = CELLS, kernel: str = "python3") -> str:
    """The notebook as a file's text."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernelspec = {"name": kernel, "display_name": "Python 3", "language": "python"}
    document = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec})
    return json.dumps(document)
