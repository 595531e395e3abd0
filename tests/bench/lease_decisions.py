"""How long a decision takes, by the number of GPUs, on a full cluster in which sessions end and requests come.

A fifth as many requests wait as there are GPUs; every user waits or runs on an account of a group of ten; hosts of 8,
two models; asks for 1, 2, 4 or 8 GPUs on one host. Timed is `decide_view` alone, on a view that is kept, in
CPU seconds of its thread; `from_nothing` is `decide`, which builds the view first. The hub's scheduler reads the cluster
anew each second: `following` is how it brings its view up to date and decides, `sentences` what it costs to tell everybody
who waits why.
"""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from math import log10
from statistics import median
from time import thread_time

from respawner_spawner.leases.model import Ask, Cluster, Device, Kind, Lease, Request, Rules
from respawner_spawner.leases.policy import decide, decide_view
from respawner_spawner.leases.view import View

from .lease_metrics import quantile
from .lease_player import devices
from .table import progress

SIZES = (50, 1000, 10000)
MINUTE = 60.0


class Traffic:
    """A full cluster; `step` ends one session, hands in one request and decides."""

    def __init__(self, gpus: int, rules: Rules, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.gpus = gpus
        self.now = 1e6
        self.number = 0
        self.view = View(_two_models(devices(gpus)), rules=rules)
        self.filling = True
        while self.view.anything_free():
            for _ in range(max(1, gpus // 20)):
                self.hand_in()
            self.apply()
        self.filling = False
        while len(self.view.queue) < max(5, gpus // 5):
            self.hand_in()
        self.apply()

    def step(self) -> float:
        """Seconds that the decision took."""
        self.now += MINUTE
        for lease_id in sorted(self.view.suspending):
            self.requeue(self.view.leases[lease_id])
        self.view.remove_lease(self.chance.choice(list(self.view.leases)))
        self.hand_in()
        return self.apply()

    def hand_in(self) -> None:
        self.number += 1
        user = self.chance.randrange(max(10, self.gpus))
        count = self.chance.choices([1, 2, 4, 8], [80, 10, 7, 3])[0]
        ask = Ask(Kind.GPU, count, model=self.chance.choice(["", "", "H100"]))
        submitted = self.now - self.chance.random() * 3600
        groups = (f"g{user // 10}",)
        self.view.add_request(
            Request(self.number, f"u{user}/{self.number}", f"u{user}", ask, submitted, groups)
        )

    def apply(self) -> float:
        started = thread_time()
        decision = decide_view(self.view, self.now)
        seconds = thread_time() - started
        for grant in decision.grants:
            request = self.view.queue[grant.request_id]
            self.view.remove_request(request.id)
            begun = self.now - (self.chance.random() * 36000 if self.filling else 0)
            lease = Lease(
                request.id,
                request.id,
                request.holder,
                request.user,
                request.ask,
                grant.uuids,
                begun,
                request.groups,
            )
            self.view.add_lease(lease)
        for suspension in decision.suspensions:
            lease = self.view.leases[suspension.lease_id]
            self.view.remove_lease(lease.id)
            self.view.add_lease(replace(lease, suspending=True))
        return seconds

    def requeue(self, lease: Lease) -> None:
        """A suspended session waits for its next turn."""
        self.view.remove_lease(lease.id)
        had = lease.attained_at(self.now)
        self.view.add_request(
            Request(
                lease.id,
                lease.holder,
                lease.user,
                lease.ask,
                self.now,
                lease.groups,
                attained_seconds=had,
                resumes=True,
            )
        )

    def cluster(self) -> Cluster:
        view = self.view
        return Cluster(
            view.devices, tuple(view.leases.values()), tuple(view.queue.values()), rules=view.rules
        )


def measure_decisions(sizes: tuple[int, ...] = SIZES, steps: int = 200) -> dict[str, object]:
    """Milliseconds, by size; the growth exponents are between the two largest sizes."""
    result: dict[str, object] = {}
    for kind, rules in (("", Rules()), ("_with_turns", Rules(preempt=True))):
        medians: list[float] = []
        for gpus in sizes:
            progress(f"decisions{kind.replace('_', ' ')} at {gpus} GPUs")
            times = _times(gpus, rules, steps)
            medians.append(median(times))
            result[f"decision_ms_p50_at_{gpus}{kind}"] = round(median(times) * 1000, 4)
            result[f"decision_ms_p99_at_{gpus}{kind}"] = round(quantile(times, 0.99) * 1000, 4)
        growth = log10(medians[-1] / medians[-2]) / log10(sizes[-1] / sizes[-2])
        result[f"growth_exponent{kind}"] = round(growth, 3)
    for gpus in sizes:
        progress(f"a round of the hub at {gpus} GPUs")
        for part, seconds in _round_of_the_hub(gpus).items():
            result[f"decision_ms_{part}_at_{gpus}"] = round(seconds * 1000, 4)
    return result


def _times(gpus: int, rules: Rules, steps: int) -> list[float]:
    """From the first step on: with turns that is a burst, because sessions of ten hours meet others that wait."""
    traffic = Traffic(gpus, rules)
    return [traffic.step() for _ in range(steps)]


def _round_of_the_hub(gpus: int) -> dict[str, float]:
    """Seconds, the median of five, by part."""
    traffic = Traffic(gpus, Rules())
    cluster = traffic.cluster()
    view = View.of(cluster)
    times: dict[str, list[float]] = {"from_nothing": [], "following": [], "sentences": []}
    for _ in range(5):
        read = pickle.loads(pickle.dumps(cluster))  # equal and not the same, as from a database
        started = thread_time()
        decide(read, traffic.now)
        decided = thread_time()
        decision = decide_view(view.follow(read), traffic.now)
        followed = thread_time()
        dict(decision.waits)
        told = thread_time()
        for part, seconds in zip(
            times, (decided - started, followed - decided, told - followed), strict=True
        ):
            times[part].append(seconds)
    return {part: median(found) for part, found in times.items()}


def _two_models(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Every second host has another one."""
    return tuple(replace(d, model="NVIDIA H100" if int(d.host[4:]) % 2 else "NVIDIA A100") for d in devices)
