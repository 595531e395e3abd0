"""Kernels that use a GPU: killed in training, out of memory, a sticky error, and what `%gpu` says beside nvidia-smi.

    pytest tests/snapshot/test_kernels_cuda.py

on a host with a GPU and a torch with CUDA. Everywhere else these are skipped.
"""

from __future__ import annotations

import ast
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from respawner.manifest import SAFEPOINT

from tests.snapshot.notebook import PYTHON, Notebook
from tests.snapshot.test_devices import run
from tests.snapshot.test_devices_cuda import REPRODUCIBLE, pytestmark  # noqa: F401  # the same needs
from tests.snapshot.test_resume import KILLS, kill_after, trace_of
from tests.snapshot.test_resume import SETUP as ON_THE_CPU
from tests.snapshot.test_safepoints import AT_EVERY, wait_for_safepoint

OpenNotebook = Callable[..., Notebook]

SETUP = (
    ON_THE_CPU
    + """
torch.use_deterministic_algorithms(True)

def network():
    return nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.Dropout(0.3), nn.ReLU(), nn.Linear(256, 1)).cuda()
"""
)
DRAWN_ON_THE_GPU = """
torch.manual_seed(0)
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for number in respawner.resume(range(LENGTH), name="steps"):
    loss = loss_of(model, torch.randn(32, 64, device="cuda"))
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    tell(number, loss.item())
print(fingerprint(model), torch.rand(1, device="cuda").item())
"""
MIXED_PRECISION = """
def train(length):
    torch.manual_seed(0)
    model = network()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0, growth_interval=5)
    loader = torch.utils.data.DataLoader(torch.randn(48, 64), batch_size=8, shuffle=True, pin_memory=True)
    for epoch in respawner.resume(range(length), name="epochs"):
        for x in respawner.resume(loader, name="batches"):
            with torch.autocast("cuda", dtype=torch.float16):
                loss = loss_of(model, x.cuda(non_blocking=True))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                for mine, other in zip(average.parameters(), model.parameters()):
                    mine.lerp_(other, 0.1)
            tell(epoch, loss.item())
        scheduler.step()
    return model, average, scaler
model, average, scaler = train(LENGTH // 6)
print(fingerprint(model, average), scaler.get_scale())
"""


@pytest.mark.parametrize("cell", [DRAWN_ON_THE_GPU, MIXED_PRECISION], ids=["drawn there", "mixed precision"])
def test_training_killed_at_random_steps_ends_bit_for_bit_as_one_that_was_not(
    cell: str, open_notebook: OpenNotebook, tmp_path: Path
) -> None:
    cell = cell.replace("LENGTH", str(12 * KILLS))
    alone = tmp_path / "undisturbed"
    alone.mkdir()
    done = subprocess.run(
        [PYTHON, "-c", SETUP + cell],
        cwd=alone,
        env={**open_notebook().environment, **REPRODUCIBLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trace = (alone / "trace").read_text().splitlines()
    notebook = open_notebook(**AT_EVERY, **REPRODUCIBLE).start()
    run(notebook, SETUP)
    chance = random.Random(cell)
    for _ in range(KILLS):
        kill_after(notebook, cell, chance.randint(3, 8))
        notebook.start()
    ran = run(notebook, cell)
    assert "goes on with item" in ran.text
    assert done.stdout.splitlines()[-1] in ran.text
    told = trace_of(notebook)
    assert dict.fromkeys(told) == dict.fromkeys(trace), "every step gave the same bits, in the same order"
    assert told.count(trace[0]) == 1


def test_a_training_without_the_wrapper_comes_back_after_a_whole_step(open_notebook: OpenNotebook) -> None:
    """With work queued on the device when the optimizer's step returns."""
    make = (
        "torch.manual_seed(0)\n"
        "model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(8))).cuda()\n"
        "optimizer = torch.optim.Adam(model.parameters())\nx = torch.ones(4096, 2048, device='cuda')\n"
        "def step():\n    optimizer.zero_grad(); model(x).square().mean().backward(); optimizer.step()\n"
    )
    notebook = open_notebook(**AT_EVERY, **REPRODUCIBLE).start()
    run(notebook, SETUP + make)
    notebook.client.execute("for number in range(100000): step()")
    wait_for_safepoint(notebook, lambda found: found.cell["safepoint"]["steps"] > 20)
    notebook.kill_at_once()
    run(notebook.start(), "pass")
    done = ast.literal_eval(notebook.value("int(optimizer.state[model[0].weight]['step'])"))
    assert done > 20
    run(
        notebook,
        f"saved = [p.detach().clone() for p in model.parameters()]\n{make}\nfor _ in range({done}): step()",
    )
    assert notebook.value("all(torch.equal(a, b) for a, b in zip(saved, model.parameters()))") == "True"


def test_a_cell_that_uses_the_memory_up_is_told_and_the_kernel_lives(notebook: Notebook) -> None:
    run(
        notebook,
        "import torch\nmodel = torch.nn.Linear(4096, 4096).cuda()\nkept = torch.ones(2**20, device='cuda')",
    )
    ran = notebook.run(
        "def train():\n    batches = []\n    while True:\n        batches.append(torch.empty(2**31, dtype=torch.uint8, device='cuda'))\n"
        "train()"
    )
    assert (ran.error or "").startswith("OutOfMemoryError: CUDA out of memory")
    assert "Respawner: the device's memory is used up: held by train: batches" in ran.text, ran.text
    assert "model (67" in ran.text
    run(notebook, "more = torch.ones(2**28, device='cuda').sum().item(); del train")
    assert notebook.value("more, kept.sum().item()") == "(268435456.0, 1048576.0)"
    notebook.kill()
    run(notebook.start(), "pass")
    assert notebook.value("str(kept.device), kept.sum().item()") == "('cuda:0', 1048576.0)"


def test_a_sticky_error_is_told_with_the_advice_to_restart(notebook: Notebook) -> None:
    run(notebook, "import torch\nkept = torch.ones(2**20, device='cuda'); small = 1")
    notebook.settle()
    good = notebook.manifests()[0]
    failed = notebook.run("small = 2; torch.ones(3, device='cuda')[torch.tensor([7], device='cuda')].cpu()")
    assert "device-side assert" in (failed.error or ""), failed.error
    notebook.settle()
    told = notebook.run("small = 3")
    assert "cuda:0 has failed and cannot be read any more in this process" in told.text
    assert f"the last good snapshot is {good.id}" in told.text
    notebook.kill_at_once()
    run(notebook.start(), "pass")
    assert notebook.value("small, kept.sum().item()") == "(1, 1048576.0)"


def test_a_cuda_error_in_a_training_cell_brings_the_last_safe_point_back(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(**AT_EVERY).start()
    run(notebook, SETUP)
    notebook.run(
        DRAWN_ON_THE_GPU.replace("LENGTH", "60").replace(
            "    tell(",
            "    torch.ones(3, device='cuda')[torch.tensor([number // 10], device='cuda')]\n    tell(",
        )
    )
    notebook.settle()
    assert any(found.kind == SAFEPOINT for found in notebook.manifests())
    notebook.kill_at_once()
    ran = run(notebook.start(), "print(len(list(model.parameters())), next(model.parameters()).device)")
    assert "6 cuda:0" in ran.text, ran.text


def used_by(pid: int) -> int | None:
    """What nvidia-smi says that the process holds, in MiB; None where it does not hold any."""
    out = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [line.split(", ") for line in out.splitlines()]
    return next((int(used) for own, used in found if int(own) == pid), None)


def test_the_magic_says_what_nvidia_smi_says_and_starts_no_cuda(notebook: Notebook) -> None:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    uuid, name = re.search(r"UUID: (GPU-\S+?)\)", listed), re.search(r"GPU 0: (.*?) \(", listed)
    assert uuid
    assert name
    run(notebook, "import torch")
    for asked in ("%gpu", "%gpu --probe"):
        said = run(notebook, asked).text
        assert "nothing stands in CUDA's way" in said, said
        assert f"{name[1]} ({uuid[1]})" in said, said
        assert notebook.value("torch.cuda.is_initialized()") == "False"
        assert used_by(notebook.pid) is None, "no context was made, and none stays"
    assert "CUDA works: a matrix product was right on" in said
    run(
        notebook,
        "x = torch.ones(1 << 28, device='cuda'); peak = torch.ones(1 << 28, device='cuda'); del peak",
    )
    said = run(notebook, "%gpu").text
    assert "in use by this kernel" in said, said
    assert re.search(
        r"this kernel: 1(\.0)? GiB in tensors now, 2(\.0)? GiB at most, 2(\.0)? GiB reserved", said
    ), said
    said = run(notebook, "%%gpu\ny = x * 2").text
    assert {"1 GiB", "2 GiB"} <= set(re.findall(r"\d+ GiB", said.replace(".0 GiB", " GiB"))), said


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "9"}, "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_hides_the_gpu_is_named(
    open_notebook: OpenNotebook, environment: dict[str, str], expected: str
) -> None:
    notebook = open_notebook(**environment).start()
    said = run(notebook, "import torch\nprint(torch.cuda.is_available())\n%gpu --probe").text
    for part in ("False", "torch cannot use CUDA here", expected, "CUDA says:"):
        assert part in said, said
