"""`make bench-restore`: from a dead kernel to the first finished cell, beside torch.load of the same state.

Both begin with a cold page cache and with torch imported, in a process of their own for every repetition.
REPETITIONS (5) and TENSORS (60) set the length and the size. docs/benchmarks.md says what the keys mean.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from .kernels import ROOT, Kernel
from .snapshot import STATE, TIMED, TORCH_SAVE, say

OURS = """
import sys, time, json, pathlib, torch
from IPython.core.interactiveshell import InteractiveShell
from respawner.processstate import put_random_state
from respawner.restoring import load_latest, put
from respawner.store.timeline import Timeline
import respawner.pickling.torch_tensors, respawner.pickling.numpy_arrays
shell = InteractiveShell.instance()
shell.run_cell('pass', store_history=True)
started = time.perf_counter()
(folder,) = (pathlib.Path(sys.argv[1]) / 'timelines').iterdir()
loaded = load_latest(shell, Timeline(folder), eager=False)
put(shell, loaded, replace=False, with_history=True)
shell.run_cell({first!r})
first = time.perf_counter() - started
shell.run_cell({touch!r})
print(json.dumps([first, time.perf_counter() - started, shell.user_ns['everything']]))
"""
TORCH = """
import sys, time, json, torch
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell('pass', store_history=True)
shell.push({{'torch': torch}})
started = time.perf_counter()
shell.push(torch.load(sys.argv[1], weights_only=False))
shell.run_cell({first!r})
first = time.perf_counter() - started
shell.run_cell({touch!r})
print(json.dumps([first, time.perf_counter() - started, shell.user_ns['everything']]))
"""
FIRST = "first = float(t7[100]) + float(model[0].weight[0, 0])"
TOUCH = """
everything = 0.0
for name, value in list(globals().items()):
    if isinstance(value, torch.Tensor): everything += float(value.double().sum() if value.numel() < 10 else value.sum())
for parameter in model.parameters(): everything += float(parameter.sum())
for state in optimizer.state.values(): everything += float(state['exp_avg'].sum() + state['exp_avg_sq'].sum())
"""


def main() -> int:
    repetitions = int(os.environ.get("REPETITIONS", "5"))
    tensors = int(os.environ.get("TENSORS", "60"))
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var", prefix="bench-") as folder:
        print(json.dumps(run(Path(folder), repetitions, tensors)))
    return 0


def run(folder: Path, repetitions: int, tensors: int) -> dict[str, float]:
    saved = folder / "state.pt"
    with Kernel("ours", folder / "ours") as kernel:
        kernel.cells([STATE.format(tensors=tensors), "import torch"])
        kernel.cells([TIMED.format(what=TORCH_SAVE.format(path=str(saved)))])
        kernel.flush()
        store = kernel.store
    rows: list[list[float]] = []
    for number in range(repetitions + 1):
        ours = _once(OURS, store, folder)
        theirs = _once(TORCH, saved, folder)
        if ours[2] != theirs[2]:
            raise RuntimeError(f"not the same state: {ours[2]} and {theirs[2]}")
        if number:  # the first one warms up imports
            rows.append([*ours[:2], *theirs[:2]])
            say(f"round {number}: first cell {ours[0]:.4f} s and {theirs[0]:.3f} s (torch.load), "
                f"all touched {ours[1]:.3f} s and {theirs[1]:.3f} s")  # fmt: skip
    return {
        "first_cell_vs_torch_load": round(median(row[2] / row[0] for row in rows), 1),
        "all_touched_vs_torch_load": round(median(row[1] / row[3] for row in rows), 3),
        "first_cell_s": round(median(row[0] for row in rows), 4),
        "torch_load_first_cell_s": round(median(row[2] for row in rows), 3),
        "all_touched_s": round(median(row[1] for row in rows), 3),
        "torch_load_all_touched_s": round(median(row[3] for row in rows), 3),
        "state_mb": round(saved.stat().st_size / 1e6),
        "repetitions": repetitions,
    }


def _once(program: str, what: Path, folder: Path) -> list[float]:
    """One process with a cold page cache."""
    for path in [what] if what.is_file() else what.rglob("*.*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    environment = {**os.environ, "HOME": str(folder), "IPYTHONDIR": str(folder / "ipython")}
    code = program.format(first=FIRST, touch=TOUCH)
    done = subprocess.run(
        [sys.executable, "-c", code, str(what)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
