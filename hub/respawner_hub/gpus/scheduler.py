"""The scheduler: grants, starts what was granted, warns and suspends what idles, and keeps the books.

A service that the hub manages: it gets its token and the API's address from the hub, the hub starts it again when
it ends, and without a hub it could start nothing. All that it knows is in the ledger, so it may end at any moment.
What happens is decided elsewhere (`policy`, `idle`, `reconcile`); this is the loop and the effects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Lease, State, Suspension
from respawner_spawner.leases.records import EndReason, Standing, Use
from respawner_spawner.leases.view import View

from . import drain, idle, words
from .hop import MOVED
from .hub_client import HubClient, HubError, ServerState
from .idle import Verdict
from .rounds import Policy, Round, run_round
from .use import Utilisation

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
WATCH_SECONDS = 10.0
"""How often sessions are asked whether they work, and their use is written down."""
START_AFTER_SECONDS = 1.0
"""A grant that a handler of the hub goes on with at once is left to it."""
TAKE_OVER_SECONDS = 5.0
"""A suspension that somebody else began is left to them for so long. One of two that give up and go on at the same time
would stop a session that the other has found working."""
RETRY_SECONDS = 20.0
"""After a start or suspension that failed."""
START_TRIES = 5
"""Of a session that was moved to the CPU. Afterwards it waits for its user."""

CELL_RUNS = "Your cell is still running: the GPU went on to the next; you keep your place"

Suspend = Callable[[Standing], Awaitable[str]]
"""Makes a session durable and stops it; "" or why it goes on."""


@dataclass(frozen=True)
class Times:
    """Settings of the loop, in seconds."""

    warn_seconds: float
    slot_held_seconds: float
    utilisation: float
    """Share of its time, 0 to 1, from which on a GPU counts as used."""


@dataclass
class Scheduler:
    """
    :param utilisation: as the agents measured it last.
    """

    ledger: Ledger
    hub: HubClient
    policy: Policy
    idle_rules: idle.Rules
    times: Times
    suspend: Suspend
    utilisation: Callable[[], Utilisation]
    _used: dict[str, float] = field(default_factory=dict)
    """Holder → when one of its devices was last seen busy."""
    _jobs: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Holder → what is being done with its session."""
    _not_before: dict[str, float] = field(default_factory=dict)
    _suspensions: set[int] = field(default_factory=set)
    """Requests whose suspension this process began."""
    _wanted: dict[int, Suspension] = field(default_factory=dict)
    """Request → what the policy wants suspended for somebody else."""
    _view: View | None = None
    """Of the last round."""
    _told: dict[int, Suspension] = field(default_factory=dict)
    """Request → what it wanted for somebody who still waits, and for whom it names another session now."""

    async def look(self) -> None:
        """Grant, start what was granted, and go on with suspensions."""
        view, self._view = self._view, None  # of a round that fails nothing is kept
        found = await asyncio.to_thread(run_round, self.ledger, self.policy, view)
        self._view = found.view
        for lease in found.granted:
            log.info("%s has %s", lease.holder, ", ".join(lease.uuids))
        self._wanted, self._told = _wanted(self._wanted, self._told, found)
        late: list[Standing] = []
        for standing in await asyncio.to_thread(self.ledger.standings):
            if standing.suspending_since is not None:
                age = self.ledger.clock() - standing.suspending_since
                if standing.request.id in self._suspensions or age > TAKE_OVER_SECONDS:
                    self._begin(standing.request.holder, self._suspend(standing))
            elif standing.state is State.GRANTED:
                waited = self.ledger.clock() - (standing.granted_at or 0.0)
                if standing.request.holder in self._jobs:
                    continue  # it is being started: whoever changes from the CPU saves first
                if waited > self.times.slot_held_seconds:
                    late.append(standing)
                elif waited > START_AFTER_SECONDS:
                    self._begin(standing.request.holder, self._start(standing))
        if late:
            await self._give_back(late)

    async def _give_back(self, late: list[Standing]) -> None:
        """End grants whose sessions did not start in time; who could not because of a cell keeps the place, and whose server
        is starting now (its image is being pulled) the grant."""
        spared = set(self._jobs)
        for standing in late:
            lease, holder = standing.lease, standing.request.holder
            if await self._is_starting(holder):
                spared.add(holder)
                continue
            if standing.request.cpu_meanwhile and lease and await self._is_in_a_cell(holder):
                await asyncio.to_thread(
                    self.ledger.revoke, holder, lease.fence, CELL_RUNS, "scheduler", until_cell_ends=True
                )
        await asyncio.to_thread(
            self.ledger.expire, held_seconds=self.times.slot_held_seconds, spared=list(spared)
        )

    async def _is_starting(self, holder: str) -> bool:
        """Not where nobody can tell: a hub that is away starts nothing."""
        _, user, name = holder.split("/", 2)
        try:
            server = await self.hub.server(user, name)
        except HubError:
            return False
        return server is not None and server.pending == "spawn"

    async def _offer_again(self) -> None:
        """Those whose cell has ended, and those whose server is gone, have their turn again."""
        for standing in await asyncio.to_thread(self.ledger.waiting_for_cells):
            if not await self._is_in_a_cell(standing.request.holder):
                await asyncio.to_thread(
                    self.ledger.offer_again, standing.request.holder, "its cell has ended"
                )

    async def _is_in_a_cell(self, holder: str) -> bool:
        """Also where nobody can tell."""
        _, user, name = holder.split("/", 2)
        try:
            runs = await self.hub.server(user, name) is not None
        except HubError:
            return True
        return runs and await self.hub.cell_running(user, name) is not False

    async def watch(self) -> None:
        """See who works; warn, forgive and suspend who does not; serve again whose cell kept it from its GPU."""
        await self._offer_again()
        used = self.utilisation()
        standings = [s for s in await asyncio.to_thread(self.ledger.standings) if s.state is State.RUNNING]
        if not standings:
            return
        await asyncio.to_thread(self.ledger.note_use, _uses(standings, used))
        servers = await self.hub.servers()
        stopping = set()
        for standing in standings:
            _, user, name = standing.request.holder.split("/", 2)
            server = servers.get((user, name))
            if server and server.pending == "stop":
                stopping.add(standing.request.holder)  # suspended now it would come back after its end
            elif server:
                await self._judge(standing, server, used)
        await asyncio.to_thread(drain.suspend_due, self.ledger, "scheduler", leave=stopping)
        self._used = {
            holder: at
            for holder, at in self._used.items()
            if any(s.request.holder == holder for s in standings)
        }

    # One session --------------------------------------------------------------------------------------

    async def _judge(self, standing: Standing, server: ServerState, used: Utilisation) -> None:
        now, holder, lease = self.ledger.clock(), standing.request.holder, standing.lease
        session = self._session(standing, server, used, now)
        wanted = self._wanted.get(standing.request.id)
        # Who was seen in a cell is asked until it has ended: the policy chooses nobody meanwhile.
        if wanted or (lease and lease.cell_running) or idle.is_due(session, self.idle_rules, now):
            _, user, name = holder.split("/", 2)
            session = idle.with_cell(session, await self.hub.cell_running(user, name))
        idle_seconds = max(0.0, now - session.idle_since())
        await asyncio.to_thread(self.ledger.note_activity, holder, idle_seconds, session.cell_running is True)
        if standing.suspending_since is not None or (standing.request.id in self._told and not wanted):
            return  # who was told keeps the warning, and its time, until the one who waits is served
        judge = idle.judge_preemption if wanted else idle.judge
        reason = wanted.reason if wanted else _idled(standing, idle_seconds, used)
        await self._act(judge(session, self.idle_rules, now), standing, wanted, reason)

    def _session(
        self, standing: Standing, server: ServerState, used: Utilisation, now: float
    ) -> idle.Session:
        holder, lease = standing.request.holder, standing.lease
        assert lease is not None
        tells = [uuid for uuid in lease.uuids if not uuid.startswith("MIG-")]
        if any(_is_used(lease, uuid, used, self.times.utilisation) for uuid in tells):
            self._used[holder] = now
        # The time before this process counts as used.
        last = self._used.setdefault(holder, now) if tells else None
        return idle.Session(
            since=standing.claimed_at or lease.since,
            gpu_used=last,
            kernel_active=server.last_activity,
            reclaim_at=standing.reclaim_at,
            snoozed_until=standing.snoozed_until,
        )

    async def _act(
        self, verdict: Verdict, standing: Standing, wanted: Suspension | None, reason: str
    ) -> None:
        holder, now = standing.request.holder, self.ledger.clock()
        for_others = wanted is not None
        if verdict is Verdict.WARN:
            await self._warn(holder, reason, now + self.times.warn_seconds, for_others)
        elif verdict is Verdict.LEAVE and standing.reclaim_at and standing.warned_for_others != for_others:
            await self._warn(
                holder, reason, standing.reclaim_at, for_others
            )  # for another reason, the time stays
        elif verdict is Verdict.FORGIVE:
            await asyncio.to_thread(self.ledger.withdraw_warning, holder, "it works again")
        elif verdict is Verdict.SUSPEND and now >= self._not_before.get(holder, 0):
            # Who gives way for others comes back by itself; who idled, when its user comes.
            back = standing.request.ask if wanted else None
            self._suspensions.add(standing.request.id)
            await asyncio.to_thread(self.ledger.begin_suspend, holder, reason, back)

    async def _warn(self, holder: str, reason: str, reclaim_at: float, for_others: bool) -> None:
        await asyncio.to_thread(self.ledger.warn, holder, reason, reclaim_at, for_others=for_others)

    def _begin(self, holder: str, job: Coroutine[Any, Any, None]) -> None:
        """Do one thing with a session at a time, and after a failure not at once again."""
        if holder in self._jobs or time.time() < self._not_before.get(holder, 0):
            job.close()
            return
        task = self._jobs[holder] = asyncio.ensure_future(job)
        task.add_done_callback(lambda done: self._ended(holder, done))

    def _ended(self, holder: str, job: asyncio.Task[None]) -> None:
        self._jobs.pop(holder)
        if not job.cancelled() and (error := job.exception()):
            self._not_before[holder] = time.time() + RETRY_SECONDS
            log.error("%s: %s: %s", holder, type(error).__name__, error)

    async def _start(self, standing: Standing) -> None:
        holder = standing.request.holder
        _, user, name = holder.split("/", 2)
        try:
            if standing.request.cpu_meanwhile and not await self._leave_the_cpu(standing):
                self._not_before[holder] = time.time() + RETRY_SECONDS
                return
            await self.hub.start(user, name)
        except HubError as error:
            log.warning("%s does not start: %s", holder, error)
            self._not_before[holder] = time.time() + RETRY_SECONDS
            if error.status == 404:
                await asyncio.to_thread(self.ledger.cancel, holder, "scheduler", "its user is gone")

    async def _leave_the_cpu(self, standing: Standing) -> bool:
        """A session that ran without a GPU until it got one stops, if that loses nothing; else it is asked again."""
        holder = standing.request.holder
        _, user, name = holder.split("/", 2)
        if await self.hub.server(user, name) is None:
            return True
        works = await self.hub.cell_running(user, name) is not False
        if works and not self.idle_rules.interrupt_cells:
            log.info("%s has its GPU and changes to it when its cell has ended", holder)
            return False
        failure = await self.suspend(standing)
        if failure:
            log.warning("%s has its GPU and cannot change to it: %s", holder, failure)
        return not failure

    async def _suspend(self, standing: Standing) -> None:
        holder = standing.request.holder
        self._suspensions.discard(standing.request.id)
        log.info("Suspending %s: %s", holder, standing.suspend_reason)
        try:
            failure = await self.suspend(standing)
        except (
            Exception
        ) as error:  # whatever engine and hub raise: the session goes on, and the admin sees why
            failure = f"{type(error).__name__}: {error}"
        if failure:
            log.warning("%s is not suspended: %s", holder, failure)
            self._not_before[holder] = time.time() + RETRY_SECONDS
            works = await self._is_in_a_cell(holder)
            aborted = await asyncio.to_thread(self.ledger.abort_suspend, holder, failure, stays_warned=works)
            if aborted and self.idle_rules.interrupt_cells:  # else somebody stopped it for good meanwhile
                await self._interrupt(standing)
        elif standing.comes_back is None and standing.suspend_reason.startswith(MOVED):
            ended = await asyncio.to_thread(self.ledger.request, standing.request.id)
            if ended and ended.end_reason is EndReason.SUSPENDED:
                await self._start_without_gpu(holder)

    async def _start_without_gpu(self, holder: str) -> None:
        """Of this start the ledger knows nothing, so it is tried again here. Its state is safe in any case."""
        _, user, name = holder.split("/", 2)
        for _ in range(START_TRIES):
            try:
                await self.hub.start(user, name)
                return
            except HubError as error:
                log.warning("%s was moved to the CPU and does not start: %s", holder, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _interrupt(self, standing: Standing) -> None:
        """Stop a session whose cell keeps it from being saved, where the admin's setting says so.

        An ordinary stop: the kernels have the usual time to save, and what the cell did since is lost.
        """
        request = standing.request
        _, user, name = request.holder.split("/", 2)
        if await self.hub.cell_running(user, name) is False:
            return  # it is something else, which the admin should see
        log.warning("%s is stopped in its cell: [gpus] interrupt_cells", request.holder)
        await self.hub.stop(user, name)
        while await self.hub.server(user, name) is not None:  # noqa: ASYNC110  # the hub tells nobody
            await asyncio.sleep(LOOK_SECONDS)
        if standing.comes_back:
            await asyncio.to_thread(
                self.ledger.submit,
                request.holder,
                request.user,
                standing.comes_back,
                groups=request.groups,
                priority=request.priority,
                preemptible=request.preemptible,
                resumes=True,
                by="scheduler",
            )


def _wanted(
    before: dict[int, Suspension], told: dict[int, Suspension], found: Round
) -> tuple[dict[int, Suspension], dict[int, Suspension]]:
    """What shall be suspended now, and whose warning stays meanwhile.

    The policy chooses nobody whose cell runs. A session that was warned before its cell began stays chosen where that
    leaves the one who waits with nobody: it is suspended at the first pause after its time. Where the policy names
    another one instead, the first keeps its warning until the one who waits is served: sessions that go in and out of
    cells would otherwise be warned anew in turns, and none of them would ever make room.
    """
    chosen = {suspension.lease_id: suspension for suspension in found.decision.suspensions}
    others = {id_: s for id_, s in (told | before).items() if id_ not in chosen}
    named_for = {suspension.for_request for suspension in chosen.values()}
    granted = {grant.request_id for grant in found.decision.grants}
    alone = {request.id for request in found.cluster.queue} - named_for - granted
    in_a_cell = {lease.id for lease in found.cluster.leases if lease.cell_running}
    kept = {id_: s for id_, s in others.items() if id_ in in_a_cell and s.for_request in alone}
    return kept | chosen, {id_: s for id_, s in others.items() if s.for_request in named_for}


def _is_used(lease: Lease, uuid: str, used: Utilisation, least: float) -> bool:
    """Whether a session uses a device. A GPU that nobody has read, as with a silent agent, counts as used; a share of one
    that does not tell whose work it does counts as not used, which leaves the kernels to tell."""
    device = used.of_device.get(uuid, 1.0)
    if not lease.share_bytes or uuid not in used.of_device or device < least:
        return device >= least
    return used.tells(uuid) and used.by(lease.holder, uuid) >= least


def _idled(standing: Standing, idle_seconds: float, used: Utilisation) -> str:
    said, lease = f"it has idled for {words.duration(idle_seconds)}", standing.lease
    if lease and lease.share_bytes and not all(used.tells(uuid) for uuid in lease.uuids):
        said += " by its kernels (the GPU does not tell which session's work it does)"
    return said


def _uses(standings: list[Standing], used: Utilisation) -> list[Use]:
    """What each session's devices do. Of a shared device that does not tell whose work it does all have a part."""
    holders: dict[str, int] = {}
    for standing in standings:
        for uuid in standing.lease.uuids if standing.lease else ():
            holders[uuid] = holders.get(uuid, 0) + 1
    return [
        Use(
            standing.request.holder,
            uuid,
            used.by(standing.request.holder, uuid)
            if holders[uuid] > 1 and used.tells(uuid)
            else used.of_device[uuid] / holders[uuid],
        )
        for standing in standings
        for uuid in (standing.lease.uuids if standing.lease else ())
        if uuid in used.of_device
    ]
