"""What a schedule is judged by. The definitions are those of tests/bench/data/README.md's source; see docs/benchmarks.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .lease_trace import Job, Load

SHORT = 3600.0


@dataclass(slots=True)
class Run:
    """When a job worked: (from, until) pairs, suspends and resumes not counted, and when it was done."""

    spans: list[tuple[float, float]]
    first_start: float
    end: float

    @classmethod
    def without_pause(cls, job: Job, start: float) -> Run:
        return cls([(start, start + job.duration)], start, start + job.duration)


@dataclass(frozen=True, slots=True)
class Metrics:
    utilisation: float
    """GPU time worked from 0 to the last submission, of all there was."""
    wait_p50: float
    wait_p95: float
    """All the time that a job did not work, from submission to end: waits, suspends, resumes."""
    wait_mean: float
    wait_max: float
    short_wait_p50: float
    short_wait_p95: float
    first_wait_p95: float
    """From submission to the first start."""
    large_wait_p95: float
    """Of jobs with 8 GPUs and more."""
    jain: float
    worst_group: float


def measure(load: Load, runs: Sequence[Run]) -> Metrics:
    waits = [run.end - job.submit - job.duration for job, run in zip(load.jobs, runs, strict=True)]
    short = [wait for wait, job in zip(waits, load.jobs, strict=True) if job.duration <= SHORT]
    large = [wait for wait, job in zip(waits, load.jobs, strict=True) if job.gpus >= 8]
    first = [run.first_start - job.submit for job, run in zip(load.jobs, runs, strict=True)]
    used, shares = _shares(load, runs)
    return Metrics(
        used / load.gpus / load.last_submission,
        quantile(waits, 0.5),
        quantile(waits, 0.95),
        sum(waits) / len(waits),
        max(waits),
        quantile(short, 0.5),
        quantile(short, 0.95),
        quantile(first, 0.95),
        quantile(large, 0.95),
        jain_index(shares),
        min(shares),
    )


def _shares(load: Load, runs: Sequence[Run]) -> tuple[float, list[float]]:
    """GPU seconds worked, and each group's GPU time received ÷ demanded, until the last submission."""
    last = load.last_submission
    received: dict[str, float] = defaultdict(float)
    demanded: dict[str, float] = defaultdict(float)
    for job, run in zip(load.jobs, runs, strict=True):
        received[job.group] += job.gpus * sum(
            max(0.0, min(end, last) - min(start, last)) for start, end in run.spans
        )
        demanded[job.group] += job.gpus * max(0.0, min(run.end, last) - job.submit)
    return sum(received.values()), [received[g] / demanded[g] if demanded[g] else 1.0 for g in demanded]


def jain_index(shares: Sequence[float]) -> float:
    """(Σx)² / (n·Σx²), from Jain, Chiu and Hawe 1984: 1 is the same for everybody."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / len(shares) / squares if squares else 1.0


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies; 0 of nothing."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0
