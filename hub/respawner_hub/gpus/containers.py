"""The engine's side of the books: containers as `reconcile` wants them, and what it asks to be stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from docker.errors import NotFound
from respawner_spawner import container_spec
from respawner_spawner.engine import CALL_FAILED, Engine
from respawner_spawner.leases import reconcile
from respawner_spawner.leases.admin import UNKNOWN, host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.reconcile import Container, Do, Plan

T = TypeVar("T")
Unwatched = Callable[[Collection[str]], Collection[str]]
Looks = Mapping[str, asyncio.Future[list[Container] | None]]
"""Host → what its engine lists; None where it does not answer."""
STOP_SECONDS = 60
PROMPT_SECONDS = 2
"""What the other hosts wait for one that hangs."""
LIST_SECONDS = 20
"""From then on a host counts as one that does not answer."""

log = logging.getLogger(__name__)


class Reconciler:
    """Compares ledger and engines, and carries out what follows.

    :param engines: host, as its agent calls it → its engine.
    """

    def __init__(self, ledger: Ledger, engines: Mapping[str, Engine], deployment: str) -> None:
        self._ledger, self._engines, self._deployment = ledger, engines, deployment
        self._under_way: set[asyncio.Future[Any]] = set()

    async def compare(
        self, strangers: Mapping[str, str], unwatched: Unwatched = lambda hosts: ()
    ) -> list[str]:
        """What was done, in sentences. Hosts that answer at once do not wait for one that hangs.

        :param strangers: device → who uses it without being a session.
        :param unwatched: says of which of some hosts nobody can tell that now.
        """
        looks = self._ask_all()
        done, stops = await self._settle(looks, PROMPT_SECONDS, strangers, unwatched)
        if late := {host: look for host, look in looks.items() if not look.done()}:
            await asyncio.wait(late.values())
            more, stops_more = await self._settle(
                {**self._ask_all(but=late), **late}, LIST_SECONDS, strangers, unwatched
            )
            done, stops = done + more, stops + stops_more
        await asyncio.gather(*stops)
        return done

    async def compare_promptly(
        self,
        strangers: Mapping[str, str],
        unwatched: Unwatched = lambda hosts: (),
        seconds: float = PROMPT_SECONDS,
    ) -> list[str]:
        """The same for the hosts that answer within `seconds`; of the others everything stays as it is."""
        done, _ = await self._settle(self._ask_all(), seconds, strangers, unwatched)
        return done

    async def _settle(
        self, looks: Looks, seconds: float, strangers: Mapping[str, str], unwatched: Unwatched
    ) -> tuple[list[str], list[asyncio.Future[None]]]:
        """Sentences of what was done, and the stops that were begun."""
        plan = await self._plan_when_seen(looks, seconds, strangers, unwatched)
        if any(action.do in (Do.RELEASE, Do.FENCE_OFF) for action in plan.actions):
            # The engine's list is a little older than what the ledger said: a session that ended or began between
            # the two looks like one without a lease, or like a lease without a container.
            answered = {host for host, look in looks.items() if look.done() and look.result() is not None}
            again = {host: self._ask(host) if host in answered else look for host, look in looks.items()}
            plan = await self._plan_when_seen(again, seconds, strangers, unwatched)
        done = await asyncio.to_thread(reconcile.carry_out, self._ledger, plan)
        stops = [self._begin(self._stop(container)) for container in plan.fenced_off]
        return [f"{action.do.value} {action.subject}: {action.why}" for action in done], stops

    async def _plan_when_seen(
        self, looks: Looks, seconds: float, strangers: Mapping[str, str], unwatched: Unwatched
    ) -> Plan:
        if looks:
            await asyncio.wait(looks.values(), timeout=seconds)
        answers = {host: look.result() for host, look in looks.items() if look.done()}
        return await asyncio.to_thread(self._plan, answers, strangers, unwatched)

    def _ask_all(self, but: Collection[str] = ()) -> dict[str, asyncio.Future[list[Container] | None]]:
        return {host: self._ask(host) for host in self._engines if host not in but}

    def _ask(self, host: str) -> asyncio.Future[list[Container] | None]:
        return self._begin(self._containers(host))

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Go on with it also when nobody waits any more."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _containers(self, host: str) -> list[Container] | None:
        """None where the engine does not answer: then nothing is known of its host."""
        try:
            found = await listed(self._engines[host], container_spec.GPUS_LABEL, ended_too=True)
        except CALL_FAILED as error:
            log.warning("The engine of %s does not answer, its leases stay as they are: %s", host, error)
            return None
        return [container_of(item, self._deployment, host) for item in found]

    def _plan(
        self,
        answers: Mapping[str, list[Container] | None],
        strangers: Mapping[str, str],
        unwatched: Unwatched,
    ) -> Plan:
        """:param answers: of the hosts that have been asked for long enough; None from those that did not answer."""
        devices = self._ledger.devices()
        found = [container for containers in answers.values() for container in containers or ()]
        named = {device.host for device in devices}
        unreachable = {host for host, containers in answers.items() if containers is None}
        late = set(self._engines) - set(answers)
        if unreachable and unreachable == set(self._engines):
            unreachable |= named
        elif named & set(self._engines):
            # what runs on a host that the settings do not name any more, nobody has looked at
            unreachable |= named - set(self._engines)
        if late and late | unreachable >= set(self._engines):
            # nor has anybody looked on a host that its agent calls otherwise than the settings do
            late |= named - unreachable
        return reconcile.plan(
            reconcile.known(self._ledger, found),
            found,
            devices,
            self._ledger.clock(),
            unreachable=unreachable,
            late=late,
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
        except CALL_FAILED as error:
            log.error("Container %s could not be stopped: %s", container.id[:12], error)


async def listed(engine: Engine, label: str, *, ended_too: bool = False) -> list[dict[str, Any]]:
    """Entries of the engine's list of containers with that label; those that run, unless `ended_too`.

    :raises TimeoutError: it does not answer in time; and what `CALL_FAILED` has besides.
    """
    call = engine.call("containers", all=ended_too, filters={"label": label})
    found: list[dict[str, Any]] = await asyncio.wait_for(call, LIST_SECONDS)
    return found


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
    hold = container_spec.Hold.of(labels)
    return Container(
        id=found["Id"],
        host=host,
        running=found["State"] in ("running", "paused", "restarting"),
        holder=labels.get(container_spec.HOLDER_LABEL, "") if ours else "",
        user=labels.get(container_spec.USER_LABEL, ""),
        uuids=hold.uuids,
        fence=hold.fence,
        share_bytes=hold.share_bytes,
        groups=hold.groups,
        preemptible=hold.preemptible,
    )
