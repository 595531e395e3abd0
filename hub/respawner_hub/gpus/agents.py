"""What the hosts' agents say, for the ledger, the scheduler and the admin's page. For one event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from respawner_spawner.agent.client import AgentClient, Seen
from respawner_spawner.devices.values import Report
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.records import Cordon

from .. import agent
from ..settings import Settings
from .use import Utilisation, utilisation_of
from .views import HEALTH

FRESH_SECONDS = 1.0
"""Less than the scheduler's pace, or it would ask only every second time."""


class Agents:
    """All hosts' agents, asked at the same time.

    :param clients: one a host.
    """

    def __init__(self, clients: Sequence[AgentClient]) -> None:
        self._clients = clients
        self._asked = 0.0

    @property
    def seen(self) -> list[Seen]:
        """What every agent said last."""
        return [client.seen for client in self._clients]

    async def ask(self) -> list[Seen]:
        """Ask again, unless that was a moment ago. Never raises."""
        if time.monotonic() - self._asked > FRESH_SECONDS:
            await asyncio.gather(*(client.ask() for client in self._clients))
            self._asked = time.monotonic()
        return self.seen

    async def readings(self) -> dict[str, dict[str, Any]]:
        """Device → its last reading and processes, as plain dicts."""
        seen = await self.ask()
        return {
            uuid: reading for report in _reports(seen, time.time()) for uuid, reading in readings_of(report)
        }

    async def clear(self, uuid: str) -> None:
        """An admin calls a device well: its agent forgets what was wrong with it.

        :raises AgentUnreachable:
        """
        await self.ask()  # the hub itself asks seldom
        for client in self._clients:
            known = client.seen.answer.report.inventory.found if client.seen.answer else ()
            if any(gpu.uuid == uuid for gpu in known):
                await client.clear(uuid)

    def utilisation(self) -> Utilisation:
        """Of the devices and sessions that tell."""
        return utilisation_of(_reports(self.seen, time.time()))


def agents_of(settings: Settings) -> Agents:
    """One a host."""
    return Agents(agent.clients(settings))


def newcomers(ledger: Ledger, seen: Iterable[Seen]) -> list[str]:
    """Hosts that answer and of which the ledger has never heard. Blocks."""
    known = {agent.host for agent in ledger.agents()}
    return [host.host for host in seen if host.answer and host.host not in known]


def tell(ledger: Ledger, seen: Iterable[Seen]) -> None:
    """Write down what the agents said. A silent one is not mentioned, and the ledger notices. Blocks."""
    for host in seen:
        if host.cause or host.answer is None:
            continue
        report = host.answer.report
        # An agent that has just started has not looked yet: that is not the same as no devices.
        looked = report.read_at or report.inventory.cause
        devices = report.devices(host.host) if looked else None
        ledger.heartbeat(host.host, devices, "; ".join(report.causes))
        _note_hang(ledger, host.host, report)
        for uuid, reason in health_changes(report, ledger.cordons()):
            if reason:
                ledger.cordon(uuid, reason, HEALTH)
            else:
                _uncordon(ledger, uuid)


def health_changes(report: Report, cordons: Iterable[Cordon]) -> list[tuple[str, str]]:
    """Devices to cordon, with the reason, and those that have recovered since, with "".

    That nothing is wrong now is no proof (the agent may have just started); an event "recovered" is.
    """
    ours = {cordon.target: cordon.since for cordon in cordons if cordon.by == HEALTH}
    ill = {health.uuid: "; ".join(health.words) for health in report.health if not health.ok}
    new = [(uuid, f"not healthy: {words}") for uuid, words in ill.items() if uuid not in ours]
    recovered = {event.uuid: event.at for event in report.events if event.kind == "recovered"}
    well = [(uuid, "") for uuid, since in ours.items() if uuid not in ill and recovered.get(uuid, 0) > since]
    return new + well


def strangers_of(seen: Iterable[Seen], deployment: str) -> dict[str, str]:
    """Device → who uses it, of processes that are no session of this deployment."""
    found: dict[str, str] = {}
    for report in _reports(seen, time.time()):
        for process in report.processes:
            if not process.holder.startswith(f"{deployment}/"):
                where = f" in container {process.container[:12]}" if process.container else ""
                found[process.uuid] = f"process {process.pid}{where}"
    return found


def unwatched(seen: Sequence[Seen], hosts: Collection[str]) -> set[str]:
    """Of these hosts those whose agent does not answer, or has just started and not looked at processes yet.

    An agent that has never answered has not even said which host it is of: it may be any that no other is of.
    """
    fresh = {id(report) for report in _reports(seen, time.time()) if report.processes_at}
    known = {host.host for host in seen if host.answer}
    silent = {host.host for host in seen if host.answer and id(host.answer.report) not in fresh}
    nameless = any(host.answer is None for host in seen)
    return {host for host in hosts if host in silent or (nameless and host not in known)}


def readings_of(report: Report) -> Iterable[tuple[str, dict[str, Any]]]:
    """(UUID, reading with its processes) of every device that was read."""
    for reading in report.readings:
        processes = [dataclasses.asdict(p) for p in report.processes if p.uuid == reading.uuid]
        yield reading.uuid, dataclasses.asdict(reading) | {"processes": processes}


def _note_hang(ledger: Ledger, host: str, report: Report) -> None:
    """A driver that hangs is no agent that is silent: the whole host takes no lease until NVML has answered again."""
    target = host_target(host)
    known = any(cordon.target == target and cordon.by == HEALTH for cordon in ledger.cordons())
    if report.stale and not known:
        ledger.cordon(target, f"out of sight: NVML does not answer on {host}", HEALTH)
    elif known and not report.stale and report.read_at:
        _uncordon(ledger, target)


def _uncordon(ledger: Ledger, uuid: str) -> None:
    for cordon in ledger.cordons():
        if cordon.target == uuid and cordon.by == HEALTH:
            ledger.uncordon(uuid, HEALTH, cordon.reason, "it has recovered")


def _reports(seen: Iterable[Seen], now: float) -> list[Report]:
    return [host.answer.report for host in seen if host.answer and not host.is_silent(now)]
