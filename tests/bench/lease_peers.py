"""What the lease scheduler is compared with, on one pool of equal GPUs: FIFO, EASY backfill, static partition.

Nothing is suspended; jobs may span hosts. Backfill is told the true durations.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from .lease_metrics import Run
from .lease_trace import Job, Load


class NotPossible(Exception):
    """A load that a policy cannot play to its end."""


def fifo(load: Load) -> list[Run]:
    return _play(load.jobs, load.gpus, backfill=False)


def easy(load: Load) -> list[Run]:
    """FIFO + EASY backfill (Lifka 1995): whoever does not delay the first in the queue may pass it."""
    return _play(load.jobs, load.gpus, backfill=True)


def static(load: Load) -> list[Run]:
    """Every group has its own GPUs, room for its largest job and the rest by its true demand; FIFO in each.

    Raises NotPossible where the GPUs are too few for that.
    """
    parts = partition(load)
    runs: dict[int, Run] = {}
    for group, gpus in parts.items():
        indexes = [i for i, job in enumerate(load.jobs) if job.group == group]
        of_group = _play([load.jobs[i] for i in indexes], gpus, backfill=False)
        runs.update(zip(indexes, of_group, strict=True))
    return [runs[i] for i in range(len(load.jobs))]


def partition(load: Load) -> dict[str, int]:
    """Room for the largest job, then each GPU to the group with the most demand for each that it has."""
    largest: dict[str, int] = defaultdict(int)
    demand: dict[str, float] = defaultdict(float)
    for job in load.jobs:
        largest[job.group] = max(largest[job.group], job.gpus)
        demand[job.group] += job.gpus * job.duration
    if sum(largest.values()) > load.gpus:
        raise NotPossible(f"the largest jobs of all groups need {sum(largest.values())} GPUs")
    parts = dict(largest)
    for _ in range(load.gpus - sum(parts.values())):
        parts[max(sorted(demand), key=lambda group: demand[group] / parts[group])] += 1
    return parts


def _play(jobs: Sequence[Job], gpus: int, backfill: bool) -> list[Run]:
    starts = [0.0] * len(jobs)
    running: list[tuple[float, int]] = []
    queue: list[int] = []
    free, arrived, at = gpus, 0, 0
    """`queue[at:]` waits; passed-by ones are taken out, served ones from the front are skipped by `at`."""
    while arrived < len(jobs) or running:
        now = min(
            jobs[arrived].submit if arrived < len(jobs) else float("inf"),
            running[0][0] if running else float("inf"),
        )
        while running and running[0][0] <= now:
            free += jobs[heapq.heappop(running)[1]].gpus
        while arrived < len(jobs) and jobs[arrived].submit <= now:
            queue.append(arrived)
            arrived += 1
        while at < len(queue) and jobs[queue[at]].gpus <= free:
            free -= _start(jobs, queue[at], now, starts, running)
            at += 1
        if at > 1000:
            del queue[:at]
            at = 0
        if backfill and free and at < len(queue):
            free -= _pass_by(jobs, queue, at, now, free, starts, running)
    return [Run.without_pause(job, start) for job, start in zip(jobs, starts, strict=True)]


def _start(
    jobs: Sequence[Job], index: int, now: float, starts: list[float], running: list[tuple[float, int]]
) -> int:
    starts[index] = now
    heapq.heappush(running, (now + jobs[index].duration, index))
    return jobs[index].gpus


def _pass_by(
    jobs: Sequence[Job],
    queue: list[int],
    at: int,
    now: float,
    free: int,
    starts: list[float],
    running: list[tuple[float, int]],
) -> int:
    """Start those behind the first that end before it can start, or use what it will leave; returns their GPUs."""
    shadow, extra = _shadow(jobs, running, jobs[queue[at]].gpus, free)
    used, passed = 0, set()
    for place in range(at + 1, len(queue)):
        if used == free:
            break
        job = jobs[queue[place]]
        if job.gpus > free - used:
            continue
        if now + job.duration > shadow:
            if job.gpus > extra:
                continue
            extra -= job.gpus
        used += _start(jobs, queue[place], now, starts, running)
        passed.add(place)
    if passed:
        queue[at:] = [index for place, index in enumerate(queue[at:], start=at) if place not in passed]
    return used


def _shadow(jobs: Sequence[Job], running: list[tuple[float, int]], need: int, free: int) -> tuple[float, int]:
    """When the first can start, and how many GPUs are left then."""
    for end, index in sorted(running):
        free += jobs[index].gpus
        if free >= need:
            return end, free - need
    raise ValueError(f"{need} GPUs are more than the cluster has")
