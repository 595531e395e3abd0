"""A session's start on one of several hosts, with stand-ins for their engines: what each of them has is said by the test."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from docker.errors import APIError, ImageNotFound, NotFound
from respawner_spawner import spawner as module
from respawner_spawner.claim import schedule
from respawner_spawner.failure import SessionStartError
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Device, State
from respawner_spawner.spawner import GPUDockerSpawner

from tests.spawner.ledgers import Clock, holder

HOSTS = ("gpu1", "gpu2", "gpu3")
ADA = holder("ada")


class StandInEngine:
    """An engine with the image and at most one container. `hangs`: it takes calls and says nothing."""

    def __init__(self, host: str) -> None:
        self.host, self.hangs = host, False
        self.container: dict | None = None
        self.images = {"team/torch:1"}
        self.calls: list[str] = []

    async def call(self, method: str, *args, **kwargs):
        self.calls.append(method)
        if self.hangs:
            await asyncio.Event().wait()
        return getattr(self, method)(*args, **kwargs)

    async def run(self, function):
        return {"passwd": "", "group": ""}

    def inspect_container(self, name):
        if self.container is None:
            raise NotFound("no such container")
        return self.container

    def containers(self, filters=None):
        return []

    def inspect_image(self, image):
        if image not in self.images:
            raise ImageNotFound("no such image")
        return {"Id": "sha256:1", "Config": {}}

    def pull(self, repository, tag):
        raise APIError("404", explanation="pull access denied")

    def exec_create(self, *args, **kwargs):
        return {"Id": "flush"}

    def exec_start(self, job):
        return json.dumps({"durable": True, "kernels": []}).encode()

    def stop(self, container, timeout):
        self.container["State"]["Running"] = False

    def remove_container(self, container, v, force):
        assert not self.container["State"]["Running"]
        self.container = None

    def logs(self, container, **which):
        return b""


class Spawner(GPUDockerSpawner):
    """Everything but the making of containers, of which only the labels count here."""

    async def _start_container(self, image):
        assert self.engine.container is None, "its name is taken on this host"
        labels = {"org.respawner.fence": str(self.fence), "org.respawner.gpus": ",".join(self.lease)}
        self.object_id = f"{self.host}-{self.fence}"
        self.engine.container = {
            "Id": self.object_id,
            "State": {"Running": True},
            "Config": {"Labels": labels, "Env": ["JUPYTERHUB_API_TOKEN=t"]},
        }
        return self.host, 8888

    async def get_ip_and_port(self):
        return self.host, 8888


class Hub:
    """As JupyterHub starts and stops one user's server, with a new spawner's state each time."""

    def __init__(self, ledger: Ledger, engines: dict[str, StandInEngine], monkeypatch) -> None:
        self.ledger, self.engines = ledger, engines
        self.options: dict = {}
        monkeypatch.setattr(module, "_ledgers", {"the ledger": ledger})
        monkeypatch.setattr(module, "engine_at", lambda url, tls="": engines[url])
        self.spawner = self.new()

    def new(self) -> Spawner:
        return Spawner(
            user=SimpleNamespace(
                name="ada", escaped_name="ada", orm_user=SimpleNamespace(groups=[]), settings={}
            ),
            orm_spawner=SimpleNamespace(name="", server=None),
            hub=SimpleNamespace(api_url=""),
            authenticator=SimpleNamespace(blocked_users=set()),
            deployment="team",
            hosts={host: host for host in self.engines},
            database_url="the ledger",
            image="team/torch:1",
        )

    async def start(self) -> str:
        """The host on which it runs now."""
        self.spawner.clear_state()
        self.spawner.user_options = dict(self.options)
        host, _ = await self.spawner.start()
        return host

    async def stop(self) -> None:
        await self.spawner.stop()
        await self.spawner.run_post_stop_hook()

    async def found_dead(self) -> None:
        """The hub has polled it and says that it is no more."""
        assert await self.spawner.poll()
        await self.spawner.run_post_stop_hook()


@pytest.fixture
def ledger(tmp_path, clock):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock)
    hear(ledger, *HOSTS)
    return ledger


@pytest.fixture
def engines():
    return {host: StandInEngine(host) for host in HOSTS}


@pytest.fixture
def hub(ledger, engines, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.2)
    return Hub(ledger, engines, monkeypatch)


def hear(ledger: Ledger, *hosts: str) -> None:
    for host in hosts:
        ledger.heartbeat(host, [Device(f"GPU-{host}", host, "STAND-IN A100", 80 << 30)])


def lose(hub: Hub, host: str, clock: Clock) -> None:
    hub.engines[host].hangs = True
    clock.now += 100
    hear(hub.ledger, *(other for other in HOSTS if other != host))


async def test_a_session_without_gpus_goes_on_where_it_runs_after_the_hub_forgot_it(hub, ledger):
    first = await hub.start()
    fence = ledger.newest_start(ADA).fence
    ledger.cordon(host_target(first), "new memory", "admin")
    hub.spawner = hub.new()
    assert await hub.start() == first
    assert hub.spawner.fence == fence


async def test_a_session_that_went_on_elsewhere_never_goes_back_to_its_old_container(hub, ledger, clock):
    first = await hub.start()
    old = hub.engines[first].container
    lose(hub, first, clock)
    await hub.found_dead()
    second = await hub.start()
    assert second != first
    await hub.stop()
    hub.engines[first].hangs = False
    hear(ledger, *HOSTS)
    assert await hub.start() == first, "the host that is its own while it is there"
    assert hub.engines[first].container is not old
    assert old["State"]["Running"] is False
    assert hub.spawner.fence > int(old["Config"]["Labels"]["org.respawner.fence"])


async def test_a_lost_session_that_nobody_started_elsewhere_goes_on_when_its_host_is_back(hub, ledger, clock):
    first = await hub.start()
    old = hub.engines[first].container
    lose(hub, first, clock)
    await hub.found_dead()
    hub.engines[first].hangs = False
    hear(ledger, *HOSTS)
    assert await hub.start() == first
    assert hub.engines[first].container is old


async def test_a_session_of_a_lost_host_with_a_gpu_that_was_given_up_starts_elsewhere(hub, ledger, clock):
    hub.options = {"gpus": 1}
    first = await hub.start()
    hub.engines[first].hangs = True
    ledger.cordon(host_target(first), "its engine hangs", "admin")
    assert ledger.give_up(ADA, "fire", "user:boss")
    second = await hub.start()
    assert second != first
    assert ledger.newest_start(ADA).host == second


async def test_a_host_that_hangs_holds_up_no_session_of_another(hub, ledger, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600)
    first = await hub.start()
    await hub.stop()
    for host in HOSTS:
        hub.engines[host].hangs = host != first
    async with asyncio.timeout(300):
        for _ in range(2):
            assert await hub.start() == first
            await hub.stop()
    assert [engine.calls for host, engine in hub.engines.items() if host != first] == [[], []]


async def test_a_session_whose_own_host_hangs_waits_until_that_is_lost(hub, ledger, clock):
    first = await hub.start()
    hub.engines[first].hangs = True
    with pytest.raises(SessionStartError, match="does not answer"):
        await hub.start()
    lose(hub, first, clock)
    assert await hub.start() != first


async def test_what_a_deleted_user_left_on_a_lost_host_is_outdated(hub, ledger, clock):
    first = await hub.start()
    fence = hub.spawner.fence
    lose(hub, first, clock)
    await hub.found_dead()
    await hub.spawner.delete_forever()
    assert ledger.has_ended(ADA, fence)


async def test_an_image_that_only_another_host_has_is_named_and_costs_no_place(hub, ledger, engines):
    hub.options = {"gpus": 1, "gpu_host": "gpu2"}
    engines["gpu2"].images.clear()
    said = r"image team/torch:1 is not on the host gpu2.*pull access denied.*`respawner-hub provision`"
    with pytest.raises(SessionStartError, match=said):
        await hub.start()
    await hub.spawner.run_post_stop_hook()
    granted = ledger.request_of(ADA)
    assert granted.state is State.GRANTED
    engines["gpu2"].images.add("team/torch:1")
    assert await hub.start() == "gpu2"
    assert ledger.request_of(ADA).lease.fence == granted.lease.fence


async def test_a_gpu_of_another_host_that_came_during_the_pull_is_not_taken_to_the_first_host(
    hub, ledger, engines
):
    """The first GPU fell ill meanwhile. The new grant stays, and the next start goes to its host."""
    hub.options = {"gpus": 1}
    for engine in engines.values():
        engine.images.clear()
        engine.pull = lambda repository, tag, engine=engine: falls_ill(engine)

    def falls_ill(engine):
        for each in engines.values():
            each.images.add("team/torch:1")
        ledger.cordon(f"GPU-{engine.host}", "it is ill", "health")
        assert ledger.revoke(ADA, ledger.request_of(ADA).lease.fence, "it is ill", "scheduler")
        schedule(ledger)
        return ""

    with pytest.raises(SessionStartError, match="was taken back while your session was starting"):
        await hub.start()
    first = hub.spawner.host
    await hub.spawner.run_post_stop_hook()
    standing = ledger.request_of(ADA)
    assert standing.state is State.GRANTED
    second = await hub.start()
    assert standing.lease.uuids == (f"GPU-{second}",)
    assert second != first


@pytest.mark.parametrize("options", [{"gpus": 1, "cpu_meanwhile": True}, {"gpus": 9}])
async def test_a_session_that_leaves_its_host_without_a_gpu_asks_for_none(hub, ledger, options):
    hub.options = options
    hub.spawner.handler = SimpleNamespace(without_gpu=True)
    await hub.start()
    assert (hub.spawner.lease, ledger.request_of(ADA)) == ([], None)


async def test_an_image_that_only_the_sessions_host_has_is_enough(hub, engines):
    first = await hub.start()
    await hub.stop()
    for host in HOSTS:
        if host != first:
            engines[host].images.clear()
    assert await hub.start() == first


async def test_an_engine_that_answers_with_an_error_is_not_taken_for_one_that_does_not_answer(hub, engines):
    """docker-py's `APIError` is an `OSError`, as everything of requests."""
    first = await hub.start()
    await hub.stop()

    def refuses(container):
        raise APIError("500", explanation="no space left on device")

    engines[first].inspect_container = refuses
    with pytest.raises(SessionStartError, match="Docker could not start the session: no space left"):
        await hub.start()
