"""`make bench-training`: what snapshots inside a training cell cost and save, beside `torch.save` and nothing, in turns.

Three workloads, one after the other: a plain loop, a small GPT, and a model with a state of 1 GB. In each, a turn
visits a kernel that saves nothing, the same one calling `torch.save` + fsync, and ours; every second turn in reverse.
First at a fast pace, for the stalls; then at the default pace, for the slowdown; then kernels are killed. REPETITIONS
sets the turns (5), STATE_MB the large state (1000), WORKLOADS ("plain gpt large") leaves some out,
RESPAWNER_SAFEPOINT_SECONDS sets another pace than the default, DEVICE=cuda trains on a GPU. What each number means is in docs/benchmarks.md.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from respawner.contract import KEEP_SAFEPOINTS_ENV, SAFEPOINT_SECONDS_ENV, SAFEPOINT_SHARE_ENV, WRITES_ENV
from respawner.manifest import SAFEPOINT, Manifest
from respawner.safepoints.pace import Pace
from respawner.store.timeline import Timeline

from .command import run_as_command
from .kernel import Kernel
from .table import BenchError, middle, progress, ratios, table
from .training_cells import FULL_MB, Workload, workloads

MAIN = "large"
"""The workload that the numbers at the top are of, where it was measured."""
SAVES = 2
"""Calls of `torch.save` in a turn."""
UNLIMITED = str(10**15)
KILL_PACE_SECONDS = 2
_ATTEMPTS = 5


def main() -> int:
    return run_as_command("bench-training", measure, FULL_MB)


def measure(folder: Path, repetitions: int, megabytes: int) -> tuple[str, dict[str, Any]]:
    benches = [
        TrainingBench(folder / w.name, w, megabytes)
        for w in _chosen(workloads(megabytes, os.environ.get("DEVICE", "cpu")))
    ]
    for bench in benches:
        bench.run(repetitions)
    results = {bench.workload.name: bench.result() for bench in benches}
    at_the_top = results.get(MAIN) or next(iter(results.values()))
    rows = [[key, *(found[key] for found in results.values())] for key in at_the_top]
    return table(["", *results], rows), {**at_the_top, "repetitions": repetitions, "workloads": results}


def _chosen(known: list[Workload]) -> list[Workload]:
    """Those that WORKLOADS names, or all."""
    names = os.environ.get("WORKLOADS", "").split() or [w.name for w in known]
    if unknown := set(names) - {w.name for w in known}:
        raise BenchError(
            f"WORKLOADS names {', '.join(unknown)}; there are {', '.join(w.name for w in known)}."
        )
    return [w for w in known if w.name in names]


@dataclass
class Window:
    """What one call of ``train`` told, and the snapshots that were taken in it."""

    steps: int
    wall: float
    cpu: float
    main: float
    stalls: list[float]
    """Seconds from the optimizer's own hook to the end of `step`, and of the next call until its own hook, for each step."""
    saved: list[float]
    snapshots: list[Manifest]

    def at_snapshots(self) -> list[float]:
        """The stalls of the steps at which snapshots were taken."""
        return [self.stalls[m.cell["safepoint"]["steps"] - 1] for m in self.snapshots]


@dataclass(frozen=True)
class Loss:
    seconds: float
    stated_age: float


class TrainingBench:
    """One workload's kernels, one after the other, and what was measured of them."""

    def __init__(self, folder: Path, workload: Workload, megabytes: float) -> None:
        self.folder = folder
        self.workload = workload
        self._stall_seconds = 2 + 18 * megabytes / FULL_MB
        self._least_seconds = os.environ.get(SAFEPOINT_SECONDS_ENV) or f"{Pace.least_seconds:g}"
        self._random = random.Random(workload.name)
        self.stalls: dict[str, list[list[float]]] = defaultdict(list)
        """By way, for each turn."""
        self.windows: dict[str, list[Window]] = defaultdict(list)
        self.losses: list[Loss] = []

    def run(self, repetitions: int) -> None:
        nothing = Kernel(self.folder / "nothing", sys.executable)
        try:
            nothing.start().run(self.workload.setup)
            self._measure_stalls(nothing, repetitions)
            self._measure_slowdown(nothing, repetitions)
        finally:
            nothing.stop()
        self._measure_losses(repetitions)

    # Stalls: a fast pace ------------------------------------------------------------------------------

    def _measure_stalls(self, nothing: Kernel, repetitions: int) -> None:
        ours = self._kernel("ours", self._stall_seconds / 4, share=1)
        try:
            ours.start().run(self.workload.setup)
            for turn in range(repetitions):
                steps = [lambda: self._our_stalls(ours), lambda: self._their_stalls(nothing)]
                for step in reversed(steps) if turn % 2 else steps:
                    step()
                progress(f"{self.workload.name}: stalls, turn {turn + 1} of {repetitions}")
        finally:
            ours.stop()

    def _our_stalls(self, ours: Kernel) -> None:
        window = self._train_until_saved(ours, self._stall_seconds)
        self.stalls["ours"].append(window.at_snapshots())

    def _their_stalls(self, nothing: Kernel) -> None:
        path = nothing.folder / "saved"
        window = self._train(nothing, self._stall_seconds, SAVES, path)
        self.stalls["torch.save"].append(window.saved)
        path.unlink()

    # Slowdown: the default pace -----------------------------------------------------------------------

    def _measure_slowdown(self, nothing: Kernel, repetitions: int) -> None:
        ours = self._kernel("default", self._least_seconds)
        try:
            ours.start().run(self.workload.setup)
            least = float(self._least_seconds)
            found = self._train_until_saved(ours, least + min(5.0, least)).snapshots
            self.added_bytes = found[-1].added_bytes
            self.every_seconds = ours.value("__import__('respawner').status()['safepoint_every_seconds']")
            window = max(self.every_seconds, 2.2 * least)
            for turn in range(repetitions):
                for name in reversed(("ours", "nothing")) if turn % 2 else ("ours", "nothing"):
                    train = self._train_until_saved if name == "ours" else self._train
                    self.windows[name].append(train(ours if name == "ours" else nothing, window))
                progress(
                    f"{self.workload.name}: {window:.0f} s at the default pace, turn {turn + 1} of {repetitions}"
                )
        finally:
            ours.stop()

    def _train_until_saved(self, kernel: Kernel, seconds: float) -> Window:
        """A cell that trains for so long, or longer ones until one has a snapshot that was written before it ended."""
        for attempt in range(_ATTEMPTS):
            window = self._train(kernel, 2**attempt * seconds)
            if window.snapshots:
                return window
        raise BenchError(
            f"no snapshot within {2 ** (_ATTEMPTS - 1) * seconds:.0f} s of training {self.workload.name}"
        )

    def _train(self, kernel: Kernel, seconds: float, saves: int = 0, path: Path | None = None) -> Window:
        """A cell that trains for so long. Its snapshots are looked at while it runs: after it they go."""
        saves_by_itself = kernel.store.exists()
        if saves_by_itself:
            kernel.flush()
        snapshots = _SnapshotsToCome(kernel.store)
        kernel.run(f"told = train({seconds}, {saves}, {str(path)!r})", meanwhile=snapshots.look)
        window = Window(**kernel.value("told"), snapshots=snapshots.found)
        if saves_by_itself:
            kernel.flush()
        return window

    def _kernel(self, name: str, least_seconds: float | str, share: float | None = None) -> Kernel:
        """``share``: unless it is the default pace; such a kernel has no budget either."""
        environment = {KEEP_SAFEPOINTS_ENV: "100", SAFEPOINT_SECONDS_ENV: str(least_seconds)}
        if share is not None:
            environment |= {SAFEPOINT_SHARE_ENV: str(share), WRITES_ENV: UNLIMITED}
        return Kernel(self.folder / name, sys.executable, saving=True, **environment)

    # Losses: SIGKILL ----------------------------------------------------------------------------------

    def _measure_losses(self, repetitions: int) -> None:
        """The cell is killed at a random moment, as often as there are turns, and a new kernel restores."""
        kernel = self._kernel("killed", KILL_PACE_SECONDS, share=0.5)
        try:
            kernel.start().run(self.workload.setup)
            kernel.flush()
            for number in range(repetitions):
                self.losses.append(self._kill_in_training(kernel, kernel.folder / f"log-{number}"))
                progress(f"{self.workload.name}: killed {number + 1} of {repetitions}: {self.losses[-1]}")
        finally:
            kernel.stop()

    def _kill_in_training(self, kernel: Kernel, log: Path) -> Loss:
        kernel.begin(f"train(3600, log={str(log)!r})")
        while (age := _stated_age(log)) is None:
            kernel.check_runs()
            time.sleep(0.1)
        time.sleep(self._random.uniform(0, 2 * age))
        age = _stated_age(log)
        killed = time.time()
        kernel.kill()
        kernel.start().run("pass")
        restored = kernel.value("steps_done()")
        done = {int(step): float(when) for step, when, _ in _lines(log)}
        return Loss(killed - done[restored], age)

    # Results ------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        ours, theirs = self.stalls["ours"], self.stalls["torch.save"]
        their_middles = [middle(turn) for turn in theirs]
        saved = middle([x for turn in theirs for x in turn])
        lost = sorted(loss.seconds for loss in self.losses)
        return {
            "stall_median_vs_torch_save": middle(ratios([middle(turn) for turn in ours], their_middles)),
            "stall_worst_vs_torch_save": round(max(ratios([max(turn) for turn in ours], their_middles)), 4),
            "slowdown": self._slowdown("wall"),
            "lost_seconds_p95": round(quantiles(lost, n=20)[-1] if len(lost) > 1 else lost[-1], 2),
            "stated_age_s": middle([loss.stated_age for loss in self.losses], 2),
            "lost_vs_stated_worst": round(max(loss.seconds / loss.stated_age for loss in self.losses), 3),
            "bytes_per_hour": round(self.added_bytes / self.every_seconds * 3600),
            "slowdown_main_thread_cpu": self._slowdown("main"),
            "slowdown_all_threads_cpu": self._slowdown("cpu"),
            "slowdown_by_stalls": round(
                1
                + sum(sum(w.at_snapshots()) for w in self.windows["ours"])
                / sum(w.wall for w in self.windows["ours"]),
                5,
            ),
            "slowdown_of_torch_save": round(1 + saved / self.every_seconds, 4),
            "every_seconds": round(self.every_seconds, 1),
            "snapshots_in_windows": sum(len(w.snapshots) for w in self.windows["ours"]),
            "snapshot_bytes": self.added_bytes,
            "stall_s": middle([x for turn in ours for x in turn]),
            "stall_worst_s": round(max(max(turn) for turn in ours), 4),
            "torch_save_s": saved,
            "step_s": middle([w.wall / w.steps for w in self.windows["nothing"]]),
        }

    def _slowdown(self, what: str) -> float | None:
        ours, nothing = (
            [getattr(w, what) / w.steps for w in self.windows[name]] for name in ("ours", "nothing")
        )
        return middle(ratios(ours, nothing))


class _SnapshotsToCome:
    """Those inside cells that a store gets from now on. Every manifest is read once."""

    def __init__(self, store: Path) -> None:
        self.found: list[Manifest] = []
        self._timelines = Timeline.all_in(store)
        self._known = {number for timeline in self._timelines for number in timeline.sequences()}

    def look(self) -> None:
        for timeline in self._timelines:
            for number in timeline.sequences():
                if number not in self._known:
                    self._known.add(number)
                    manifest = timeline.read(number)
                    if manifest.kind == SAFEPOINT:
                        self.found.append(manifest)


def _lines(log: Path) -> list[list[str]]:
    """The whole lines: step, time, stated age."""
    text = log.read_text() if log.exists() else ""
    return [line.split() for line in text.split("\n")[:-1]]


def _stated_age(log: Path) -> float | None:
    """What the newest step was told."""
    lines = _lines(log)
    return float(lines[-1][2]) if lines and lines[-1][2] != "None" else None


if __name__ == "__main__":
    sys.exit(main())
