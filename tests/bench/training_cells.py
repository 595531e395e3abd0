"""What `tests.bench.training` trains, as the cells of a notebook: three models, and one loop that tells its times."""

from __future__ import annotations

import math
from dataclasses import dataclass

FULL_MB = 1000
"""What `torch.save` writes of the large model and its optimizer; the other two shrink with it."""
GPT_WIDTH, GPT_LAYERS, GPT_WORDS = 512, 7, 16000
"""30.4 million parameters."""
PLAIN_WIDTH = 512
STEP_BYTES = 3 * 4
"""A parameter and Adam's two moments. While it trains there is a gradient as well, which `torch.save` drops."""

TRAIN = """\
import os, time

def wait_for_device():
    if device != "cpu":
        torch.accelerator.synchronize()

def enter_step(optimizer, args, kwargs):
    global entered
    entered = time.perf_counter()

def log_step(log):
    def hook(optimizer, args, kwargs):
        global hooked
        wait_for_device()
        hooked = time.perf_counter()
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{steps_done()} {time.time()} {at_most_lost()}\\n")
    return hook

def steps_done():
    return int(optimizer.state[next(iter(model.parameters()))]["step"])

def at_most_lost():
    import respawner
    return respawner.status().get("at_most_lost_seconds")

def save_and_sync(path):
    started = time.perf_counter()
    with open(path, "wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started

def train(seconds, saves=0, path=None, log=None):
    \"\"\"For so long; with so many calls of torch.save spread over it, whose time does not count.\"\"\"
    handles = [optimizer.register_step_pre_hook(enter_step), optimizer.register_step_post_hook(log_step(log))]
    stalls, saved, steps = [], [], 0
    wall, cpu, main = time.perf_counter(), time.process_time(), time.thread_time()
    while time.perf_counter() - wall - sum(saved) < seconds:
        optimizer.zero_grad()
        loss = loss_of_batch()
        loss.backward()
        called = time.perf_counter()
        optimizer.step()
        stalls.append(time.perf_counter() - hooked)
        if steps:
            stalls[-2] += entered - called
        steps += 1
        if len(saved) < saves and (time.perf_counter() - wall - sum(saved)) > seconds * (len(saved) + 1) / (saves + 1):
            saved.append(save_and_sync(path))
    for handle in handles:
        handle.remove()
    return {
        "steps": steps,
        "wall": time.perf_counter() - wall - sum(saved),
        "cpu": time.process_time() - cpu,
        "main": time.thread_time() - main,
        "stalls": stalls,
        "saved": saved,
    }
"""
"""``hooked`` is when the optimizer's own hook ran, and the device had done what it was asked for: what follows until `step`
returns is the global hooks, ours. What the next call of `step` waits for us before ``entered`` is added: it is the same
snapshot's. A kernel that restores has the hooks of the one
that was killed too: they write to a file by its name, for a number of an open one would be another's."""


@dataclass(frozen=True)
class Workload:
    """``setup`` makes ``model``, ``optimizer`` and ``loss_of_batch``."""

    name: str
    setup: str


def workloads(megabytes: float, device: str = "cpu") -> list[Workload]:
    share = megabytes / FULL_MB
    setups = {
        "plain": _plain(_scaled(PLAIN_WIDTH, share)),
        "gpt": _gpt(_scaled(GPT_WIDTH, share), max(1, math.ceil(GPT_LAYERS * share**0.5))),
        "large": _large(math.isqrt(int(megabytes * 1e6) // (2 * STEP_BYTES))),
    }
    on_it = f"import torch\ndevice = {device!r}\n"
    return [Workload(name, on_it + setup + TRAIN) for name, setup in setups.items()]


def _scaled(width: int, share: float) -> int:
    return max(64, int(width * min(1.0, share**0.5)) // 64 * 64)


def _plain(width: int) -> str:
    return f"""\
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear({width}, {width}), torch.nn.ReLU(), torch.nn.Linear({width}, 10)).to(device)
optimizer = torch.optim.Adam(model.parameters())
batches = torch.randn(100, 128, {width}, device=device)

def loss_of_batch():
    return model(batches[torch.randint(100, ())]).square().mean()
"""


def _large(width: int) -> str:
    return f"""\
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear({width}, {width}, bias=False), torch.nn.ReLU(), torch.nn.Linear({width}, {width}, bias=False)
).to(device)
optimizer = torch.optim.Adam(model.parameters())

def loss_of_batch():
    return model(torch.randn(16, {width}, device=device)).square().mean()
"""


def _gpt(width: int, layers: int) -> str:
    return f"""\
torch.manual_seed(0)

class GPT(torch.nn.Module):
    def __init__(self, width, layers, words, length):
        super().__init__()
        self.words = torch.nn.Embedding(words, width)
        self.places = torch.nn.Embedding(length, width)
        layer = torch.nn.TransformerEncoderLayer(width, 8, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, text):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(text.shape[1], device=text.device)
        inner = self.body(self.words(text) + self.places.weight[: text.shape[1]], mask, is_causal=True)
        return self.norm(inner) @ self.words.weight.T

model = GPT({width}, {layers}, {GPT_WORDS if width == GPT_WIDTH else 1000}, 64).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
corpus = torch.randint(model.words.num_embeddings, (100_000,), device=device)

def loss_of_batch():
    start = torch.randint(len(corpus) - 65, ())
    text = corpus[start : start + 65]
    return torch.nn.functional.cross_entropy(model(text[None, :-1])[0], text[1:])
"""
