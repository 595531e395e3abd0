"""`python -m respawner_hub.gpus.service`: the scheduler's process, from the settings to its loops."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from respawner_spawner.engine import Engine, engine_at
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.records import Standing
from respawner_spawner.suspend import Outcome, stop_when_durable

from ..engines import engine_of, engines_of
from ..settings import Settings, find_file, load
from .agents import Agents, agents_of, newcomers, strangers_of, tell, unwatched
from .containers import Reconciler, Unwatched, withhold
from .drain import DRAINING
from .evacuation import Evacuation
from .hub_client import HubClient, HubServer
from .loops import Step, at_first, repeat, until_told
from .rounds import idle_rules_of, policy_of
from .scheduler import LOOK_SECONDS, WATCH_SECONDS, Scheduler, Times
from .swarm import hear_the_swarm

RECONCILE_SECONDS = 30.0
ASK_SECONDS = 2.0

Compare = Callable[[Mapping[str, str], Unwatched], Awaitable[list[str]]]

log = logging.getLogger(__name__)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s scheduler: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    asyncio.run(_serve(load(find_file())))
    return 0


async def _serve(settings: Settings) -> None:
    """Until the hub that started us is gone."""
    ledger = await asyncio.to_thread(Ledger, settings.own_database_url)
    engines, agents = engines_of(settings), agents_of(settings)
    api_url, token = os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]
    hub = HubClient(api_url, token, settings.url)
    scheduler = _scheduler(settings, ledger, hub, engines, agents)
    reconciler = Reconciler(ledger, engines, settings.hub.name)
    evacuation = Evacuation(ledger, engines, settings.hub.name, hub, partial(_evacuate, settings, hub))
    looks: set[asyncio.Task[None]] = set()
    looking = asyncio.Lock()

    async def hear_the_agents() -> None:
        seen = await agents.ask()
        new = await asyncio.to_thread(newcomers, ledger, seen)
        await asyncio.to_thread(withhold, ledger, new, "scheduler")
        await asyncio.to_thread(tell, ledger, seen)
        if new:  # beside the heartbeats: a host that hangs must not make all the others' agents look silent
            look = asyncio.ensure_future(at_first(compare_with_the_engine, ASK_SECONDS))
            looks.add(look)
            look.add_done_callback(looks.discard)

    async def compare_with_the_engine(compare: Compare = reconciler.compare) -> None:
        async with looking:
            strangers = strangers_of(agents.seen, settings.hub.name)
            for sentence in await compare(strangers, partial(unwatched, agents.seen)):
                log.info("reconciled: %s", sentence)

    async def compare_promptly() -> None:
        await compare_with_the_engine(reconciler.compare_promptly)

    async def hear_of_the_nodes() -> None:
        if settings.cluster:
            await hear_the_swarm(ledger, engine_at(settings.engine.host), settings.cluster.hosts)

    work = asyncio.gather(
        schedule(hear_the_agents, compare_promptly, compare_with_the_engine, scheduler),
        repeat(hear_of_the_nodes, WATCH_SECONDS),
        repeat(evacuation.look, WATCH_SECONDS),
    )
    await until_told(os.getppid())
    work.cancel()


async def schedule(hear: Step, compare_promptly: Step, compare: Step, scheduler: Scheduler) -> None:
    """Until it is cancelled. Nothing is granted before it is known which devices there are, and who has them; for a host
    that hangs the others do not wait."""
    await at_first(hear, ASK_SECONDS)
    await at_first(compare_promptly, ASK_SECONDS)
    await asyncio.gather(
        repeat(hear, ASK_SECONDS),
        repeat(compare, RECONCILE_SECONDS),
        repeat(scheduler.look, LOOK_SECONDS),
        repeat(scheduler.watch, WATCH_SECONDS),
    )


def _scheduler(
    settings: Settings, ledger: Ledger, hub: HubClient, engines: Mapping[str, Engine], agents: Agents
) -> Scheduler:
    async def suspend(standing: Standing) -> str:
        holder, drains = standing.request.holder, standing.suspend_reason.startswith(DRAINING)
        server, engine = _server(hub, holder), await engine_of(engines, holder)
        outcome = await _stop(settings, server, holder, engine, also_unknown=drains)
        return "" if outcome.done else outcome.reason

    gpus = settings.gpus
    times = Times(
        warn_seconds=gpus.warn_minutes * 60,
        slot_held_seconds=gpus.slot_held_minutes * 60,
        utilisation=gpus.idle_utilisation_percent / 100,
    )
    policy, rules = policy_of(gpus), idle_rules_of(gpus)
    return Scheduler(ledger, hub, policy, rules, times, suspend, agents.utilisation)


async def _evacuate(settings: Settings, hub: HubClient, holder: str, engine: Engine) -> Outcome:
    server = _server(hub, holder, without_gpu=True)
    return await _stop(settings, server, holder, engine, also_unknown=True)


def _server(hub: HubClient, holder: str, *, without_gpu: bool = False) -> HubServer:
    _, user, name = holder.split("/", 2)
    return HubServer(hub, user, name, without_gpu)


async def _stop(
    settings: Settings, server: HubServer, holder: str, engine: Engine, *, also_unknown: bool
) -> Outcome:
    seconds = settings.session.stop_grace_seconds
    return await stop_when_durable(engine, server, holder, flush_seconds=seconds, also_unknown=also_unknown)


if __name__ == "__main__":
    sys.exit(main())
