"""Ledger against engine, with a stand-in for the engine: what it lists is said by the test."""

from __future__ import annotations

import asyncio
import time

import pytest
from respawner_hub.engines import engine_of
from respawner_hub.gpus import containers, idle, service
from respawner_hub.gpus.actions import BadAction
from respawner_hub.gpus.containers import Reconciler, withhold
from respawner_hub.gpus.desk import Desk, Session
from respawner_hub.gpus.rounds import Policy, run_round
from respawner_spawner.leases.admin import UNKNOWN
from respawner_spawner.leases.model import Ask, Device, Kind, Rules, State
from respawner_spawner.leases.reconcile import SILENT_ENGINE, lost_hosts
from respawner_spawner.leases.records import EndReason

from tests.spawner.ledgers import holder, run

ADA = holder("ada")


class StandInEngine:
    """`looks`: what it lists, one look after the other; the last one stays."""

    def __init__(self, *looks: list[dict]) -> None:
        self.looks, self.stopped, self.away = list(looks), [], False

    async def call(self, method: str, *args, **kwargs):
        if self.away:
            raise ConnectionError("no route to host")
        if method == "stop":
            return self.stopped.append(args[0])
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


@pytest.fixture
def ledger(ledger):
    ledger.heartbeat("gpu-a", [Device("GPU-0", "gpu-a", "STAND-IN A100", 80 << 30)])
    return ledger


def entry(lease) -> dict:
    labels = {"deployment": "team", "holder": ADA, "user": "ada", "gpus": "GPU-0", "fence": str(lease.fence)}
    return {
        "Id": "c1",
        "State": "running",
        "Labels": {f"org.respawner.{k}": v for k, v in labels.items()},
    }


async def compare(ledger, engine, strangers=None, unwatched=lambda hosts: ()):
    reconciler = Reconciler(ledger, {"gpu-a": engine}, "team")
    return await reconciler.compare(strangers or {}, unwatched)


async def test_a_session_that_ended_while_the_engine_was_asked_is_not_fenced_off(ledger):
    lease = run(ledger, "ada", "GPU-0")
    ledger.release(ADA)
    engine = StandInEngine([entry(lease)], [])
    assert await compare(ledger, engine) == []
    assert (engine.stopped, ledger.cordons()) == ([], [])


async def test_a_container_that_still_runs_at_the_second_look_is_fenced_off(ledger):
    lease = run(ledger, "ada", "GPU-0")
    ledger.release(ADA)
    engine = StandInEngine([entry(lease)])
    assert await compare(ledger, engine)
    assert engine.stopped == ["c1"]


async def test_a_container_that_came_while_the_engine_was_asked_keeps_its_lease(ledger, clock):
    lease = run(ledger, "ada", "GPU-0")
    clock.now += 3600
    assert await compare(ledger, StandInEngine([], [entry(lease)])) == []
    assert ledger.request_of(ADA).lease.fence == lease.fence


async def test_what_is_withheld_is_handed_out_when_its_engine_has_answered_and_not_before(ledger):
    withhold(ledger, ["gpu-a"], "hub")
    assert ledger.devices()[0].cordon == "holder unknown: gpu-a has not been looked at since the hub started"
    engine = StandInEngine([])
    engine.away = True
    await compare(ledger, engine)
    assert ledger.devices()[0].cordon == SILENT_ENGINE
    engine.away = False
    await compare(ledger, engine)
    assert ledger.devices()[0].cordon == ""


async def test_a_session_on_a_lost_host_is_given_up_and_fenced_off_when_the_host_is_back(ledger):
    desk = Desk(ledger, Policy(Rules()), idle.Rules(3600, 1, 1800), max_gpus=1, default_gpus=0)
    lease = run(ledger, "ada", "GPU-0")
    engine = StandInEngine([entry(lease)])
    await compare(ledger, engine)
    with pytest.raises(BadAction, match="ada is on gpu-a, which answers, so its session can be saved"):
        desk.give_up(ADA, "fire", "user:boss")
    engine.away = True
    await compare(ledger, engine)
    assert "the engine of gpu-a does not answer" in ledger.request_of(ADA).flag
    desk.give_up(ADA, "fire", "user:boss")
    assert ledger.has_ended(ADA, lease.fence)
    with pytest.raises(BadAction, match="ada has no session with GPUs"):
        desk.give_up(ADA, "fire", "user:boss")

    again = desk.ask(Session(ADA, "ada"), {"gpus": 1})
    assert again.state is State.QUEUED, "nobody knows yet what runs there"
    await compare(ledger, engine)
    engine.away = False
    await compare(ledger, engine)
    assert engine.stopped == ["c1"]
    run_round(ledger, desk.policy)
    assert ledger.request_of(ADA).state is State.QUEUED, "its old container may still be there"
    engine.looks = [[entry(lease) | {"State": "exited"}]]
    await compare(ledger, engine)
    run_round(ledger, desk.policy)
    assert ledger.request_of(ADA).lease.fence > lease.fence
    assert [(e.by, e.action, e.reason) for e in ledger.audit() if e.action in ("lost", "fenced off")] == [
        ("reconcile", "fenced off", f"container c1 is stopped: its lease (fence {lease.fence}) has ended"),
        ("user:boss", "lost", "fire"),
    ]


async def test_an_agent_that_has_not_looked_at_processes_does_not_free_what_a_stranger_uses(ledger):
    engine = StandInEngine([])
    await compare(ledger, engine, {"GPU-0": "process 4711"})
    await compare(ledger, engine, unwatched=lambda hosts: hosts)
    assert "process 4711" in ledger.devices()[0].cordon
    await compare(ledger, engine)
    assert ledger.devices()[0].cordon == ""


class HungEngine:
    """Answers nothing, as where the network swallows everything."""

    async def call(self, method: str, *args, **kwargs):
        await asyncio.Event().wait()


async def test_a_host_that_hangs_keeps_its_leases_and_nobody_from_the_others(ledger, monkeypatch):
    monkeypatch.setattr(containers, "LIST_SECONDS", 0.05)
    monkeypatch.setattr(containers, "PROMPT_SECONDS", 60)
    ledger.heartbeat("gpu-b", [Device("GPU-1", "gpu-b", "STAND-IN A100", 80 << 30)])
    kept, ended = run(ledger, "grace", "GPU-1"), run(ledger, "ada", "GPU-0")
    ledger.release(ADA)
    answers = StandInEngine([entry(ended)])
    await Reconciler(ledger, {"gpu-a": answers, "gpu-b": HungEngine()}, "team").compare({})
    assert answers.stopped == ["c1"]
    assert ledger.request_of(holder("grace")).lease.fence == kept.fence
    assert lost_hosts(ledger.cordons()) == {"gpu-b"}


async def test_a_host_that_hangs_when_the_hub_starts_delays_nothing_on_the_others(ledger, monkeypatch):
    """Its own devices stay withheld, its leases kept; nobody has called it lost yet."""
    monkeypatch.setattr(containers, "PROMPT_SECONDS", 1)
    monkeypatch.setattr(containers, "LIST_SECONDS", 3600)
    ledger.heartbeat("gpu-b", [Device("GPU-1", "gpu-b", "STAND-IN A100", 80 << 30)])
    kept = run(ledger, "grace", "GPU-1")
    withhold(ledger, ["gpu-a", "gpu-b"], "hub")
    ledger.submit(ADA, "ada", Ask(Kind.GPU))
    reconciler = Reconciler(ledger, {"gpu-a": StandInEngine([]), "gpu-b": HungEngine()}, "team")
    full = asyncio.ensure_future(reconciler.compare({}))
    began = time.monotonic()
    while not run_round(ledger, Policy(Rules())).granted:
        assert time.monotonic() - began < 120, "long before the host that hangs counts as silent"
        await asyncio.sleep(0.05)
    assert not full.done()
    full.cancel()
    assert ledger.request_of(ADA).lease.uuids == ("GPU-0",)
    standing = ledger.request_of(holder("grace"))
    assert (standing.lease.fence, standing.flag) == (kept.fence, "")
    assert [(cordon.target, cordon.reason) for cordon in ledger.cordons()] == [
        ("host:gpu-b", "holder unknown: gpu-b has not been looked at since the hub started")
    ]


async def test_what_was_said_of_a_host_that_is_late_stays(ledger, monkeypatch):
    monkeypatch.setattr(containers, "LIST_SECONDS", 0.05)
    ledger.heartbeat("gpu-b", [Device("GPU-1", "gpu-b", "STAND-IN A100", 80 << 30)])
    run(ledger, "grace", "GPU-1")
    reconciler = Reconciler(ledger, {"gpu-a": StandInEngine([]), "gpu-b": HungEngine()}, "team")
    await reconciler.compare({})
    before = (ledger.cordons(), ledger.request_of(holder("grace")).flag)
    assert "the engine of gpu-b does not answer" in before[1]
    monkeypatch.setattr(containers, "LIST_SECONDS", 60)
    assert await reconciler.compare_promptly({}, seconds=0.05) == []
    assert (ledger.cordons(), ledger.request_of(holder("grace")).flag) == before


@pytest.mark.parametrize("other", [[], ["gpu-c"]])
async def test_a_slow_engine_whose_host_has_another_name_now_ends_no_lease(ledger, clock, other):
    """The machine was renamed: its agent's devices stand in the ledger under the old name. Nobody has looked there."""
    kept = run(ledger, "ada", "GPU-0")
    stranger = f"{UNKNOWN}: used by process 4711"
    ledger.cordon("GPU-0", stranger, "reconcile")
    clock.now += 3600
    away = StandInEngine([])
    away.away = True
    engines = {"renamed": HungEngine(), **dict.fromkeys(other, away)}
    reconciler = Reconciler(ledger, engines, "team")
    assert not [done for done in await reconciler.compare_promptly({}, seconds=0.05) if "gpu-c" not in done]
    assert ledger.request_of(ADA).lease.fence == kept.fence
    assert stranger in [cordon.reason for cordon in ledger.cordons()]


async def test_the_engine_of_a_session_is_found_without_waiting_for_one_that_hangs(monkeypatch):
    monkeypatch.setattr("respawner_hub.engines.LOOK_SECONDS", 3600)
    runs = StandInEngine([{"Id": "c1"}])
    engines = {"gpu-b": HungEngine(), "gpu-a": runs}
    assert await asyncio.wait_for(engine_of(engines, ADA), 60) is runs


async def test_a_host_that_the_settings_name_no_more_keeps_its_leases(ledger, clock):
    """Nobody has looked there: its sessions may run, and their devices go to nobody."""
    ledger.heartbeat("gpu-b", [Device("GPU-1", "gpu-b", "STAND-IN A100", 80 << 30)])
    kept = run(ledger, "grace", "GPU-1")
    clock.now += 3600
    await compare(ledger, StandInEngine([]))
    assert ledger.request_of(holder("grace")).lease.fence == kept.fence
    assert [cordon.reason for cordon in ledger.cordons()] == [SILENT_ENGINE]


async def test_what_a_lost_host_still_runs_is_stopped_when_it_is_back(ledger, clock):
    """Its session has gone on with another GPU meanwhile."""
    ledger.heartbeat("gpu-b", [Device("GPU-1", "gpu-b", "STAND-IN A100", 80 << 30)])
    old = run(ledger, "ada", "GPU-0")
    ledger.release(ADA, EndReason.LOST)
    new = run(ledger, "ada", "GPU-1")
    back, other = StandInEngine([entry(old)]), StandInEngine([entry(new) | {"Id": "c2"}])
    other.looks[0][0]["Labels"]["org.respawner.gpus"] = "GPU-1"
    await Reconciler(ledger, {"gpu-a": back, "gpu-b": other}, "team").compare({})
    assert (back.stopped, other.stopped) == (["c1"], [])
    assert ledger.request_of(ADA).lease.fence == new.fence


async def test_a_lost_host_that_is_back_stops_a_session_without_gpu_that_went_on_elsewhere(ledger):
    def without_gpu(container: str, fence: int) -> dict:
        labels = {"deployment": "team", "holder": ADA, "user": "ada", "gpus": "", "fence": str(fence)}
        found = {f"org.respawner.{key}": value for key, value in labels.items()}
        return {"Id": container, "State": "running", "Labels": found}

    back, other = StandInEngine([without_gpu("c1", 41)]), StandInEngine([without_gpu("c2", 42)])
    reconciler = Reconciler(ledger, {"gpu-a": back, "gpu-b": other}, "team")
    back.away = True
    await reconciler.compare({})
    assert ledger.newest_start(ADA).host == "gpu-b"
    other.looks = [[]]  # it has ended since
    back.away = False
    await reconciler.compare({})
    assert (back.stopped, other.stopped) == (["c1"], [])


async def test_nothing_is_granted_before_the_ledger_has_been_compared(monkeypatch):
    steps: list[str] = []
    watched = asyncio.Event()
    monkeypatch.setattr(service, "ASK_SECONDS", 0.01)

    class Looks:
        async def look(self) -> None:
            steps.append("look")

        async def watch(self) -> None:
            watched.set()

    async def hear() -> None:
        steps.append("hear")

    async def compare() -> None:
        steps.append("compare")
        if steps.count("compare") == 1:
            raise OSError("the database is away")

    async def nothing() -> None: ...

    work = asyncio.ensure_future(service.schedule(hear, compare, nothing, Looks()))
    await asyncio.wait_for(watched.wait(), 60)
    work.cancel()
    assert steps[:3] == ["hear", "compare", "compare"]
