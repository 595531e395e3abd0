"""Sessions without GPUs on a host that is drained: saved, stopped, and started again on another one.

Those with GPUs have leases, which `drain` suspends by the ledger. Of the others only the host's engine knows. One whose
variables cannot be saved now goes on, and is tried again until the drain ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from respawner_spawner.container_spec import DEPLOYMENT_LABEL, GPUS_LABEL, HOLDER_LABEL
from respawner_spawner.engine import CALL_FAILED, Engine
from respawner_spawner.hosts import open_hosts
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.suspend import Outcome

from .containers import listed
from .drain import DRAINING, RETRY_LEAST_SECONDS
from .hub_client import HubClient, HubError

log = logging.getLogger(__name__)

Stop = Callable[[str, Engine], Awaitable[Outcome]]
"""Makes a session durable and stops it; the engine is the one that runs it."""


@dataclass
class Evacuation:
    """
    :param engines: host → its engine. With a single one there is nowhere to go, and nothing is done.
    """

    ledger: Ledger
    engines: Mapping[str, Engine]
    deployment: str
    hub: HubClient
    stop: Stop
    _jobs: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Holder → what is being done with its session."""
    _failures: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Holder → why it could not be stopped, and when that is tried again, in seconds of the monotonic clock."""

    async def look(self) -> None:
        """Begin to move those who are on drained hosts. Returns before they have moved."""
        if len(self.engines) < 2:
            return
        hosts = await asyncio.to_thread(self._drained)
        found = await asyncio.gather(*(self._without_gpus(host) for host in hosts))
        here = {holder: host for host, holders in zip(hosts, found, strict=True) for holder in holders}
        self._failures = {holder: failed for holder, failed in self._failures.items() if holder in here}
        for holder, host in here.items():
            if holder not in self._jobs and time.monotonic() >= self._failures.get(holder, ("", 0.0))[1]:
                task = self._jobs[holder] = asyncio.ensure_future(self._move(holder, host))
                task.add_done_callback(partial(self._ended, holder))

    def _drained(self) -> list[str]:
        drained = {c.target for c in self.ledger.cordons() if c.reason.startswith(DRAINING)}
        return [host for host in self.engines if host_target(host) in drained]

    async def _without_gpus(self, host: str) -> list[str]:
        """Holders of the sessions that run there."""
        try:
            found = await listed(self.engines[host], f"{DEPLOYMENT_LABEL}={self.deployment}")
        except CALL_FAILED as error:
            log.warning("%s is drained, and its engine does not say what runs there: %s", host, error)
            return []
        return [c["Labels"][HOLDER_LABEL] for c in found if not c["Labels"].get(GPUS_LABEL)]

    async def _move(self, holder: str, host: str) -> None:
        _, user, name = holder.split("/", 2)
        known = await self.hub.server(user, name) is not None
        outcome = await self.stop(holder, self.engines[host])
        if not outcome.done:
            await self._failed(holder, host, outcome.reason)
            return
        self._failures.pop(holder, None)
        why = f"{host} is drained"
        await asyncio.to_thread(self.ledger.note, "suspended", holder, "scheduler", why)
        open_now = await asyncio.to_thread(open_hosts, self.ledger, list(self.engines))
        if known and open_now:
            await self.hub.start(user, name, without_gpu=True)

    async def _failed(self, holder: str, host: str, why: str) -> None:
        if self._failures.get(holder, ("", 0.0))[0] != why:
            log.warning("%s is not suspended, though %s is drained: %s", holder, host, why)
            await asyncio.to_thread(self.ledger.note, "suspend aborted", holder, "scheduler", why)
        self._failures[holder] = (why, time.monotonic() + RETRY_LEAST_SECONDS)

    def _ended(self, holder: str, job: asyncio.Task[None]) -> None:
        self._jobs.pop(holder)
        if not job.cancelled() and (error := job.exception()):
            hint = "its user can start it" if isinstance(error, HubError) else type(error).__name__
            log.error("%s left its drained host: %s (%s)", holder, error, hint)
