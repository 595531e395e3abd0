"""`make bench-restore`: how soon a killed kernel's first cell is finished, beside the peers, in one run and in turns.

One state is saved once by every tool. Then, turn by turn, each tool gets a fresh kernel in which torch is
imported already, its files leave the page cache, and a first cell is sent that needs the state. REPETITIONS sets
the turns (5), STATE_MB the state (1104). What each number means is in docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import meters, state
from .command import run_as_command
from .kernel import ELASTIC, CellFailed, Kernel, KernelDied
from .peers import Peers, ensure_peers
from .state import State
from .table import middle, progress, ratios, table

TOUCHES = {"a few elements of each tensor": state.TOUCH_EACH, "every byte": state.TOUCH_ALL}
MINE = "ours"
THEIRS = "torch.load"
GRACE_SECONDS = 600
"""What elastic-kernel gets to save at its shutdown; a server gives 5."""


def main() -> int:
    return run_as_command("bench-restore", measure)


def measure(folder: Path, repetitions: int, megabytes: int) -> tuple[str, dict[str, Any]]:
    bench = RestoreBench(folder, State(megabytes), ensure_peers())
    bench.save_all()
    for turn in range(repetitions):
        bench.restore_all(reverse=bool(turn % 2))
        progress(f"turn {turn + 1} of {repetitions}")
    return bench.table(), bench.result(repetitions)


class RestoreBench:
    """The tools' folders, and seconds by tool and touch."""

    def __init__(self, folder: Path, content: State, peers: Peers) -> None:
        self.folder = folder
        self.state = content
        self.python = peers.python
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.failures = dict(peers.missing)
        self.ways: dict[str, Callable[[str], float]] = {
            MINE: self._ours,
            THEIRS: self._torch_load,
            "torch.load(mmap=True)": self._torch_load_mapped,
            "cloudpickle.load": self._cloudpickle_load,
            "elastic-kernel": self._elastic_kernel,
            "kishu": self._kishu,
        }

    # Saving, once --------------------------------------------------------------------------------------

    def save_all(self) -> None:
        self._save_ours()
        self._save_files()
        for peer, save in {"elastic-kernel": self._save_elastic, "kishu": self._save_kishu}.items():
            if peer in self.failures:
                continue
            try:
                save()
            except (CellFailed, KernelDied) as error:
                self._give_up(peer, error)
        progress(
            f"saved {self.state_bytes / 1e6:.0f} MB by {', '.join(w for w in self.ways if w not in self.failures)}"
        )

    def _save_ours(self) -> None:
        kernel = Kernel(self.folder / "ours", sys.executable, saving=True).start()
        try:
            kernel.run(self.state.setup)
            kernel.flush()
            self.state_bytes = kernel.value(self.state.size)
            kernel.kill()
        finally:
            kernel.stop()

    def _save_files(self) -> None:
        kernel = Kernel(self.folder / "files", self.python).start()
        try:
            kernel.run(self.state.setup)
            kernel.run(state.dump_cell("torch.save(what, file)", self._file("torch")))
            dump = "import cloudpickle; cloudpickle.dump(what, file, protocol=5)"
            kernel.run(state.dump_cell(dump, self._file("cloudpickle")))
        finally:
            kernel.stop()

    def _save_elastic(self) -> None:
        kernel = self._elastic_kernel_of()
        try:
            kernel.start().run(self.state.setup)
        finally:
            kernel.stop(GRACE_SECONDS)

    def _save_kishu(self) -> None:
        kernel = self._kishu_kernel()
        try:
            self._with_kishu(kernel.start())
            kernel.run(self.state.setup)
            self._kishu_commit = kernel.value("_kishu._kishu_branch.get_head().commit_id")
            kernel.kill()
        finally:
            kernel.stop()

    # Restoring, every turn -----------------------------------------------------------------------------

    def restore_all(self, *, reverse: bool) -> None:
        ways = [way for way in self.ways if way not in self.failures]
        for way in reversed(ways) if reverse else ways:
            for touch, cell in TOUCHES.items():
                if way not in (MINE, THEIRS, "torch.load(mmap=True)") and touch == "every byte":
                    continue
                try:
                    self.seconds[way, touch].append(self.ways[way](cell))
                except (CellFailed, KernelDied) as error:
                    if way in (MINE, THEIRS):
                        raise
                    self._give_up(way, error)
                    break

    def _give_up(self, peer: str, error: Exception) -> None:
        self.failures[peer] = str(error)
        progress(f"{peer} is left out from here: {error}")

    def _ours(self, touch: str) -> float:
        """From the first cell's request: the restore is a part of it."""
        return self._first_cell(
            Kernel(self.folder / "ours", sys.executable, saving=True), "import torch", touch
        )

    def _torch_load(self, touch: str) -> float:
        return self._load(f"torch.load({str(self._file('torch'))!r}, weights_only=False)", touch)

    def _torch_load_mapped(self, touch: str) -> float:
        return self._load(f"torch.load({str(self._file('torch'))!r}, weights_only=False, mmap=True)", touch)

    def _cloudpickle_load(self, touch: str) -> float:
        return self._load(
            f"__import__('cloudpickle').load(open({str(self._file('cloudpickle'))!r}, 'rb'))", touch
        )

    def _load(self, what: str, touch: str) -> float:
        """The notebook's classes and functions are there already: nobody's library saves those."""
        kernel = Kernel(self.folder / "files", self.python)
        return self._first_cell(kernel, state.DEFINITIONS, f"globals().update({what})\n{touch}")

    def _first_cell(self, kernel: Kernel, beforehand: str, cell: str) -> float:
        kernel.start()
        try:
            kernel.run(beforehand, hidden=True)
            meters.drop_from_cache(kernel.folder)
            seconds = kernel.run(cell)
            kernel.kill()
        finally:
            kernel.stop()
        return seconds

    def _elastic_kernel(self, touch: str) -> float:
        """It restores while it starts: what the start of a plain kernel and torch's import take is not counted."""
        plain = Kernel(self.folder / "files", self.python)
        kernel = self._elastic_kernel_of()
        meters.drop_from_cache(kernel.folder)
        taken = self._start_and_run(kernel, f"import torch\n{touch}")
        return taken - self._start_and_run(plain, "import torch")

    def _start_and_run(self, kernel: Kernel, cell: str) -> float:
        started = time.perf_counter()
        kernel.start()
        try:
            kernel.run(cell)
            seconds = time.perf_counter() - started
            kernel.kill()
        finally:
            kernel.stop()
        return seconds

    def _kishu(self, touch: str) -> float:
        """By hand: attach it, check the last commit out."""
        kernel = self._kishu_kernel().start()
        try:
            kernel.run("import torch", hidden=True)
            self._with_kishu(kernel)
            meters.drop_from_cache(kernel.folder)
            seconds = kernel.run(f"_kishu.checkout({self._kishu_commit!r})", hidden=True)
            seconds += kernel.run(touch, hidden=True)
            kernel.kill()
        finally:
            kernel.stop()
        return seconds

    def _with_kishu(self, kernel: Kernel) -> None:
        kernel.run(f"from kishu.jupyterint import init_kishu; init_kishu({str(kernel.notebook)!r})")

    def _elastic_kernel_of(self) -> Kernel:
        return Kernel(self.folder / "elastic", self.python, module=ELASTIC)

    def _kishu_kernel(self) -> Kernel:
        return Kernel(self.folder / "kishu", self.python, ENV_KISHU_TEST_MODE="1")

    def _file(self, name: str) -> Path:
        return self.folder / "files" / f"state.{name}"

    # Results -------------------------------------------------------------------------------------------

    def result(self, repetitions: int) -> dict[str, object]:
        first, every = TOUCHES
        seconds = {way: {touch: middle(self.seconds[way, touch]) for touch in TOUCHES} for way in self.ways}
        return {
            "first_cell_vs_torch_load": middle(
                ratios(self.seconds[THEIRS, first], self.seconds[MINE, first]), 2
            ),
            "all_touched_vs_torch_load": middle(
                ratios(self.seconds[MINE, every], self.seconds[THEIRS, every]), 3
            ),
            "repetitions": repetitions,
            "state_bytes": self.state_bytes,
            "first_cell_s": {way: found[first] for way, found in seconds.items()},
            "all_touched_s": {way: found[every] for way, found in seconds.items() if found[every]},
            "left_out": self.failures,
        }

    def table(self) -> str:
        rows = [[way, *(middle(self.seconds[way, touch]) for touch in TOUCHES)] for way in self.ways]
        return table(["first cell, s", *TOUCHES], rows)


if __name__ == "__main__":
    sys.exit(main())
