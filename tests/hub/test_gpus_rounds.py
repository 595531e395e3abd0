"""The scheduler's decisions over time, with the real ledger and policy; the hub is a few dictionaries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from respawner_hub.gpus import idle, views
from respawner_hub.gpus.actions import BadAction
from respawner_hub.gpus.desk import Desk
from respawner_hub.gpus.hub_client import HubError, ServerState
from respawner_hub.gpus.rounds import Policy
from respawner_hub.gpus.scheduler import Scheduler, Times
from respawner_hub.gpus.use import Utilisation, utilisation_of
from respawner_spawner.devices.values import GpuProcess, Reading, Report
from respawner_spawner.leases import accounting
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Device, Kind, Rules, State

ONE = Ask(Kind.GPU)
HELD, WARN = 600, 900


def holder(user: str) -> str:
    return f"test/{user}/"


@dataclass
class Hub:
    """What the scheduler asks a hub for. A start claims the lease, as the spawner does."""

    ledger: Ledger
    active: dict[str, float] = field(default_factory=dict)
    """User → last activity, of servers that run."""
    cells: dict[str, bool | None] = field(default_factory=dict)
    is_down: bool = False

    async def servers(self):
        return {(user, ""): ServerState(True, "", at) for user, at in self.active.items()}

    async def groups(self, user):
        return []

    async def server(self, user, name):
        if self.is_down:
            raise HubError("no answer")
        return ServerState(True, "", self.active[user]) if user in self.active else None

    async def cell_running(self, user, name):
        return self.cells.get(user, False)

    async def start(self, user, name):
        self.ledger.claim(holder(user))
        self.active[user] = self.ledger.clock()

    async def stop(self, user, name):
        self.active.pop(user, None)
        self.ledger.release(holder(user))


class World:
    """One host with a few GPUs, a scheduler, and time that a test lets pass."""

    def __init__(self, path, gpus: int, rules: Rules, idle_rules: idle.Rules) -> None:
        self.now = 1_000_000.0
        self.ledger = Ledger(f"sqlite:///{path}", lambda: self.now)
        self.devices = [Device(f"GPU-{n}", "gpu-a", "STAND-IN A100", 80 << 30) for n in range(gpus)]
        self.hub = Hub(self.ledger)
        self.used = Utilisation()
        self.scheduler = Scheduler(
            self.ledger,
            self.hub,
            Policy(rules),
            idle_rules,
            Times(warn_seconds=WARN, slot_held_seconds=HELD, utilisation=0.03),
            self._suspend,
            lambda: self.used,
        )

    async def _suspend(self, standing) -> str:
        """Instead of an engine: what does not work is durable, and stops."""
        _, user, name = standing.request.holder.split("/", 2)
        if self.hub.cells.get(user):
            return "a cell runs"
        await self.hub.stop(user, name)
        return ""

    def submit(self, user: str, **more) -> None:
        self.ledger.submit(holder(user), user, more.pop("ask", ONE), **more)

    def run(self, user: str, **more) -> None:
        """A session that has its devices and runs."""
        self.submit(user, **more)
        self.look()
        self.ledger.claim(holder(user))
        self.hub.active[user] = self.now

    def look(self) -> None:
        self._step("look")

    def watch(self) -> None:
        self._step("watch")

    def _step(self, name: str) -> None:
        async def step() -> None:
            self.ledger.heartbeat("gpu-a", self.devices)
            await getattr(self.scheduler, name)()
            await asyncio.gather(*self.scheduler._jobs.values())

        asyncio.run(step())

    def passes(self, seconds: float) -> None:
        """As the service does it: a look and a watch at the end."""
        self.now += seconds
        self.look()
        self.watch()

    def of(self, user: str):
        return self.ledger.request_of(holder(user))

    def state(self, user: str) -> State | None:
        found = self.of(user)
        return found.state if found else None

    def words(self, user: str) -> dict[str, str]:
        return views.wait_words(self.of(user), self.now)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "ledger.sqlite", 1, Rules(), idle.Rules(3600, 1, 1800))


# CPU now, GPU when free


@pytest.fixture
def in_a_cell(world):
    """Bob computes without a GPU and has just been granted one; carol came later."""
    world.hub.active["bob"] = world.now
    world.hub.cells["bob"] = True
    world.submit("bob", cpu_meanwhile=True)
    world.now += 60
    world.submit("carol")
    world.look()
    assert world.state("bob") is State.GRANTED
    return world


def test_a_gpu_is_held_for_a_cell_as_long_as_for_everybody_and_then_goes_on(in_a_cell):
    in_a_cell.passes(HELD - 1)
    assert (in_a_cell.state("bob"), in_a_cell.state("carol")) == (State.GRANTED, State.QUEUED)
    in_a_cell.passes(2)
    in_a_cell.look()
    assert (in_a_cell.state("bob"), in_a_cell.state("carol")) == (State.QUEUED, State.GRANTED)
    assert "bob" in in_a_cell.hub.active, "its session goes on"


def test_who_could_not_change_because_of_a_cell_keeps_the_place_and_is_told_so(in_a_cell):
    submitted = in_a_cell.of("bob").request.submitted
    in_a_cell.passes(HELD + 1)
    assert in_a_cell.words("bob") == {
        "position": "Your place is kept",
        "reason": "Your cell is still running: the GPU went on to the next; you keep your place.",
        "expected": "after the cell",
    }
    assert views.request_json(in_a_cell.of("bob"))["waits_for_cell"]
    in_a_cell.look()
    in_a_cell.ledger.claim(holder("carol"))
    in_a_cell.now += 60
    in_a_cell.submit("dave")
    in_a_cell.passes(5 * 3600)
    in_a_cell.hub.cells["bob"] = False
    in_a_cell.passes(10)
    in_a_cell.look()
    assert in_a_cell.of("bob").request.submitted == submitted
    assert [s.request.user for s in in_a_cell.ledger.queue()] == ["bob", "dave"]
    assert in_a_cell.words("bob")["position"] == "Next"


def test_a_device_that_is_free_goes_to_nobody_while_the_cell_runs_and_to_bob_afterwards(in_a_cell):
    in_a_cell.ledger.cancel(holder("carol"))
    in_a_cell.passes(HELD + 1)
    for _ in range(3):
        in_a_cell.passes(HELD + 1)
        assert in_a_cell.state("bob") is State.QUEUED
        assert in_a_cell.ledger.leases() == []
    in_a_cell.hub.cells["bob"] = False
    in_a_cell.passes(1)
    in_a_cell.passes(1)
    assert in_a_cell.state("bob") is State.GRANTED
    assert in_a_cell.of("bob").requeued == ""
    in_a_cell.passes(2)
    assert in_a_cell.state("bob") is State.RUNNING


@pytest.mark.parametrize("cell", [True, None])
def test_a_hub_that_cannot_tell_counts_as_a_cell_that_runs(in_a_cell, cell):
    in_a_cell.hub.cells["bob"] = cell
    in_a_cell.now += HELD + 1
    in_a_cell.hub.is_down = True
    in_a_cell.look()
    assert in_a_cell.of("bob").waits_for_cell
    in_a_cell.watch()
    assert in_a_cell.of("bob").waits_for_cell


def test_who_waits_for_a_cell_and_whose_session_is_gone_waits_no_longer(in_a_cell):
    in_a_cell.passes(HELD + 1)
    del in_a_cell.hub.active["bob"]
    in_a_cell.watch()
    assert not in_a_cell.of("bob").waits_for_cell, "its server is gone: it starts with its GPU"


def test_who_does_not_start_for_other_reasons_loses_the_grant_as_before(world):
    world.submit("ada")
    world.look()
    world.scheduler.hub.start = _refuse
    world.passes(HELD + 1)
    assert world.state("ada") is None
    assert world.ledger.ended(holder("ada"))[0].end_reason == "expired"


async def _refuse(user, name):
    raise HubError("too many servers start just now", 429)


# A grant on a device that falls ill


def test_a_grant_on_a_device_that_falls_ill_before_the_start_is_requeued_in_its_place_at_once(tmp_path):
    world = World(tmp_path / "ledger.sqlite", 2, Rules(), idle.Rules(3600, 1, 1800))
    world.submit("ada")
    world.look()
    granted = world.of("ada").lease
    world.now += 1
    world.run("bob")
    world.submit("carol")
    world.ledger.cordon(granted.uuids[0], "not healthy: Xid 79: GPU has fallen off the bus", "health")
    world.look()
    found = world.of("ada")
    assert (found.state, found.request.submitted) == (State.QUEUED, 1_000_000)
    assert found.wait.position == 1
    assert "Xid 79" in world.words("ada")["reason"]
    assert "you keep your place" in world.words("ada")["reason"]
    assert views.request_json(found)["reason"].startswith("What you were granted takes no sessions any more")
    assert [s.request.user for s in world.ledger.queue()] == ["ada", "carol"]
    world.ledger.release(holder("bob"))
    world.look()
    assert world.state("ada") is State.GRANTED
    assert world.of("ada").lease.fence > granted.fence
    assert world.of("ada").requeued == ""


def test_where_another_device_is_free_it_is_granted_in_the_same_look(tmp_path):
    world = World(tmp_path / "ledger.sqlite", 2, Rules(), idle.Rules(3600, 1, 1800))
    world.submit("ada")
    world.look()
    first = world.of("ada").lease.uuids
    world.devices = [device for device in world.devices if device.uuid not in first]
    world.look()
    assert world.of("ada").lease.uuids != first
    assert "revoked" in {entry.action for entry in world.ledger.audit(holder("ada"))}


def test_a_session_that_runs_on_a_device_that_falls_ill_keeps_it(world):
    world.run("ada")
    world.ledger.cordon("GPU-0", "not healthy: Xid 79", "health")
    world.look()
    assert world.state("ada") is State.RUNNING


# Shares that idle beside a busy one

HALF = Ask(Kind.SHARE, share_bytes=40 << 30)


def seen(*processes: GpuProcess, percent: int = 90, looked_at: float = 1) -> Utilisation:
    reading = Reading("GPU-0", 1, utilization_percent=percent)
    return utilisation_of([Report(1, 1, looked_at, readings=(reading,), processes=processes)])


def process(user: str, percent: int | None) -> GpuProcess:
    return GpuProcess("GPU-0", 1, 1 << 30, "c", holder(user) if user else "", percent)


@pytest.fixture
def shared(world):
    """Ada computes on her half of the GPU, bob has the other half and does nothing."""
    world.ledger.share("GPU-0", 80 << 30, "user:boss")
    for user in ("ada", "bob"):
        world.run(user, ask=HALF)
    world.watch()
    return world


def test_a_share_says_that_nothing_enforces_it(shared):
    assert views.request_json(shared.of("ada"))["separation"] == "advisory"


def idle_until_warned(world) -> None:
    world.passes(3700)
    world.passes(10)


def test_a_share_that_idles_is_reclaimed_although_its_neighbour_is_busy(shared):
    shared.used = seen(process("ada", 90), process("bob", 0))
    idle_until_warned(shared)
    assert shared.of("bob").warning == "it has idled for 1 h 2 min"
    assert shared.of("ada").warning == ""


def test_a_session_without_a_process_on_the_gpu_uses_nothing_of_it(shared):
    shared.used = seen(process("ada", 90))
    idle_until_warned(shared)
    assert shared.of("bob").warning
    assert not shared.of("ada").warning


@pytest.mark.parametrize(
    "unknown", [(process("ada", None), process("bob", None)), (process("ada", 90), process("", 5))]
)
def test_where_the_gpu_does_not_tell_whose_work_it_does_the_kernels_do_and_the_reason_says_so(
    shared, unknown
):
    shared.used = seen(*unknown)
    shared.now += 3690
    shared.hub.active["ada"] = shared.now
    shared.passes(10)
    said = "it has idled for 1 h 2 min by its kernels (the GPU does not tell which session's work it does)"
    assert shared.of("bob").warning == said
    assert shared.of("ada").warning == ""


def test_a_share_on_a_gpu_that_nobody_has_read_counts_as_used(shared):
    shared.used = Utilisation()
    idle_until_warned(shared)
    assert not shared.of("bob").warning


def test_a_gpu_that_computes_nothing_needs_no_list_of_its_processes(shared):
    shared.used = seen(percent=0, looked_at=0)
    idle_until_warned(shared)
    assert shared.of("bob").warning == "it has idled for 1 h 2 min"


def test_a_whole_gpus_use_is_its_holders_whatever_the_processes_say(world):
    world.run("ada")
    world.watch()
    world.used = seen(process("", 90))
    idle_until_warned(world)
    assert not world.of("ada").warning


def test_the_books_count_for_each_share_what_its_own_processes_computed(shared):
    shared.used = seen(process("ada", 80), process("bob", 10))
    for _ in range(7):
        shared.passes(10)
    rows = accounting.hours(shared.ledger, 0, shared.now, [accounting.By.USER])
    used = {row.user: row.used_hours / row.sampled_hours for row in rows}
    assert used == {"ada": pytest.approx(0.8, abs=0.01), "bob": pytest.approx(0.1, abs=0.01)}


# Turns


TURNS = Rules(preempt=True, min_run_seconds=60, slice_seconds=60, suspend_cost_seconds=10)


@pytest.fixture
def turns(tmp_path):
    """Ada and bob have had their GPUs for an hour, carol waits for one; the one who has had most is ada."""
    world = World(tmp_path / "ledger.sqlite", 2, TURNS, idle.Rules(0, 1, 1800))
    for user in ("ada", "bob"):
        world.run(user)
        world.now += 1
    world.used = Utilisation({"GPU-0": 0.9, "GPU-1": 0.9})
    world.passes(3600)
    world.submit("carol")
    world.passes(10)
    assert world.of("ada").warned_for_others
    assert not world.of("bob").reclaim_at
    return world


def both_run_cells(world, ada: bool, bob: bool) -> None:
    world.hub.cells = {"ada": ada, "bob": bob}


def test_sessions_that_go_in_and_out_of_cells_in_turns_do_not_keep_each_other_from_making_room(turns):
    began = turns.now
    flip = True
    while turns.state("carol") is State.QUEUED:
        flip = not flip
        both_run_cells(turns, ada=flip, bob=not flip)
        turns.passes(10)
        turns.passes(10)
        turns.look()
        assert turns.now - began < WARN + 120, "each countdown began anew with every change"
    ended = [entry.subject for entry in turns.ledger.audit() if entry.action == "suspending"]
    assert len(ended) == 1, "one of them is enough"


def test_the_other_is_forgiven_when_who_waited_has_a_gpu(turns):
    both_run_cells(turns, ada=True, bob=False)
    turns.passes(10)
    turns.passes(10)
    assert turns.of("ada").reclaim_at
    assert turns.of("bob").reclaim_at
    turns.passes(WARN)
    turns.passes(10)
    turns.look()
    assert turns.of("bob").request.resumes
    assert turns.state("carol") is State.GRANTED
    both_run_cells(turns, ada=False, bob=False)
    turns.ledger.cancel(holder("bob"))
    turns.passes(10)
    assert turns.of("ada").reclaim_at is None


def test_a_cell_that_begins_as_the_suspend_does_costs_nobody_the_whole_warning_again(turns):
    promised = turns.of("ada").reclaim_at
    turns.passes(promised - turns.now)
    turns.hub.cells["ada"] = True
    turns.look()
    found = turns.of("ada")
    assert (found.suspend_failure, found.reclaim_at) == ("a cell runs", promised)
    turns.hub.cells["ada"] = False
    turns.scheduler._not_before.clear()
    turns.passes(30)
    turns.look()
    assert turns.of("ada").request.resumes


def test_a_snooze_that_is_not_allowed_changes_nothing(turns):
    desk = Desk(turns.ledger, Policy(TURNS), turns.scheduler.idle_rules, max_gpus=1, default_gpus=0)
    before = turns.of("ada")
    turns.now += 60
    with pytest.raises(BadAction, match="Somebody waits for these GPUs"):
        desk.snooze(holder("ada"), "user:ada")
    turns.passes(10)
    after = turns.of("ada")
    assert (after.reclaim_at, after.snoozes, after.snoozed_until) == (before.reclaim_at, 0, None)
    turns.passes(before.reclaim_at - turns.now)
    turns.look()
    assert turns.of("ada").request.resumes


def test_where_it_is_allowed_a_snooze_puts_a_preemption_off(turns):
    turns.scheduler.idle_rules = idle.Rules(0, 1, 1800, can_snooze_preemption=True)
    desk = Desk(turns.ledger, Policy(TURNS), turns.scheduler.idle_rules, max_gpus=1, default_gpus=0)
    assert desk.snooze(holder("ada"), "user:ada").snoozes == 1
    turns.passes(WARN + 10)
    assert turns.state("ada") is State.RUNNING
    assert turns.of("ada").reclaim_at is None


def test_a_warning_for_idling_becomes_one_for_others_and_keeps_its_time(tmp_path):
    world = World(tmp_path / "ledger.sqlite", 1, TURNS, idle.Rules(1800, 1, 1800))
    world.run("ada")
    world.used = Utilisation({"GPU-0": 0.0})
    world.watch()
    world.passes(1900)
    promised = world.of("ada").reclaim_at
    assert promised
    assert not world.of("ada").warned_for_others
    world.submit("carol")
    world.passes(60)
    found = world.of("ada")
    assert (found.reclaim_at, found.warned_for_others) == (promised, True)
    assert "carol waits" in found.warning
    world.ledger.cancel(holder("carol"))
    world.passes(10)
    found = world.of("ada")
    assert (found.reclaim_at, found.warned_for_others) == (promised, False)
    assert "idled" in found.warning
