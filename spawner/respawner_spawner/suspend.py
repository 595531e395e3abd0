"""Suspend: a running session becomes durable, its container stops, its devices are free for the next.

For the scheduler, a process of its own: it needs the engine, the ledger and a way to ask the hub, but no spawner.
The order is the promise: first every kernel confirms that its variables are on disk, then the hub is asked to stop
the server, and only the end of the container ends the lease. A session that cannot confirm keeps its devices, and
the ledger says why. Coming back needs nothing of this module: it is a request (`resumes`) and a start.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

from .container_spec import HOLDER_LABEL
from .durable import flush
from .engine import Engine
from .leases.ledger import Ledger
from .leases.model import Ask

POLL_SECONDS = 0.5
A_CELL_HAS_BEGUN = "a cell had begun before its container could be stopped, so it goes on"

ITS_USER_IS_BACK = "its user has come back to it while it was saved, so it goes on"


@dataclass(frozen=True)
class Outcome:
    """``done``: the container has stopped. Otherwise the session runs on with what it had, and `reason` says why."""

    done: bool
    reason: str = ""
    seconds: float = 0.0


class Server(Protocol):
    """One session's server, as the hub's API knows it. Each raises where the hub refuses or does not answer."""

    async def active(self) -> bool:
        """Whether the hub has it running, starting or stopping."""

    async def stop(self) -> None:
        """May return before it has stopped."""

    async def start(self) -> None:
        """With the options that it had. May return before it runs."""


async def suspend(
    ledger: Ledger,
    engine: Engine,
    server: Server,
    holder: str,
    *,
    reason: str,
    comes_back: Ask | None = None,
    by: str = "scheduler",
    flush_seconds: float = 120,
    stop_seconds: float = 300,
) -> Outcome:
    """Free the devices of a session without losing anything of it.

    :param comes_back: what it queues for again, in the same transaction in which its devices come free (preempted,
        moved, drained); None where its user comes for it (idle), or it goes on without a GPU.
    """
    if not await asyncio.to_thread(ledger.begin_suspend, holder, reason, comes_back, by):
        return Outcome(False, f"{holder} has no running lease")
    outcome = await stop_when_durable(
        engine, server, holder, flush_seconds=flush_seconds, stop_seconds=stop_seconds
    )
    if not outcome.done:
        await asyncio.to_thread(ledger.abort_suspend, holder, outcome.reason, by)
    return outcome


async def stop_when_durable(
    engine: Engine,
    server: Server,
    holder: str,
    *,
    flush_seconds: float = 120,
    stop_seconds: float = 300,
    also_unknown: bool = False,
) -> Outcome:
    """Stop a session that has everything on disk; one that has not goes on.

    :param also_unknown: also one whose server the hub does not know (its host was lost, and is back): nobody works in it,
        and its place shall be free.

    The spawner looks again directly before it stops the container of a session that is being suspended (see
    `GPUDockerSpawner.stop`). Where a cell has begun meanwhile it leaves the container alone; the hub has forgotten
    the server by then, and adopts it again at once.
    """
    started = time.monotonic()
    try:
        container = await running_container(engine, holder)
        if container is None:
            return Outcome(False, "no container of it runs; the next reconciliation says what became of it")
        known = await server.active()
        if not known and not also_unknown:
            return Outcome(False, "the hub does not know its server; the next start adopts its container")
        saved = await flush(engine, container, flush_seconds)
        if not saved.durable:
            return Outcome(False, saved.reason)
        if not known:
            if await server.active():  # to save takes a while, and a start adopts the container
                return Outcome(False, ITS_USER_IS_BACK)
            await engine.call("stop", container, timeout=round(flush_seconds))
            return Outcome(True, seconds=time.monotonic() - started)
        await server.stop()
        until = time.monotonic() + stop_seconds
        while await server.active():
            if time.monotonic() > until:
                return Outcome(False, f"the hub has not stopped it within {stop_seconds:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        if await running_container(engine, holder):
            await server.start()
            return Outcome(False, A_CELL_HAS_BEGUN)
    except Exception as error:  # whatever the hub's client raises: nothing is known to have stopped
        return Outcome(False, f"{type(error).__name__}: {error}")
    return Outcome(True, seconds=time.monotonic() - started)


async def running_container(engine: Engine, holder: str) -> str | None:
    """Id of the session's container, where one runs."""
    label = f"{HOLDER_LABEL}={holder}"
    found: list[dict[str, Any]] = await engine.call("containers", filters={"label": label})
    return found[0]["Id"] if found else None
