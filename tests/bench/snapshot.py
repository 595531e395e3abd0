"""`make bench-snapshot`: what saving costs, beside pickling, torch.save, elastic-kernel, kishu and the disk.

All contenders hold the same kind of state (tensors of 25 MB, a model with Adam, small variables) in kernels
of their own, and are measured in turns in one run. What every key means is in docs/benchmarks.md.
REPETITIONS (5) and TENSORS (40) set the length and the size; the state should be 1 GB or more for numbers
that are quoted.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from .kernels import ROOT, Kernel

MB = 1_000_000
STATE = """
import torch, time, os, pickle, cloudpickle
torch.manual_seed(0); torch.set_num_threads(1)
for i in range({tensors}): globals()[f't{{i}}'] = torch.randn(25_000_000 // 4)
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(8)])
optimizer = torch.optim.Adam(model.parameters())
model(torch.randn(4, 1024)).sum().backward(); optimizer.step()
for i in range(200): globals()[f'v{{i}}'] = i
def state():
    return {{k: v for k, v in globals().items() if k in ('model', 'optimizer') or k[:1] in 'tv' and k[1:].isdigit()}}
"""
CHANGE_ALL = """
with torch.no_grad():
    for i in range({tensors}): globals()[f't{{i}}'].add_(1)
    for p in model.parameters(): p.add_(1)
    for s in optimizer.state.values(): s['exp_avg'].add_(1); s['exp_avg_sq'].add_(1)
"""
TIMED = """
import time as _t, os as _o
_w, _c = _t.perf_counter(), _t.process_time()
{what}
_cost = (_t.perf_counter() - _w, _t.process_time() - _c)
"""
TORCH_SAVE = """
with open({path!r}, 'wb') as _f:
    torch.save(state(), _f); _f.flush(); _o.fsync(_f.fileno())
"""
CLOUDPICKLE = """
with open({path!r}, 'wb') as _f:
    cloudpickle.dump(state(), _f, protocol=5); _f.flush(); _o.fsync(_f.fileno())
"""
IDLE_CELLS = 6


def main() -> int:
    repetitions = int(os.environ.get("REPETITIONS", "5"))
    tensors = int(os.environ.get("TENSORS", "40"))
    # On the checkout's own disk: a temporary folder may be memory.
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var", prefix="bench-") as folder:
        result = run(Path(folder), repetitions, tensors)
    print(json.dumps(result))
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(folder: Path, repetitions: int, tensors: int) -> dict[str, Any]:
    """All measurements; the last line's object."""
    state_bytes = tensors * 25 * MB + 3 * 8 * (1024 * 1024 + 1024) * 4 + 8 * (1024 * 1024 + 1024) * 4
    result: dict[str, Any] = {"repetitions": repetitions, "state_mb": round(state_bytes / MB)}
    rows: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        say(f"state of {state_bytes / MB:.0f} MB in four kernels")
        kernels: dict[str, Kernel] = {}
        for kind in ("plain", "ours", "elastic", "kishu"):
            try:
                kernels[kind] = stack.enter_context(Kernel(kind, folder / kind))
                kernels[kind].cells([STATE.format(tensors=tensors)])
                kernels[kind].flush()
            except Exception as error:
                if kind in ("plain", "ours"):
                    raise
                kernels.pop(kind, None)
                result[f"{kind}_error"] = str(error)[:300]
                say(f"{kind} fails: {error}")
        change = CHANGE_ALL.format(tensors=tensors)
        for number in range(repetitions + 1):
            row = _round(folder, kernels, change, state_bytes, number)
            if number:  # the first one warms everybody up
                rows.append(row)
                say(f"round {number}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
        del kernels
    for key in rows[0]:
        result[key] = round(median(row[key] for row in rows if key in row), 4)
    say("one tensor, scattered rows, epochs")
    result |= _one_tensor_and_memory(folder / "one", tensors, state_bytes)
    result["scattered_rows_share"] = round(_scattered_rows(folder / "rows"), 4)
    result["epochs_store_vs_ideal"] = round(_epochs(folder / "epochs"), 4)
    result["idle_cell_vs_elastic_kernel"] = result.get("idle_cell_vs_elastic_kernel")
    return result


def _round(
    folder: Path, kernels: dict[str, Kernel], change: str, state_bytes: int, number: int
) -> dict[str, float]:
    """Everybody once, in turns."""
    row: dict[str, float] = {}
    plain, ours = kernels["plain"], kernels["ours"]
    idle = [f"x = {n + number}" for n in range(IDLE_CELLS)]

    stalls = {}
    for kind, kernel in kernels.items():
        replied = kernel.cells(idle)
        kernel.flush()
        # From the first reply: what a cell costs the one behind it, whether before or after its reply.
        stalls[kind] = (replied[-1] - replied[0]) / (IDLE_CELLS - 1)
    row["idle_stall_s"] = stalls["ours"] - stalls["plain"]
    for peer in ("elastic", "kishu"):
        if peer in stalls:
            row[f"{peer}_idle_stall_s"] = stalls[peer] - stalls["plain"]
    if "elastic" in stalls:
        row["idle_cell_vs_elastic_kernel"] = row["idle_stall_s"] / row["elastic_idle_stall_s"]

    # Cells that read a tensor: what `x = 1` costs where nothing can be said about what a cell touched.
    reading = [f"y = float(t0[{n}])" for n in range(IDLE_CELLS)]
    replied, without = ours.cells(reading), plain.cells(reading)
    ours.flush()
    row["reading_stall_s"] = (replied[-1] - replied[0] - without[-1] + without[0]) / (IDLE_CELLS - 1)

    row["idle_cpu_s"] = _cpu_of_idle_cell(ours) - _cpu_of_idle_cell(plain)
    plain.cells([TIMED.format(what="_n = len(cloudpickle.dumps(state(), protocol=5)); del _n")])
    row["pickle_cpu_s"] = plain.value("_cost")[1]
    row["idle_cell_vs_pickle"] = row["pickle_cpu_s"] / row["idle_cpu_s"]

    saving = {}
    for name, code in (("torch_save", TORCH_SAVE), ("cloudpickle", CLOUDPICKLE)):
        path = folder / f"{name}.out"
        plain.cells([change])
        plain.cells([TIMED.format(what=code.format(path=str(path)))])
        saving[name] = plain.value("_cost")[0]
        path.unlink()
    row["torch_save_s"] = saving["torch_save"]
    row["cloudpickle_s"] = saving["cloudpickle"]

    without = plain.cells([change, "y = 1"])[-1]
    replied = ours.cells([change, "y = 1"])
    row["changed_stall_s"] = replied[-1] - without
    row["changed_stall_vs_torch_save"] = row["changed_stall_s"] / row["torch_save_s"]
    ours.flush()
    if "kishu" in kernels:
        kishu_without = plain.cells([change])[-1]
        row["kishu_changed_stall_s"] = kernels["kishu"].cells([change])[-1] - kishu_without

    size = ours.pack_bytes()
    replied = ours.cells([change])
    started = time.perf_counter()
    while not _is_saved(ours):
        time.sleep(0.005)
    row["durable_s"] = time.perf_counter() - started
    row["raw_write_s"] = _raw_write(folder / "raw.out", ours.pack_bytes() - size)
    row["durable_vs_raw"] = row["durable_s"] / row["raw_write_s"]
    return row


def _is_saved(kernel: Kernel) -> bool:
    """By the status file, as the hub asks: no execution in the kernel that is measured."""
    states = [json.loads(path.read_text())["state"] for path in kernel.folder.rglob("runtime/kernels/*.json")]
    return states == ["saved"]


def _cpu_of_idle_cell(kernel: Kernel) -> float:
    cpu = "__import__('time').process_time()"
    before = kernel.value(cpu)
    kernel.cells(["x = 0"])
    kernel.flush()
    return kernel.value(cpu) - before


def _memory(pid: int, *, peak: bool = False) -> int:
    """Resident bytes of the process, or their peak since the last call without ``peak``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    if not peak:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    return int(found["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def _raw_write(path: Path, size: int) -> float:
    """Seconds to write that many bytes with direct I/O and make them durable: what the disk can do."""
    block = mmap.mmap(-1, 8 << 20)
    block[:] = os.urandom(1 << 20) * 8
    view = memoryview(block)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    try:
        started = time.perf_counter()
        for offset in range(0, size, len(view)):
            os.pwrite(descriptor, view[: min(len(view), -(-(size - offset) // 4096) * 4096)], offset)
        os.fdatasync(descriptor)
        return time.perf_counter() - started
    finally:
        os.close(descriptor)
        path.unlink()


def _one_tensor_and_memory(folder: Path, tensors: int, state_bytes: int) -> dict[str, float]:
    """Growth of the packs when one tensor of 25 MB changes, by the tensor's size; and the peak of memory
    while everything is saved: when the kernel is idle after the cell, and when the next cell waits."""
    result: dict[str, float] = {}
    with Kernel("ours", folder) as kernel:
        kernel.cells([STATE.format(tensors=tensors)])
        kernel.flush()
        size = kernel.pack_bytes()
        kernel.cells(["_ = t3.add_(1)"])
        kernel.flush()
        result["one_tensor_bytes_vs_changed"] = (kernel.pack_bytes() - size) / (25 * MB)
        change = CHANGE_ALL.format(tensors=tensors)
        for key, cells in (
            ("peak_extra_share", [change]),
            ("peak_extra_next_cell_waits_share", [change, "y = 1"]),
        ):
            before = _memory(kernel.pid)
            kernel.cells(cells)
            while not _is_saved(kernel):
                time.sleep(0.05)
            result[key] = max(0, _memory(kernel.pid, peak=True) - before) / state_bytes
        result["arena_limit_mb"] = kernel.value("__import__('respawner').status()['arena_limit_bytes']") / MB
    return {key: round(value, 4) for key, value in result.items()}


def _scattered_rows(folder: Path) -> float:
    """Growth of the packs when 64 random rows of a table of 512 MB change, by the table's size."""
    with Kernel("ours", folder) as kernel:
        kernel.cells(["import torch; torch.manual_seed(0); table = torch.randn(131072, 1024)[:125000]"])
        kernel.flush()
        before = kernel.pack_bytes()
        kernel.cells(["rows = torch.randperm(125000)[:64]; table[rows] += 1"])
        kernel.flush()
        return (kernel.pack_bytes() - before) / (512 * MB)


def _epochs(folder: Path) -> float:
    """The store after 100 epochs that train only the head, by full state + 100 heads (with their Adam)."""
    with Kernel("ours", folder) as kernel:
        kernel.cells(
            [
                """
import torch; torch.manual_seed(0)
body = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(24)]).requires_grad_(False)
head = torch.nn.Linear(1024, 256)
optimizer = torch.optim.Adam(head.parameters()); loss = None
def epoch():
    global loss
    optimizer.zero_grad(); loss = head(body(torch.randn(32, 1024))).square().mean(); loss.backward(); optimizer.step()
    loss = loss.item()
    optimizer.zero_grad()
"""
            ]
        )
        kernel.cells(["epoch()"] * 100)
        kernel.flush()
        head = 3 * (1024 * 256 + 256) * 4
        full = 24 * (1024 * 1024 + 1024) * 4 + head
        return kernel.store_bytes() / (full + 100 * head)


if __name__ == "__main__":
    sys.exit(main())
