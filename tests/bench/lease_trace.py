"""Workloads for the lease scheduler: from a CSV as in tests/bench/data/README.md, or made up from a seed."""

from __future__ import annotations

import csv
import gzip
import lzma
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import IO

from .table import BenchError

PHILLY = Path(__file__).parent / "data" / "gpu_trace_philly.csv.xz"
COLUMNS = ("submit_s", "duration_s", "gpus", "user", "group", "kind")
NEEDED = ("submit_s", "duration_s", "gpus", "group")
TEAM = ("103959", "11cb48", "b436b2", "ed69ec")
"""Four groups of the trace that together are like a team's cluster."""


@dataclass(frozen=True, slots=True)
class Job:
    submit: float
    duration: float
    """Seconds; nobody but the backfill may see it before the end."""
    gpus: int
    group: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What is played, and on how many GPUs."""

    name: str
    jobs: tuple[Job, ...]
    gpus: int

    @property
    def last_submission(self) -> float:
        return self.jobs[-1].submit

    def until(self, share: float) -> Load:
        """The jobs of the first part of the time."""
        end = self.last_submission * share
        return Load(
            f"{self.name}, first part", tuple(job for job in self.jobs if job.submit <= end), self.gpus
        )

    def since(self, share: float) -> Load:
        start = self.last_submission * share
        jobs = tuple(
            Job(j.submit - start, j.duration, j.gpus, j.group, j.user) for j in self.jobs if j.submit > start
        )
        return Load(f"{self.name}, second part", jobs, self.gpus)


def read(path: Path, gpus: int, name: str = "", groups: Iterable[str] = ()) -> Load:
    """Raises BenchError naming the line that cannot be used."""
    only = set(groups)
    with _opened(path) as file:
        rows = csv.DictReader(file)
        try:
            jobs = [_job(path, rows.line_num, row) for row in rows if not only or row.get("group") in only]
        except (UnicodeDecodeError, csv.Error, lzma.LZMAError, EOFError, OSError) as error:
            raise BenchError(f"{path}: no CSV, or a damaged one: {error}.") from error
    if not jobs:
        raise BenchError(f"{path}: no jobs in it; the columns are {', '.join(COLUMNS)}.")
    jobs.sort(key=lambda job: job.submit)
    if jobs[-1].submit == 0:
        raise BenchError(f"{path}: every submit_s is 0: what happens until the last submission is measured.")
    largest = max(job.gpus for job in jobs)
    if largest > gpus:
        raise BenchError(
            f"{path}: a job asks for {largest} GPUs and the cluster has {gpus}: set GPUS={largest} or more."
        )
    return Load(name or path.name, tuple(jobs), gpus)


def whole() -> Load:
    return read(PHILLY, 576, "whole")


def team() -> Load:
    return read(PHILLY, 96, "team", TEAM)


def synthetic(seed: int = 1, gpus: int = 48, days: int = 28, load: float = 0.9) -> Load:
    """A team of 30 users in 6 groups of unequal size: sessions with a heavy tail, by day more than by night.

    Durations are lognormal (median 40 min, sigma 1.9), 1 to 8 GPUs; as many as make `load`.
    """
    chance = random.Random(seed)
    groups = [f"g{number}" for number in range(6)]
    weights = [8, 5, 3, 2, 1, 1]
    jobs: list[Job] = []
    demanded, wanted = 0.0, load * gpus * days * 86400
    while demanded < wanted:
        group = chance.choices(groups, weights)[0]
        submit = chance.randrange(days) * 86400 + min(86399.0, max(0.0, chance.gauss(14, 4) * 3600))
        duration = min(7 * 86400.0, max(30.0, chance.lognormvariate(7.8, 1.9)))
        count = chance.choices([1, 2, 4, 8], [80, 10, 7, 3])[0]
        jobs.append(
            Job(float(round(submit)), float(round(duration)), count, group, f"{group}-u{chance.randrange(5)}")
        )
        demanded += duration * count
    return Load("synthetic", tuple(sorted(jobs, key=lambda job: job.submit)), gpus)


def hosts_of(gpus: int, per_host: int = 8) -> Sequence[int]:
    """Sizes of the hosts that together have so many GPUs."""
    return [min(per_host, gpus - start) for start in range(0, gpus, per_host)]


def _job(path: Path, line: int, row: dict[str, str]) -> Job:
    where = f"{path}, line {line}"
    missing = [name for name in NEEDED if row.get(name) is None]
    if missing:
        raise BenchError(f"{where}: no {', '.join(missing)}; the columns are {', '.join(COLUMNS)}.")
    submit = _number(where, row, "submit_s", 0)
    duration = _number(where, row, "duration_s", 0)
    gpus = _number(where, row, "gpus", 1)
    if duration == 0:
        raise BenchError(f"{where}: duration_s={row['duration_s']!r}: must be more than 0 seconds.")
    if not gpus.is_integer():
        raise BenchError(f"{where}: gpus={row['gpus']!r}: must be a whole number from 1.")
    return Job(submit, duration, int(gpus), row["group"], row.get("user") or "")


def _number(where: str, row: dict[str, str], name: str, least: int) -> float:
    try:
        number = float(row[name])
    except ValueError:
        number = float("nan")
    if not (isfinite(number) and number >= least):
        raise BenchError(f"{where}: {name}={row[name]!r}: must be a number from {least}.")
    return number


def _opened(path: Path) -> IO[str]:
    openers = {".gz": gzip.open, ".xz": lzma.open}
    try:
        return openers.get(path.suffix, open)(path, "rt", encoding="utf-8")  # type: ignore[operator, no-any-return]
    except OSError as error:
        raise BenchError(f"TRACE={path}: {error.strerror or error}.") from error
