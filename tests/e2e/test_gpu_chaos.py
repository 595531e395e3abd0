"""Many people on few GPUs while hub, agent, containers and engine are killed at random.

`make test` runs a small form, `RESPAWNER_LONG=1` fifty spawns and more. What is shown: no GPU in two living containers
(asked of the processes by the hook, at every grant), none left in anybody's hands at the end, everyone served.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter

import docker
import pytest
import requests

from .deployment import wait_until
from .gpu_deployment import GpuDeployment, deployment_with_gpus, whole_gpu

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3000)]

LONG = bool(os.environ.get("RESPAWNER_LONG"))
UUIDS = [f"GPU-{number:08d}" for number in range(8)]
PEOPLE, ROUNDS = (15, 4) if LONG else (6, 2)
SPAWNS = PEOPLE * ROUNDS
PATIENCE_SECONDS = 2400 if LONG else 1800
AWAY = (
    OSError,
    requests.exceptions.RequestException,
    docker.errors.DockerException,
    ValueError,
    KeyError,
    AssertionError,
)
"""What asking raises while hub, engine or container are dead: no answer, an answer of the proxy, an exec cut short."""


@pytest.fixture(scope="module")
def deployment():
    session = {"max_gpus": 4, "stop_grace_seconds": 10, "http_timeout_seconds": 60}
    with deployment_with_gpus([*map(whole_gpu, UUIDS)], session=session) as deployment:
        yield deployment


class Customer(threading.Thread):
    """Wants `count` GPUs for a moment, several times; is patient and asks again, as the scheduler does for people."""

    def __init__(self, deployment: GpuDeployment, number: int) -> None:
        super().__init__(daemon=True)
        self.deployment, self.user = deployment, f"p{number}"
        self.random = random.Random(number)
        self.count = 2 if number % 3 == 0 else 1
        self.served = 0
        self.error = ""
        self.deadline = time.monotonic() + PATIENCE_SECONDS

    def run(self) -> None:
        try:
            while self.served < ROUNDS:
                self.until(self.has_its_gpus, self.start_server)
                self.served += 1
                time.sleep(self.random.uniform(0, 2))
                self.until(self.has_nothing, self.stop_server)
        except Exception as error:
            self.error = repr(error)

    def until(self, condition, ask) -> None:
        """Ask for it again and again until it is so; hub and engine may be away meanwhile."""
        server: object = "the hub never answered"
        while time.monotonic() < self.deadline:
            with contextlib.suppress(*AWAY):
                server = self.deployment.api("GET", f"users/{self.user}").json()["servers"].get("", {})
                if condition(server):
                    return
                ask(server)
            time.sleep(self.random.uniform(1, 3))
        raise TimeoutError(
            f"{self.user}: {condition.__name__}: {server}, {self.deployment.standing(self.user)}"
        )

    def has_its_gpus(self, server: dict) -> bool:
        if not server.get("ready"):
            return False
        standing = self.deployment.standing(self.user)
        leased = list(standing.lease.uuids) if standing and standing.lease else []
        return len(leased) == self.count and self.deployment.seen(self.user) == leased

    def start_server(self, server: dict) -> None:
        if not server:
            self.deployment.api("POST", f"users/{self.user}/server", json={"gpus": self.count})

    def has_nothing(self, server: dict) -> bool:
        containers = self.deployment.engine.containers(
            all=True, filters={"name": f"^/{self.deployment.container(self.user)}$"}
        )
        return not server and not containers and self.deployment.standing(self.user) is None

    def stop_server(self, server: dict) -> None:
        """What the hub lost when it was killed is started first, so that it is adopted or released."""
        if server:
            self.deployment.api("DELETE", f"users/{self.user}/server")
        else:
            self.deployment.api("POST", f"users/{self.user}/server", json={"gpus": 0})


class Killer(threading.Thread):
    """Kills something every few seconds until `end` is set; what it killed comes back as its supervisor would have it."""

    def __init__(self, deployment: GpuDeployment) -> None:
        super().__init__(daemon=True)
        self.deployment, self.end = deployment, threading.Event()
        self.killed: Counter[str] = Counter()
        self.random = random.Random(1)

    def run(self) -> None:
        while not self.end.wait(self.random.uniform(3, 9 if LONG else 5)):
            kind = self.random.choice(["container"] * 4 + ["hub", "engine", "agent"])
            with contextlib.suppress(*AWAY):
                getattr(self, kind)()
                self.killed[kind] += 1

    def container(self) -> None:
        running = self.deployment.engine.containers(quiet=True)
        if running:
            self.deployment.engine.kill(self.random.choice(running)["Id"])

    def hub(self) -> None:
        self.deployment.restart_hub()

    def engine(self) -> None:
        self.deployment.gpu_engine.kill()
        time.sleep(self.random.uniform(0, 2))
        self.deployment.gpu_engine.start()

    def agent(self) -> None:
        """It is silent for longer than a silent agent is believed."""
        devices, self.deployment.devices = self.deployment.devices, None
        self.end.wait(40 if LONG else 10)
        self.deployment.beat(devices)


def test_no_double_grant_no_leak_and_everyone_served(deployment):
    customers = [Customer(deployment, number) for number in range(PEOPLE)]
    for customer in customers:
        deployment.api("POST", f"users/{customer.user}").raise_for_status()
    killer = Killer(deployment)
    started = time.monotonic()
    for thread in (*customers, killer):
        thread.start()
    for customer in customers:
        customer.join(PATIENCE_SECONDS + 60)
    killer.end.set()
    killer.join(600)
    seconds = time.monotonic() - started

    assert [customer.error for customer in customers if customer.error] == []
    assert sum(customer.served for customer in customers) == SPAWNS
    grants = [grant for grant in deployment.gpu_engine.grants() if grant["granted"]]
    assert len(grants) >= SPAWNS
    assert [grant for grant in grants if grant["alive"]] == []
    assert killer.killed.total() >= (20 if LONG else 2), killer.killed
    wait_until(lambda: not deployment.ledger.leases(), 240, "the last lease to end")
    assert deployment.ledger.queue() == []
    assert deployment.engine.containers(all=True, filters={"label": "org.respawner.holder"}) == []
    print(
        f"{SPAWNS} sessions served in {len(grants)} starts and {seconds:.0f} s; killed: {dict(killer.killed)}"
    )
