"""The Swarm's word on a host is a drain, a cordon or nothing: with a stand-in for its manager, and once with a real one."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from types import SimpleNamespace

import docker
import pytest
from docker.errors import APIError
from respawner_hub.gpus import actions, idle
from respawner_hub.gpus.desk import Desk
from respawner_hub.gpus.drain import suspend_due
from respawner_hub.gpus.rounds import Policy
from respawner_hub.gpus.swarm import DOWN, DRAINED, PAUSED, Node, hear_the_swarm, reasons_by_host
from respawner_spawner.engine import Engine, EngineUnreachable
from respawner_spawner.hosts import open_hosts
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.model import Device, Rules

from tests.spawner.ledgers import holder, run
from tests.standins.gpu_engine import GpuEngine

ADDRESSES = {"gpu1": "10.0.0.11", "gpu2": "10.0.0.12"}


class Manager:
    """`nodes`: name → (state, availability), or what is raised. `state`: the engine's own in the Swarm."""

    def __init__(self, **nodes: tuple[str, str]) -> None:
        self.nodes = nodes
        self.fails: Exception | None = None
        self.state = "active"

    async def call(self, method: str):
        if method == "info":
            return {"Swarm": {"LocalNodeState": self.state}}
        assert method == "nodes"
        if self.fails:
            raise self.fails
        return [entry(name, *said) for name, said in self.nodes.items()]


def entry(name: str, state: str = "ready", availability: str = "active", address: str = "") -> dict:
    return {
        "Description": {"Hostname": name},
        "Status": {"State": state, "Addr": address},
        "Spec": {"Availability": availability},
    }


@pytest.fixture
def ledger(ledger):
    for host in ADDRESSES:
        ledger.heartbeat(host, [Device(f"GPU-{host}", host, "STAND-IN A100", 80 << 30)])
    return ledger


@pytest.fixture
def desk(ledger):
    return Desk(
        ledger, Policy(Rules()), idle.Rules(3600, 1, 1800), max_gpus=1, default_gpus=0, hosts=[*ADDRESSES]
    )


async def hear(ledger, manager) -> list[tuple[str, str, str]]:
    await hear_the_swarm(ledger, manager, ADDRESSES)
    return [(cordon.target, cordon.reason, cordon.by) for cordon in ledger.cordons()]


async def test_drain_in_the_swarm_is_a_drain_and_active_ends_it(ledger, desk):
    run(ledger, "ada", "GPU-gpu2")
    manager = Manager(gpu1=("ready", "active"), gpu2=("ready", "drain"))
    for _ in range(2):
        assert await hear(ledger, manager) == [("host:gpu2", DRAINED, "swarm")]
    assert open_hosts(ledger, ["gpu1", "gpu2"]) == ["gpu1"]
    assert [device.host for device in ledger.devices() if device.cordon] == ["gpu2"]
    assert suspend_due(ledger, "scheduler") == 1
    assert ledger.request_of(holder("ada")).suspend_reason == DRAINED
    manager.nodes["gpu2"] = ("ready", "active")
    assert await hear(ledger, manager) == []


async def test_what_the_admin_drained_by_respawner_stays_when_the_swarm_says_active(ledger, desk):
    manager = Manager(gpu2=("ready", "drain"))
    await hear(ledger, manager)
    desk.carry_out(actions.Drain(target="gpu2", reason="new fans"), "user:boss")
    manager.nodes["gpu2"] = ("ready", "active")
    assert await hear(ledger, manager) == [("host:gpu2", "draining: new fans", "user:boss")]


async def test_uncordon_takes_away_the_admins_reasons_and_says_what_the_swarm_still_does(ledger, desk):
    await hear(ledger, Manager(gpu2=("ready", "drain")))
    desk.carry_out(actions.Cordon(target="gpu2"), "user:boss")
    said = desk.carry_out(actions.Uncordon(target="gpu2"), "user:boss")
    assert "gpu2 takes none yet" in said
    assert "`docker node update --availability active gpu2`" in said
    assert [cordon.reason for cordon in ledger.cordons()] == [DRAINED]


async def test_a_paused_node_is_cordoned_and_one_that_is_down_as_well(ledger):
    manager = Manager(gpu1=("down", "active"), gpu2=("ready", "pause"))
    assert await hear(ledger, manager) == [("host:gpu1", DOWN, "swarm"), ("host:gpu2", PAUSED, "swarm")]
    manager.nodes = {"gpu1": ("unknown", "active"), "gpu2": ("ready", "active")}
    assert await hear(ledger, manager) == []


def refusal(status: int) -> APIError:
    answer = SimpleNamespace(status_code=status, url="/nodes", reason="")
    return APIError("This node is not a swarm manager", response=answer)


@pytest.mark.parametrize("fails", [EngineUnreachable("away"), refusal(500)])
async def test_a_manager_that_does_not_answer_changes_nothing(ledger, fails):
    manager = Manager(gpu2=("ready", "drain"))
    before = await hear(ledger, manager)
    manager.fails = fails
    assert await hear(ledger, manager) == before == [("host:gpu2", DRAINED, "swarm")]


async def test_only_an_engine_that_is_in_no_swarm_ends_what_was_said(ledger):
    """One that is locked, or whose certificate has expired, answers 503 as well."""
    manager = Manager(gpu2=("ready", "drain"))
    before = await hear(ledger, manager)
    manager.fails = refusal(503)
    for state in ("locked", "error", "pending", "active"):
        manager.state = state
        assert await hear(ledger, manager) == before, state
    manager.state = "inactive"
    assert await hear(ledger, manager) == []


def test_a_node_is_a_hosts_by_name_or_by_address():
    found = [
        entry("gpu1.example.org", availability="drain", address="10.0.0.11"),
        entry("gpu2", availability="pause", address="0.0.0.0"),
        entry("other", availability="drain", address="10.0.0.99"),
    ]
    assert reasons_by_host(map(Node.of, found), ADDRESSES) == {"gpu1": [DRAINED], "gpu2": [PAUSED]}


@pytest.mark.parametrize("order", [1, -1])
def test_the_node_that_a_host_was_before_it_joined_again_does_not_count(order):
    was = entry("gpu1", "down", "drain") | {"CreatedAt": "2026-11-01T10:00:00.5Z"}
    is_now = entry("gpu1", "ready", "active") | {"CreatedAt": "2026-11-20T10:00:00.1Z"}
    found = [was, is_now][::order]
    assert reasons_by_host(map(Node.of, found), ADDRESSES) == {"gpu1": []}
    is_now["Status"]["State"] = "down"
    assert reasons_by_host(map(Node.of, found), ADDRESSES) == {"gpu1": [DOWN]}, (
        "the newer of two that are down"
    )


async def test_a_host_whose_node_was_removed_stays_drained_until_its_next_one_is_active(ledger):
    manager = Manager(gpu1=("ready", "active"), gpu2=("down", "drain"))
    before = await hear(ledger, manager)
    del manager.nodes["gpu2"]
    assert await hear(ledger, manager) == before
    manager.nodes["gpu2"] = ("ready", "active")
    assert await hear(ledger, manager) == []


# A real Swarm of one node ----------------------------------------------------------------------------------


@pytest.fixture
def swarm():
    """A private engine that is a manager. Its gateway bridge has a name of its own: Docker's is the machine's."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("a private engine needs root and dockerd")
    engine = GpuEngine([])
    try:
        engine.start()
        client = engine.client
        options = {"com.docker.network.bridge.name": f"{engine.name}g"}
        pool = docker.types.IPAMPool(subnet=engine.subnet)
        client.create_network(
            "docker_gwbridge",
            driver="bridge",
            options=options,
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
        )
        client.init_swarm(advertise_addr=engine.address, listen_addr=f"{engine.address}:2477")
        yield engine
        client.leave_swarm(force=True)
        client.disconnect_container_from_network("gateway_ingress-sbox", "docker_gwbridge", force=True)
    finally:
        engine.close()


@pytest.mark.docker
def test_a_real_swarms_availability_is_read(swarm, ledger):
    client = swarm.client
    [node] = client.nodes()
    hosts = {"gpu2": swarm.address}
    manager = Engine(swarm.url)

    def say(availability: str) -> None:
        found = client.inspect_node(node["ID"])
        assert client.update_node(
            node["ID"], found["Version"]["Index"], found["Spec"] | {"Availability": availability}
        )

    def reasons() -> list[str]:
        asyncio.run(hear_the_swarm(ledger, manager, hosts))
        return [cordon.reason for cordon in ledger.cordons() if cordon.target == host_target("gpu2")]

    for availability, expected in (("drain", [DRAINED]), ("pause", [PAUSED]), ("active", [])):
        say(availability)
        deadline = time.monotonic() + 120
        while reasons() != expected:
            assert time.monotonic() < deadline, (availability, client.nodes())
            time.sleep(0.5)
