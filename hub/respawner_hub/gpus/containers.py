"""The engine's side of the books: containers as `reconcile` wants them, and what it asks to be stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from docker.errors import APIError, NotFound
from respawner_spawner import container_spec
from respawner_spawner.engine import UNREACHABLE, Engine
from respawner_spawner.leases import reconcile
from respawner_spawner.leases.admin import UNKNOWN, host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.reconcile import Container, Do, Plan

Unwatched = Callable[[Collection[str]], Collection[str]]
STOP_SECONDS = 60
LIST_SECONDS = 20
"""A host that hangs must not keep the others from being looked at."""

log = logging.getLogger(__name__)


class Reconciler:
    """Compares ledger and engines, and carries out what follows.

    :param engines: host, as its agent calls it → its engine.
    """

    def __init__(self, ledger: Ledger, engines: Mapping[str, Engine], deployment: str) -> None:
        self._ledger, self._engines, self._deployment = ledger, engines, deployment

    async def compare(
        self, strangers: Mapping[str, str], unwatched: Unwatched = lambda hosts: ()
    ) -> list[str]:
        """What was done, in sentences.

        :param strangers: device → who uses it without being a session.
        :param unwatched: says of which of some hosts nobody can tell that now.
        """
        plan = await self._look(strangers, unwatched)
        if any(action.do in (Do.RELEASE, Do.FENCE_OFF) for action in plan.actions):
            # The engine's list is a little older than what the ledger said: a session that ended or began between
            # the two looks like one without a lease, or like a lease without a container.
            plan = await self._look(strangers, unwatched)
        done = await asyncio.to_thread(reconcile.carry_out, self._ledger, plan)
        await asyncio.gather(*(self._stop(container) for container in plan.fenced_off))
        return [f"{action.do.value} {action.subject}: {action.why}" for action in done]

    async def _look(self, strangers: Mapping[str, str], unwatched: Unwatched) -> Plan:
        answers = await asyncio.gather(*(self._containers(host) for host in self._engines))
        found = dict(zip(self._engines, answers, strict=True))
        return await asyncio.to_thread(self._plan, found, strangers, unwatched)

    async def _containers(self, host: str) -> list[Container] | None:
        """None where the engine does not answer: then nothing is known of its host."""
        filters = {"label": container_spec.GPUS_LABEL}
        try:
            call = self._engines[host].call("containers", all=True, filters=filters)
            found = await asyncio.wait_for(call, LIST_SECONDS)
        except (*UNREACHABLE, APIError) as error:
            log.warning("The engine of %s does not answer, its leases stay as they are: %s", host, error)
            return None
        return [container_of(item, self._deployment, host) for item in found]

    def _plan(
        self,
        answers: Mapping[str, list[Container] | None],
        strangers: Mapping[str, str],
        unwatched: Unwatched,
    ) -> Plan:
        devices = self._ledger.devices()
        found = [container for containers in answers.values() for container in containers or ()]
        named = {device.host for device in devices}
        unreachable = {host for host, containers in answers.items() if containers is None}
        if unreachable == set(answers):
            unreachable |= named
        elif named & set(
            answers
        ):  # what runs on a host that the settings do not name any more, nobody has looked at
            unreachable |= named - set(answers)
        return reconcile.plan(
            reconcile.known(self._ledger, found),
            found,
            devices,
            self._ledger.clock(),
            unreachable=unreachable,
            strangers=strangers,
            unwatched=unwatched(named),
        )

    async def _stop(self, container: Container) -> None:
        log.error(
            "%s was given up and still runs: stopping container %s", container.holder, container.id[:12]
        )
        try:
            call = self._engines[container.host].call("stop", container.id, timeout=30)
            await asyncio.wait_for(call, STOP_SECONDS)
        except NotFound:
            return
        except (*UNREACHABLE, APIError) as error:
            log.error("Container %s could not be stopped: %s", container.id[:12], error)


def withhold(ledger: Ledger, hosts: Iterable[str], by: str) -> None:
    """Hand nothing out on these hosts before their containers have been compared with the ledger: that takes these
    cordons away. Blocks.

    In the ledger, so that it binds hub, spawner and scheduler, whoever of them looks at the containers first.
    """
    for host in hosts:
        ledger.cordon(
            host_target(host), f"{UNKNOWN}: {host} has not been looked at since the hub started", by
        )


def container_of(found: Mapping[str, Any], deployment: str, host: str) -> Container:
    """From an entry of the engine's list. Another deployment's session is no session of ours, but uses devices."""
    labels = found["Labels"]
    ours = labels.get(container_spec.DEPLOYMENT_LABEL) == deployment
    uuids = labels.get(container_spec.GPUS_LABEL, "")
    return Container(
        id=found["Id"],
        host=host,
        running=found["State"] in ("running", "paused", "restarting"),
        holder=labels.get(container_spec.HOLDER_LABEL, "") if ours else "",
        user=labels.get(container_spec.USER_LABEL, ""),
        uuids=tuple(uuid for uuid in uuids.split(",") if uuid),
        fence=int(labels.get(container_spec.FENCE_LABEL) or 0),
        share_bytes=int(labels.get(container_spec.SHARE_LABEL) or 0),
    )
