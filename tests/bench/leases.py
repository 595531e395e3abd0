"""`make bench-leases`: the lease policy on the real trace and on a made-up load, beside FIFO, EASY backfill and static
partition, on a simulated clock; and how long a decision takes.

TRACE=file GPUS=n play another CSV of the same format instead. What each number means is in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from respawner_spawner.leases.model import Rules

from . import lease_peers as peers
from . import lease_trace as trace
from .lease_decisions import measure_decisions
from .lease_metrics import Metrics, Run, measure
from .lease_player import Player
from .lease_trace import Load
from .table import BenchError, positive_setting, progress, table

TURNS = Rules(preempt=True, min_run_seconds=3600)
"""What `ours_suspend` is allowed: nobody goes within an hour; the rest is as delivered: a slice of two hours, and two
minutes lost at every suspend and resume."""

HEAD = [
    "policy",
    "GPU use %",
    "wait p50 h",
    "p95 h",
    "mean h",
    "max h",
    "p95 h, ≤ 1 h",
    "p95 h, ≥ 8 GPUs",
    "Jain",
    "worst",
]


def main() -> int:
    try:
        loads = chosen()
        played = {load.name: play(load) for load in loads}
        decisions = measure_decisions()
    except BenchError as error:
        print(f"bench-leases: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    first, *others = played
    result = {
        **decisions,
        **columns(played[first]),
        "cluster": first,
        "ours_suspend_rules": asdict(TURNS),
        "others": {name: columns(played[name]) for name in others},
    }
    print(json.dumps(result))
    return 0


def chosen() -> list[Load]:
    """The load that the numbers at the top are of comes first."""
    path = os.environ.get("TRACE")
    if path:
        return [trace.read(Path(path), positive_setting("GPUS", 96))]
    if os.environ.get("GPUS"):
        raise BenchError(
            "GPUS is set and TRACE is not: the clusters of the trace in the repository are given."
        )
    whole, team = trace.whole(), trace.team()
    return [whole, team, team.since(0.5), trace.synthetic()]


def play(load: Load) -> dict[str, Metrics | None]:
    """Every policy on the same load, None for one that cannot play it; the table goes to stderr."""
    progress(f"{load.name}: {len(load.jobs)} jobs on {load.gpus} GPUs")
    policies: dict[str, Callable[[Load], list[Run]]] = {
        "ours": lambda load: Player(load, Rules(), "ours").play(),
        "ours_suspend": lambda load: Player(load, TURNS, "ours_suspend").play(),
        "fifo": peers.fifo,
        "easy": peers.easy,
        "static": peers.static,
    }
    metrics: dict[str, Metrics | None] = {}
    for name, policy in policies.items():
        started = perf_counter()
        try:
            metrics[name] = measure(load, policy(load))
            progress(f"  {name}: {perf_counter() - started:.0f} s")
        except peers.NotPossible as reason:
            metrics[name] = None
            progress(f"  {name}: not possible on {load.gpus} GPUs: {reason}")
    progress(table(HEAD, [row(name, metric) for name, metric in metrics.items() if metric]))
    return metrics


def row(name: str, metric: Metrics) -> list[object]:
    hours = (
        metric.wait_p50,
        metric.wait_p95,
        metric.wait_mean,
        metric.wait_max,
        metric.short_wait_p95,
        metric.large_wait_p95,
    )
    shown = [f"{seconds / 3600:.2f}" for seconds in hours]
    return [
        name,
        f"{metric.utilisation * 100:.2f}",
        *shown,
        f"{metric.jain:.3f}",
        f"{metric.worst_group:.2f}",
    ]


def columns(metrics: dict[str, Metrics | None]) -> dict[str, Any]:
    """{measure: {policy: number}}, rounded; None where it could not play."""
    keys = {
        "utilisation": "utilisation",
        "wait_p50_s": "wait_p50",
        "wait_p95_s": "wait_p95",
        "wait_max_s": "wait_max",
        "short_wait_p50_s": "short_wait_p50",
        "short_wait_p95_s": "short_wait_p95",
        "first_wait_p95_s": "first_wait_p95",
        "large_wait_p95_s": "large_wait_p95",
        "jain": "jain",
        "worst_group": "worst_group",
    }
    return {
        key: {
            name: round(getattr(metric, attribute), 4) if metric else None for name, metric in metrics.items()
        }
        for key, attribute in keys.items()
    }


if __name__ == "__main__":
    sys.exit(main())
