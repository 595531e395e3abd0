"""Sessions without GPUs leave a drained host: with stand-ins for the engines and the hub's API."""

from __future__ import annotations

import asyncio
import json

import pytest
from respawner_hub.gpus import actions, evacuation, idle
from respawner_hub.gpus.actions import BadAction
from respawner_hub.gpus.desk import Desk
from respawner_hub.gpus.evacuation import Evacuation
from respawner_hub.gpus.rounds import Policy
from respawner_spawner.hosts import open_hosts
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.model import Device, Rules
from respawner_spawner.leases.records import EndReason
from respawner_spawner.suspend import ITS_USER_IS_BACK, stop_when_durable

from tests.spawner.ledgers import holder, run

ADA, BOB, EVE = holder("ada"), holder("bob"), holder("eve")


class StandInEngine:
    """`sessions`: holder → its GPUs. `dirty`: those whose variables are not on disk."""

    def __init__(self, **sessions: str) -> None:
        self.sessions = {holder(user): gpus for user, gpus in sessions.items()}
        self.dirty: set[str] = set()

    async def call(self, method: str, *args, **kwargs):
        return getattr(self, method)(*args, **kwargs)

    def containers(self, filters, **which):
        label, _, value = filters["label"].partition("=")
        return [
            {"Id": name, "Labels": {"org.respawner.holder": name, "org.respawner.gpus": gpus}}
            for name, gpus in self.sessions.items()
            if value in (name, "team") and label in ("org.respawner.holder", "org.respawner.deployment")
        ]

    def exec_create(self, container, command, **more):
        return {"Id": container}

    def exec_start(self, job):
        states = [{"state": "running", "timeline": "long.ipynb"}] if job in self.dirty else []
        return json.dumps({"durable": job not in self.dirty, "kernels": states}).encode()

    def stop(self, container, timeout):
        del self.sessions[container]


class StandInHub:
    """Knows the servers of `engine`, but not those of `forgotten` users. A server that is started runs on `to`."""

    def __init__(self, engine: StandInEngine, to: StandInEngine) -> None:
        self.engine, self.to, self.forgotten = engine, to, set()

    async def server(self, user: str, name: str):
        return None if user in self.forgotten else self.engine.sessions.get(holder(user))

    async def start(self, user: str, name: str, *, without_gpu: bool = False) -> None:
        assert without_gpu, "the hub would refuse it whose request was given up"
        self.to.sessions[holder(user)] = ""


class Server:
    def __init__(self, hub: StandInHub, holder: str) -> None:
        self.hub, self.holder = hub, holder

    async def active(self) -> bool:
        return await self.hub.server(self.holder.split("/")[1], "") is not None

    async def stop(self) -> None:
        del self.hub.engine.sessions[self.holder]

    async def start(self) -> None:
        raise AssertionError("it has stopped")


@pytest.fixture
def ledger(ledger):
    ledger.heartbeat("gpu1", [Device("GPU-0", "gpu1", "STAND-IN A100", 80 << 30)])
    ledger.heartbeat("cpu2", [])
    return ledger


@pytest.fixture
def desk(ledger):
    rules = idle.Rules(3600, 1, 1800)
    return Desk(ledger, Policy(Rules()), rules, max_gpus=1, default_gpus=0, hosts=["gpu1", "cpu2", "unheard"])


@pytest.fixture
def moving(ledger):
    """Ada, bob and eve on a host without GPUs, and a way to look once and wait until everything has been done."""
    old, new = StandInEngine(ada="", bob="", eve="GPU-7"), StandInEngine()
    hub = StandInHub(old, new)

    async def stop(holder, engine):
        return await stop_when_durable(
            engine, Server(hub, holder), holder, flush_seconds=1, also_unknown=True
        )

    moving = Evacuation(ledger, {"cpu2": old, "gpu1": new}, "team", hub, stop)
    moving.old, moving.new = old, new

    async def look():
        await moving.look()
        await asyncio.gather(*moving._jobs.values())

    moving.look_and_wait = look
    return moving


async def test_they_are_saved_and_go_on_on_another_host(desk, moving):
    await moving.look_and_wait()
    assert moving.new.sessions == {}, "nobody has drained anything"
    said = desk.carry_out(actions.Drain(target="cpu2", reason="it leaves"), "user:boss")
    assert said.startswith(
        "cpu2 takes no new sessions; sessions that are suspended now: 0, and those without GPUs"
    )
    await moving.look_and_wait()
    assert moving.old.sessions == {EVE: "GPU-7"}, "whose lease is suspended by the ledger"
    assert set(moving.new.sessions) == {ADA, BOB}


async def test_one_that_cannot_be_saved_goes_on_and_is_tried_again_later(desk, ledger, moving, monkeypatch):
    moving.old.dirty.add(ADA)
    desk.carry_out(actions.Drain(target="cpu2"), "user:boss")
    for _ in range(2):
        await moving.look_and_wait()
        assert set(moving.old.sessions) == {ADA, EVE}
    [noted] = ledger.audit(ADA)
    assert (noted.action, noted.reason[:11]) == ("suspend aborted", "long.ipynb ")
    moving.old.dirty.clear()
    await moving.look_and_wait()
    assert ADA in moving.old.sessions, "not at once"
    now = evacuation.time.monotonic()
    monkeypatch.setattr(evacuation.time, "monotonic", lambda: now + evacuation.RETRY_LEAST_SECONDS + 1)
    await moving.look_and_wait()
    assert set(moving.new.sessions) == {ADA, BOB}


async def test_one_that_the_hub_has_forgotten_is_saved_and_waits_for_its_user(desk, moving):
    moving.hub.forgotten.add("ada")
    desk.carry_out(actions.Drain(target="cpu2"), "user:boss")
    await moving.look_and_wait()
    assert moving.old.sessions == {EVE: "GPU-7"}
    assert set(moving.new.sessions) == {BOB}


async def test_one_whose_user_comes_back_while_it_is_saved_goes_on(desk, ledger, moving, monkeypatch):
    """The user's start has adopted its container, so that a cell may run in it."""
    moving.hub.forgotten.add("ada")
    desk.carry_out(actions.Drain(target="cpu2"), "user:boss")
    save = moving.old.exec_start

    def save_while_the_user_comes(job):
        moving.hub.forgotten.discard("ada")
        return save(job)

    monkeypatch.setattr(moving.old, "exec_start", save_while_the_user_comes)
    await moving.look_and_wait()
    assert ADA in moving.old.sessions
    assert [(noted.action, noted.reason) for noted in ledger.audit(ADA)] == [
        ("suspend aborted", ITS_USER_IS_BACK)
    ]


async def test_where_no_other_host_takes_sessions_they_wait_for_their_users(desk, ledger, moving):
    for host in ("cpu2", "gpu1"):
        desk.carry_out(actions.Drain(target=host), "user:boss")
    assert open_hosts(ledger, ["gpu1", "cpu2"]) == []
    await moving.look_and_wait()
    assert (moving.old.sessions, moving.new.sessions) == ({EVE: "GPU-7"}, {})


async def test_on_one_machine_nothing_is_moved(desk, ledger, moving):
    moving.engines = {"cpu2": moving.old}
    desk.carry_out(actions.Drain(target="cpu2"), "user:boss")
    await moving.look_and_wait()
    assert len(moving.old.sessions) == 3


@pytest.mark.parametrize("host", ["cpu2", "unheard"])
def test_a_host_without_gpus_can_be_drained_also_if_nobody_has_heard_of_it(desk, ledger, host):
    desk.carry_out(actions.Drain(target=host), "user:boss")
    assert [cordon.target for cordon in ledger.cordons()] == [host_target(host)]
    with pytest.raises(BadAction, match=r"no such GPU or host. Known: cpu2, gpu1, unheard, GPU-0"):
        desk.carry_out(actions.Drain(target="cpu3"), "user:boss")


def test_a_host_that_has_left_leaves_nothing_but_history(desk, ledger):
    lease = run(ledger, "ada", "GPU-0")
    ledger.started(ADA, lease.fence, "gpu1")
    desk.carry_out(actions.Drain(target="gpu1"), "user:boss")
    ledger.cordon("GPU-0", "it is hot", "health")
    with pytest.raises(BadAction, match=r"\[cluster\] hosts names it"):
        desk.carry_out(actions.Forget(host="gpu1"), "user:boss")
    desk.hosts = ["cpu2"]
    with pytest.raises(BadAction, match="team/ada/ has GPUs of gpu1: drain it, or give"):
        desk.carry_out(actions.Forget(host="gpu1"), "user:boss")
    ledger.release(ADA, EndReason.RELEASED)
    assert "gpu1 is forgotten" in desk.carry_out(actions.Forget(host="gpu1"), "user:boss")
    assert (ledger.devices(), ledger.cordons()) == ([], [])
    assert [agent.host for agent in ledger.agents()] == ["cpu2"]
    assert ledger.newest_start(ADA).host == ""
    assert ledger.ended(ADA)[0].lease.uuids == ("GPU-0",)
    with pytest.raises(BadAction, match=r"host = 'gpu1': no such host. Known: cpu2"):
        desk.carry_out(actions.Forget(host="gpu1"), "user:boss")
