"""`make bench-snapshot`: what saving after every cell costs, beside the peers, in one run and in turns.

Four real kernels with the same state live side by side: ours, one that saves nothing (and in which the
libraries' ways to save are called as cells), elastic-kernel, kishu. A turn visits all of them, every second
turn in reverse. REPETITIONS sets the turns (5), STATE_MB the state (1104). What each number means is in
docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from . import meters, state
from .command import run_as_command
from .epochs import epochs_store_vs_ideal
from .kernel import ELASTIC, CellFailed, Kernel, KernelDied
from .peers import Peers, ensure_peers
from .state import State
from .table import middle, progress, ratios, table

CHANGES = {"x = 1": state.NOTHING, "one tensor": state.ONE_TENSOR, "everything": state.EVERYTHING}
TABLE_ROWS, ROW_FLOATS, ROWS_CHANGED = 131072, 1024, 64

Samples = dict[str, list[float]]
"""One number a turn, by what was measured."""


def main() -> int:
    return run_as_command("bench-snapshot", measure)


def measure(folder: Path, repetitions: int, megabytes: int) -> tuple[str, dict[str, Any]]:
    bench = SnapshotBench(folder, State(megabytes), ensure_peers())
    try:
        bench.run(repetitions)
        result = bench.result(repetitions)
    finally:
        bench.stop()
    share = megabytes / state.FULL_MB
    result["epochs_store_vs_ideal"], result["epochs_bytes"] = epochs_store_vs_ideal(folder, share)
    return bench.stall_table(), result


class SnapshotBench:
    """The kernels and what was measured of them."""

    def __init__(self, folder: Path, content: State, peers: Peers) -> None:
        self.folder = folder
        self.state = content
        self.samples: Samples = defaultdict(list)
        self.failures: dict[str, str] = dict(peers.missing)
        self._table_megabytes = max(1, int(512 * content.megabytes / state.FULL_MB))
        self.kernels = {
            "ours": Kernel(folder / "ours", sys.executable, saving=True),
            "nothing": Kernel(folder / "nothing", peers.python),
        }
        if "elastic-kernel" not in peers.missing:
            self.kernels["elastic-kernel"] = Kernel(folder / "elastic", peers.python, module=ELASTIC)
        if "kishu" not in peers.missing:
            self.kernels["kishu"] = Kernel(folder / "kishu", peers.python, ENV_KISHU_TEST_MODE="1")

    @property
    def ours(self) -> Kernel:
        return self.kernels["ours"]

    @property
    def nothing(self) -> Kernel:
        return self.kernels["nothing"]

    def run(self, repetitions: int) -> None:
        for name in list(self.kernels):
            self._or_give_up(name, self._prepare)
        self.state_bytes = self.nothing.value(self.state.size)
        self._peak()
        for turn in range(repetitions):
            names = list(self.kernels) if turn % 2 else list(reversed(self.kernels))
            for name in names:
                self._or_give_up(name, self._stalls)
            self._serializers(reverse=bool(turn % 2))
            self._idle_cpu()
            self._durability()
            self._bytes_of_one_tensor()
            progress(f"turn {turn + 1} of {repetitions}")
        for name in [name for name in self.kernels if name not in ("ours", "nothing")]:
            self.kernels.pop(name).stop()
        self._scattered_rows(repetitions)

    def stop(self) -> None:
        for kernel in self.kernels.values():
            kernel.stop()

    def _or_give_up(self, name: str, step) -> None:
        """A peer that fails costs its column; what is ours must work."""
        try:
            step(name)
        except (CellFailed, KernelDied) as error:
            if name in ("ours", "nothing"):
                raise
            self.failures[name] = str(error)
            progress(f"{name} is left out from here: {error}")
            self.kernels.pop(name).stop()

    def _prepare(self, name: str) -> None:
        kernel = self.kernels[name].start()
        if name == "kishu":
            kernel.run(f"from kishu.jupyterint import init_kishu; init_kishu({str(kernel.notebook)!r})")
        seconds = kernel.run(self.state.setup)
        progress(f"{name}: state made in {seconds:.1f} s")
        if name == "ours":
            kernel.flush()

    # Steps of a turn -----------------------------------------------------------------------------------

    def _stalls(self, name: str) -> None:
        """Peers save before they reply, so their stall ends with the reply; ours with the next cell's reply."""
        kernel = self.kernels[name]
        for change, cell in CHANGES.items():
            if name in ("ours", "nothing"):
                self.samples[f"{name}: {change}, next"].append(kernel.run(cell, state.TRIVIAL))
            if name == "ours":
                kernel.flush()
            else:
                self.samples[f"{name}: {change}"].append(kernel.run(cell))
        if name in ("ours", "nothing"):
            self.samples[f"{name}: everything, look"].append(kernel.run(state.EVERYTHING, state.LOOK))
        if name == "ours":
            kernel.flush()

    def _serializers(self, *, reverse: bool) -> None:
        """The libraries' ways, called as a user would at the end of a cell."""
        path = self.nothing.folder / "saved"
        ways = {
            "torch.save": state.dump_cell("torch.save(what, file)", path),
            "cloudpickle": state.dump_cell(
                "import cloudpickle; cloudpickle.dump(what, file, protocol=5)", path
            ),
            "dill": state.dump_cell("import dill; dill.dump(what, file, protocol=5)", path),
        }
        for way, cell in reversed(ways.items()) if reverse else ways.items():
            if way in self.failures:
                continue
            try:
                self.samples[way].append(self.nothing.run(cell))
            except CellFailed as error:
                self.failures[way] = str(error)
                progress(f"{way} is left out: {error}")
            path.unlink(missing_ok=True)

    def _idle_cpu(self) -> None:
        """CPU seconds of ``x = 1`` with its capture, of pickling everything, and of reading everything once."""
        self.samples["idle cpu"].append(
            self._cpu(self.ours, state.NOTHING, then="__import__('respawner').flush()")
            - self._cpu(self.nothing, state.NOTHING, then="True")
        )
        self.samples["reading cpu"].append(self._cpu(self.ours, state.READ_ALL, hidden=True))
        for pickler in ("cloudpickle", "pickle"):
            cell = f"import {pickler}; len({pickler}.dumps({state.NAMESPACE}, protocol=5))"
            self.samples[f"{pickler} cpu"].append(self._cpu(self.ours, cell, hidden=True))

    def _cpu(self, kernel: Kernel, cell: str, *, hidden: bool = False, then: str | None = None) -> float:
        before = meters.cpu_seconds(kernel.pid)
        kernel.run(cell, hidden=hidden)
        if then is not None and kernel.value(then) is not True:
            raise CellFailed(f"{then} is not True after {cell}")
        return meters.cpu_seconds(kernel.pid) - before

    def _durability(self) -> None:
        """From the reply of a cell that changed everything until the disk has it, beside the raw disk."""
        self.ours.run(state.EVERYTHING)
        replied = time.perf_counter()
        self.ours.flush()
        self.samples["durable"].append(time.perf_counter() - replied)
        self.samples["raw write"].append(meters.raw_direct_write_seconds(self.folder, self.state_bytes))

    def _bytes_of_one_tensor(self) -> None:
        written, packed = self._bytes_of(state.ONE_TENSOR)
        self.samples["one tensor packed"].append(packed / self.state.tensor_bytes)
        self.samples["one tensor written"].append(written / self.state.tensor_bytes)

    def _bytes_of(self, cell: str) -> tuple[int, int]:
        """What a cell's snapshot sends to the disk, and what the packs grow by."""
        packs = meters.pack_sizes(self.ours.store)
        before = meters.bytes_written(self.ours.pid)
        self.ours.run(cell)
        self.ours.flush()
        return (
            meters.bytes_written(self.ours.pid) - before,
            meters.growth(packs, meters.pack_sizes(self.ours.store)),
        )

    # Once ----------------------------------------------------------------------------------------------

    def _peak(self) -> None:
        """The most memory during a cell that changes everything and its capture, beside a kernel without."""
        peaks = {}
        for name in ("ours", "nothing"):
            kernel = self.kernels[name]
            meters.reset_peak(kernel.pid)
            kernel.run(state.EVERYTHING, state.LOOK)
            if name == "ours":
                kernel.flush()
            peaks[name] = meters.peak_bytes(kernel.pid)
        self.peak_extra_bytes = peaks["ours"] - peaks["nothing"]

    def _scattered_rows(self, repetitions: int) -> None:
        rows = TABLE_ROWS * self._table_megabytes // 512
        self.ours.run(f"big = torch.randn({rows}, {ROW_FLOATS})")
        self.ours.flush()
        for turn in range(repetitions):
            chosen = (
                f"torch.randperm({rows}, generator=torch.Generator().manual_seed({turn}))[:{ROWS_CHANGED}]"
            )
            _, packed = self._bytes_of(f"big[{chosen}] += 1")
            self.samples["scattered rows"].append(packed / (rows * ROW_FLOATS * 4))

    # Results -------------------------------------------------------------------------------------------

    def stall(self, name: str, change: str) -> list[float] | None:
        """Extra seconds over the kernel that saves nothing, turn by turn."""
        if name in ("torch.save", "cloudpickle", "dill"):
            return self.samples.get(name)
        kind = f"{change}, next" if name == "ours" and not change.endswith("look") else change
        taken = self.samples.get(f"{name}: {kind}")
        if not taken:
            return None
        without = self.samples[f"nothing: {kind}"]
        return [a - b for a, b in zip(taken, without[: len(taken)], strict=True)]

    def result(self, repetitions: int) -> dict[str, object]:
        got = self.samples
        idle = middle(got["idle cpu"])
        picklers = {name: middle(got[f"{name} cpu"]) for name in ("cloudpickle", "pickle")}
        elastic = self.stall("elastic-kernel", "x = 1")
        ours_idle = self.stall("ours", "x = 1") or []
        changed = self.stall("ours", "everything") or []
        looked_at = self.stall("ours", "everything, look") or []
        return {
            "idle_cell_vs_pickle": middle(
                ratios(
                    [min(pair) for pair in zip(got["cloudpickle cpu"], got["pickle cpu"], strict=True)],
                    got["idle cpu"],
                ),
                2,
            ),
            "idle_cell_vs_reading_once": middle(ratios(got["idle cpu"], got["reading cpu"]), 3),
            "idle_cell_vs_elastic_kernel": round(middle(ours_idle) / middle(elastic), 3) if elastic else None,
            "changed_stall_vs_torch_save": middle(ratios(changed, got["torch.save"])),
            "changed_stall_with_a_look_vs_torch_save": middle(ratios(looked_at, got["torch.save"])),
            "durable_vs_raw": middle(ratios(got["durable"], got["raw write"]), 3),
            "one_tensor_bytes_vs_changed": middle(got["one tensor packed"]),
            "scattered_rows_share": middle(got["scattered rows"], 5),
            "peak_extra_share": round(self.peak_extra_bytes / self.state_bytes, 4),
            "epochs_store_vs_ideal": None,
            "repetitions": repetitions,
            "state_bytes": self.state_bytes,
            "peak_extra_bytes": self.peak_extra_bytes,
            "idle_cpu_s": idle,
            "pickle_cpu_s": picklers,
            "reading_cpu_s": middle(got["reading cpu"]),
            "idle_stall_s": middle(ours_idle),
            "changed_stall_s": middle(changed),
            "changed_stall_with_a_look_s": middle(looked_at),
            "torch_save_s": middle(got["torch.save"]),
            "durable_s": middle(got["durable"]),
            "raw_write_s": middle(got["raw write"]),
            "one_tensor_written_vs_changed": middle(got["one tensor written"]),
            "left_out": self.failures,
        }

    def stall_table(self) -> str:
        names = ["ours", "elastic-kernel", "kishu", "torch.save", "cloudpickle", "dill"]
        rows = []
        for name in names:
            stalls = [self.stall(name, change) for change in CHANGES]
            rows.append([name, *(middle(stall) if stall else None for stall in stalls)])
        return table(["stall, s", *CHANGES], rows)


if __name__ == "__main__":
    sys.exit(main())
