"""Plays a load through the real policy on a simulated clock.

A suspend holds the GPUs for half of `Rules.suspend_cost_seconds` more, a resume for the other half before the session
works again. The policy is asked at every event, and, where sessions may be suspended, every `TICK` seconds while
somebody waits. It never sees a duration.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import count
from time import thread_time

from respawner_spawner.leases.model import Ask, Decision, Device, Grant, Kind, Lease, Request, Rules
from respawner_spawner.leases.policy import decide_view
from respawner_spawner.leases.view import View

from .lease_metrics import Run
from .lease_trace import Load, hosts_of
from .table import progress

TICK = 300.0
MEMORY = 80 * 10**9


def devices(gpus: int) -> tuple[Device, ...]:
    return tuple(
        Device(f"GPU-{host:04}-{i}", f"host{host:04}", "GPU 80GB", MEMORY)
        for host, size in enumerate(hosts_of(gpus))
        for i in range(size)
    )


@dataclass(slots=True)
class Session:
    """What the player knows of a job and the policy does not."""

    left: float
    """Seconds that it still has to work."""
    attained: float = 0.0
    spans: list[tuple[float, float]] = field(default_factory=list)
    works_since: float = 0.0
    lease: Lease | None = None


class Player:
    def __init__(self, load: Load, rules: Rules, shown: str = "") -> None:
        self.load = load
        self.rules = rules
        self.shown = shown
        self.view = View(devices(load.gpus), rules=rules)
        self.sessions = [Session(job.duration) for job in load.jobs]
        self.suspends = 0
        self.decision_seconds: list[float] = []
        self._events: list[tuple[float, int, str, int, int]] = []
        """Time, tie, what, the job and the fence of the lease it is about."""
        self._ties = count()
        self._fences = count(1)

    def play(self) -> list[Run]:
        arrived, jobs = 0, self.load.jobs
        while arrived < len(jobs) or self._events:
            now = min(jobs[arrived].submit if arrived < len(jobs) else float("inf"), self._next_event())
            while self._events and self._events[0][0] <= now:
                self._happens(now, *heapq.heappop(self._events)[2:])
            while arrived < len(jobs) and jobs[arrived].submit <= now:
                self._queue(arrived, now)
                arrived += 1
                if self.shown and arrived % 10000 == 0:
                    progress(
                        f"  {self.shown}: {arrived} of {len(jobs)} jobs handed in, {len(self.view.queue)} wait"
                    )
            if self.view.queue:
                self._decide(now)
        return [Run(s.spans, s.spans[0][0], s.spans[-1][1]) for s in self.sessions]

    def _decide(self, now: float) -> None:
        started = thread_time()
        decision = decide_view(self.view, now)
        self.decision_seconds.append(thread_time() - started)
        self._apply(decision, now)
        if (
            self.rules.preempt
            and self.view.queue
            and not any(event[2] == "tick" for event in self._events[:1])
        ):
            self._at(now + TICK, "tick")

    def _apply(self, decision: Decision, now: float) -> None:
        for grant in decision.grants:
            self._start(grant, now)
        for suspension in decision.suspensions:
            self._suspend(suspension.lease_id, now)

    def _queue(self, index: int, now: float) -> None:
        job, session = self.load.jobs[index], self.sessions[index]
        ask = Ask(Kind.GPU, job.gpus, one_host=False)
        attained = session.attained
        self.view.add_request(
            Request(
                index,
                str(index),
                job.user,
                ask,
                now,
                (job.group,),
                attained_seconds=attained,
                resumes=attained > 0,
            )
        )

    def _start(self, grant: Grant, now: float) -> None:
        index = grant.request_id
        request, session = self.view.queue[index], self.sessions[index]
        self.view.remove_request(index)
        fence = next(self._fences)
        session.lease = Lease(
            index,
            fence,
            request.holder,
            request.user,
            request.ask,
            grant.uuids,
            now,
            request.groups,
            attained_seconds=session.attained,
        )
        self.view.add_lease(session.lease)
        session.works_since = now + (self.rules.suspend_cost_seconds / 2 if request.resumes else 0)
        self._at(session.works_since + session.left, "done", index, fence)

    def _suspend(self, index: int, now: float) -> None:
        self.suspends += 1
        session = self.sessions[index]
        assert session.lease is not None
        self._note_work(session, now)
        self.view.remove_lease(index)
        session.lease = replace(session.lease, suspending=True)
        self.view.add_lease(session.lease)
        self._at(now + self.rules.suspend_cost_seconds / 2, "gone", index, session.lease.fence)

    def _happens(self, now: float, what: str, index: int, fence: int) -> None:
        if what == "tick":
            return
        session = self.sessions[index]
        lease = session.lease
        if lease is None or lease.fence != fence or (what == "done" and lease.suspending):
            return
        if what == "done":
            self._note_work(session, now)
        else:
            session.attained = lease.attained_at(now)
        self.view.remove_lease(index)
        session.lease = None
        if what == "gone":
            self._queue(index, now)

    def _note_work(self, session: Session, now: float) -> None:
        if now > session.works_since:
            session.spans.append((session.works_since, now))
            session.left = max(0.0, session.left - (now - session.works_since))

    def _at(self, when: float, what: str, index: int = -1, fence: int = -1) -> None:
        heapq.heappush(self._events, (when, next(self._ties), what, index, fence))

    def _next_event(self) -> float:
        return self._events[0][0] if self._events else float("inf")
