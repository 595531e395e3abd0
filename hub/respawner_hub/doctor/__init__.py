"""`respawner-hub doctor`: everything that can be proven of a deployment where it runs, by using it.

What is not there to be tried (no GPU, no second host) is "skipped" with its reason, and never "ok". Nothing that users
have is touched: a GPU that somebody holds or computes on is left alone. Not for what needs a person: a cable pulled, a
wild pointer; those are in docs/unverified.md.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence

from respawner_spawner.agent.client import Seen
from respawner_spawner.devices import inventory
from respawner_spawner.leases.ledger import Ledger

from .. import agent
from ..engines import engines_of
from ..images.fitness import Check
from ..settings import Settings
from . import deployment, gpus, sessions
from .verdict import verdict


def examine(
    settings: Settings,
    wanted_gpus: Sequence[str] = (),
    on_check: Callable[[Check], None] = lambda check: None,
) -> list[Check]:
    """Every check, in the order in which one would mend what they find; `on_check` sees each when it is done.

    :param wanted_gpus: UUIDs of the GPUs to try, all that are free where it is empty. One that is not free fails.
    """
    checks: list[Check] = []

    def note(check: Check) -> None:
        checks.append(check)
        on_check(check)

    engines = engines_of(settings)
    named = (lambda what, host: f"{what} {host}") if len(engines) > 1 else (lambda what, host: what)

    note(verdict("disk", deployment.disk, settings))
    note(database := verdict("database", deployment.database, settings))
    ledger = Ledger(settings.own_database_url) if database.state == "ok" else None
    reachable = {}
    for host, engine in engines.items():
        note(check := verdict(named("engine", host), deployment.engine, engine))
        if check.state == "ok":
            reachable[host] = engine
    note(verdict("clock", deployment.clock, reachable))
    note(verdict("swarm", deployment.swarm, settings, reachable))

    note(proxy := verdict("proxy", deployment.proxy, settings))
    note(hub := verdict("hub", deployment.hub, settings))
    seen: list[Seen] = []
    asked = verdict("agent", _ask_agents, settings, seen)
    if asked.state != "ok":
        note(asked)
    agents = [verdict(named("agent", one.host), deployment.agent, one) for one in seen]
    for check in agents:
        note(check)
    here_by_program = [proxy, hub] if settings.cluster else [proxy, hub, *agents]
    silent = [check.name for check in here_by_program if check.state == "failed"]
    note(verdict("ports", deployment.ports, settings, silent))
    for host, engine in reachable.items():
        note(verdict(named("network", host), deployment.network, settings, engine))
        note(verdict(named("storage", host), deployment.storage, settings, engine))

    here, answers = inventory(), [one.answer for one in seen if one.answer and not one.cause]
    told = next(
        (answer for answer in answers if not settings.cluster or answer.host == socket.gethostname()), None
    )

    def driver() -> str:
        known = None
        if ledger and told:
            known = {device.uuid for device in ledger.devices() if device.host == told.host}
        agents = told.report.inventory if told else None
        return gpus.driver(here, gpus.listed_by_nvidia_smi(), agents, known, gpus.on_the_bus())

    note(verdict("driver", driver))
    note(verdict("toolkit", gpus.toolkit, here, gpus.CDI_FOLDERS))
    note(verdict("versions", gpus.versions, here, settings.image.name))
    note(verdict("health", gpus.health, answers))

    def now() -> tuple[Mapping[str, sessions.Device], Mapping[str, str] | None]:
        if not settings.cluster and not answers:  # its agent is down, which failed above
            devices = {gpu.uuid: sessions.Device(socket.gethostname()) for gpu in here.gpus}
        else:
            anew: list[Seen] = []
            verdict("agent", _ask_agents, settings, anew)  # who does not answer tells of no device
            devices = sessions.devices_of([one.answer for one in anew if one.answer and not one.cause])
        return devices, sessions.holders_of(ledger)

    sessions.try_sessions(settings, reachable, named, note)
    sessions.try_gpus(settings, reachable, now, wanted_gpus, note)
    return checks


def _ask_agents(settings: Settings, seen: list[Seen]) -> str:
    """All at once; what each said is added to `seen`."""

    async def ask() -> list[Seen]:
        return list(await asyncio.gather(*(client.ask() for client in agent.clients(settings, 30))))

    seen += asyncio.run(ask())
    return "asked"
