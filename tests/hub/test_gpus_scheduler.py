"""The scheduler against a real hub process: it is called step by step, and its clock is the ledger's."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from respawner_hub.gpus import idle
from respawner_hub.gpus.drain import RETRY_MOST_SECONDS
from respawner_hub.gpus.hub_client import HubClient, HubError, HubServer, ServerState
from respawner_hub.gpus.rounds import Policy
from respawner_hub.gpus.scheduler import TAKE_OVER_SECONDS, Scheduler, Times
from respawner_hub.gpus.use import Utilisation
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Device, Kind, Rules

from tests.spawner.ledgers import grant, holder

from .gpu_hub import GpuHub, eventually
from .running_hub import Browser, text_of

RULES = idle.Rules(idle_seconds=3600, snoozes=1, snooze_seconds=1800)
START_AFTER = 300
"""Longer than a look takes: what one look grants, the next one starts, and not the same."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with GpuHub(tmp_path_factory.mktemp("hub"), gpus=1) as running:
        yield running


class Clock:
    """The present, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 2 * TAKE_OVER_SECONDS

    def __call__(self) -> float:
        return time.time() + self.ahead


class Driven:
    """A scheduler whose steps a test makes."""

    def __init__(self, hub: GpuHub, rules: idle.Rules = RULES) -> None:
        self.hub, self.clock = hub, Clock()
        self.ledger = Ledger(str(hub.ledger.database.engine.url), self.clock)
        self.utilisation: dict[str, float] = {}
        self.failure = ""
        self.meanwhile = lambda: None
        """What happens while a session is being saved."""
        self.refusals: list[str] = []
        """What the hub says to the next starts."""
        self.used: dict = {}
        self.wanted: dict = {}
        self.cell: bool | None = False
        self.rules, self.policy = rules, Policy(Rules())

    def run(self, *steps: str) -> None:
        """Make the steps, and wait for what they began."""
        asyncio.run(self._run(steps))

    async def _run(self, steps: tuple[str, ...]) -> None:
        client = HubClient(f"{self.hub.url}/api", self.hub.scheduler_token, "http://127.0.0.1:9/")

        async def cell_running(user: str, name: str) -> bool | None:
            return self.cell

        client.cell_running = cell_running
        start = client.start

        async def start_as_the_test_says(user: str, name: str) -> None:
            if self.refusals:
                raise HubError(self.refusals.pop(), 429)
            await start(user, name)

        client.start = start_as_the_test_says

        async def suspend(standing) -> str:
            """Instead of an engine: durable as the test says, then stopped by the hub's real API."""
            self.meanwhile()
            if self.failure:
                return self.failure
            _, user, name = standing.request.holder.split("/", 2)
            await HubServer(client, user, name).stop()
            return ""

        scheduler = Scheduler(
            self.ledger,
            client,
            self.policy,
            self.rules,
            Times(warn_seconds=900, slot_held_seconds=600, utilisation=0.03),
            suspend,
            lambda: Utilisation(self.utilisation),
        )
        scheduler._used, scheduler._wanted = self.used, self.wanted
        for step in steps:
            self.ledger.heartbeat("stand-in", self.hub.devices)
            await getattr(scheduler, step)()
            await asyncio.gather(*scheduler._jobs.values())
        self.used, self.wanted = scheduler._used, scheduler._wanted


@pytest.fixture
def driven(hub, monkeypatch):
    monkeypatch.setattr("respawner_hub.gpus.scheduler.START_AFTER_SECONDS", START_AFTER)
    yield Driven(hub)
    for standing in hub.ledger.standings(granted_only=False):
        hub.ledger.cancel(standing.request.holder)
    hub.stop_all()


def ask(hub, user: str):
    return hub.ask(user, {"gpus": 1}, token=hub.token(user))


def is_running(hub, user: str) -> bool:
    return hub.api("GET", f"/respawner/requests/{user}").json()["state"] == "running" and hub.serves(user)


def server(hub, user: str) -> dict | None:
    """The hub's model of the user's default server, if it is ready."""
    model = hub.api("GET", f"/users/{user}").json()["servers"].get("")
    return model if model and model["ready"] else None


def standing(hub, user: str):
    return hub.ledger.request_of(f"test/{user}/")


def test_the_next_in_the_queue_is_served_when_a_session_stops(hub, driven):
    ask(hub, "ada")
    ask(hub, "bob")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    driven.run("look")
    assert standing(hub, "bob").state == "queued"
    hub.api("DELETE", "/users/ada/server")
    eventually(lambda: not hub.ledger.leases(), "ada's lease to end")
    driven.run("look")
    assert standing(hub, "bob").state == "granted"
    driven.clock.ahead += START_AFTER + 1
    driven.run("look")
    eventually(lambda: is_running(hub, "bob"), "bob's server")
    assert hub.api("GET", "/users/bob").json()["servers"][""]["user_options"] == {"gpus": 1}


def test_an_idle_session_is_warned_forgiven_and_suspended(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    driven.utilisation = {"GPU-0": 0.0}
    driven.run("watch")
    assert standing(hub, "ada").reclaim_at is None
    driven.clock.ahead = 3700
    driven.run("watch")
    assert "idled for 1 h" in standing(hub, "ada").warning
    driven.utilisation = {"GPU-0": 0.5}
    driven.run("watch")
    assert standing(hub, "ada").reclaim_at is None
    driven.utilisation = {"GPU-0": 0.0}
    driven.clock.ahead += 3700
    driven.run("watch")
    driven.clock.ahead += 901
    driven.run("watch", "look")
    eventually(lambda: standing(hub, "ada") is None, "ada's lease to end")
    ended = hub.ledger.ended("test/ada/")[0]
    assert (ended.end_reason, ended.comes_back) == ("suspended", None)


def test_a_session_that_cannot_be_saved_is_not_suspended_and_the_admin_sees_why(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    hub.ledger.begin_suspend("test/ada/", "drained")
    driven.failure = "notebook.ipynb: the disk is full"
    driven.run("look")
    assert is_running(hub, "ada")
    board = hub.api("GET", "/respawner/leases").json()
    assert board[0]["suspend_failure"] == "notebook.ipynb: the disk is full"


def test_a_drain_goes_on_until_the_session_could_be_suspended(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    assert hub.api("POST", "/respawner/drain", json={"target": "GPU-0"}).status_code == 200
    driven.failure = "a cell runs"
    driven.run("look")
    assert standing(hub, "ada").suspend_failure == "a cell runs"
    driven.failure = ""
    driven.run("watch")
    assert standing(hub, "ada").suspending_since is None, "it is too early"
    driven.clock.ahead += RETRY_MOST_SECONDS
    driven.run("watch")
    driven.clock.ahead += TAKE_OVER_SECONDS + 1
    driven.run("look")
    eventually(lambda: standing(hub, "ada").request.resumes, "ada's new request")
    hub.ledger.uncordon("GPU-0", "test")


def test_a_cell_is_interrupted_only_where_the_admin_says_so(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    hub.ledger.begin_suspend("test/ada/", "drained", Ask(Kind.GPU))
    driven.failure, driven.cell = "a cell runs", True
    driven.run("look")
    assert is_running(hub, "ada")
    driven.rules = replace(RULES, interrupt_cells=True)
    hub.ledger.begin_suspend("test/ada/", "drained", Ask(Kind.GPU))
    driven.run("look")
    eventually(lambda: standing(hub, "ada").request.resumes, "ada's new request")
    assert hub.ledger.ended("test/ada/")[0].end_reason == "released"


def test_a_preempted_session_is_warned_gives_way_and_queues_again(hub, driven):
    driven.policy = Policy(Rules(preempt=True, min_run_seconds=60, slice_seconds=60))
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    ask(hub, "bob")
    driven.utilisation = {"GPU-0": 0.9}
    driven.run("look", "watch")
    assert standing(hub, "ada").reclaim_at is None
    driven.clock.ahead = 3600
    driven.run("look", "watch")
    assert "bob" in standing(hub, "ada").warning
    driven.clock.ahead += 901
    driven.run("look", "watch", "look")
    eventually(lambda: standing(hub, "ada") and standing(hub, "ada").request.resumes, "ada's new request")
    driven.run("look")
    assert standing(hub, "bob").state == "granted"
    assert standing(hub, "ada").state == "queued"


def test_a_preempted_session_in_a_cell_keeps_its_warning_and_goes_at_the_first_pause(hub, driven):
    driven.policy = Policy(Rules(preempt=True, min_run_seconds=60, slice_seconds=60))
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    ask(hub, "bob")
    driven.clock.ahead = 3600
    driven.cell = True
    driven.run("look", "watch")
    reclaim_at = standing(hub, "ada").reclaim_at
    assert reclaim_at
    driven.run("look", "watch", "look", "watch")
    assert standing(hub, "ada").reclaim_at == reclaim_at
    driven.clock.ahead += 901
    driven.run("look", "watch", "look")
    assert is_running(hub, "ada")
    driven.cell = False
    driven.run("look", "watch", "look")
    eventually(lambda: standing(hub, "ada") and standing(hub, "ada").request.resumes, "ada's new request")


def test_a_snooze_puts_the_suspension_off_once(hub, driven):
    token = hub.token("ada")
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    assert hub.api("POST", "/respawner/snooze/ada", token).status_code == 409
    hub.ledger.warn("test/ada/", "idle", time.time() + 900)
    assert hub.api("GET", "/respawner/requests/ada", token).json()["warning"] == "idle"
    assert hub.api("POST", "/respawner/snooze/ada", token).json()["snoozed_until"] > time.time()
    hub.ledger.warn("test/ada/", "idle", time.time() + 900)
    answer = hub.api("POST", "/respawner/snooze/ada", token)
    assert answer.status_code == 409
    assert "put off 1 times already" in answer.json()["message"]


def test_granted_devices_of_a_server_that_does_not_start_go_to_the_next(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    ask(hub, "bob")
    hub.api("DELETE", "/users/ada/server")
    eventually(lambda: not hub.ledger.leases(), "ada's lease to end")
    driven.run("look")
    assert standing(hub, "bob").state == "granted"
    hub.stop()
    try:
        driven.clock.ahead = 700
        driven.run("look")
        assert hub.ledger.ended("test/bob/")[0].end_reason == "expired"
    finally:
        hub.start()


class Pulling:
    """A hub in which everybody's server is starting, until it is not."""

    pending = "spawn"

    async def server(self, user: str, name: str) -> ServerState:
        return ServerState(False, self.pending, 0.0)


async def test_a_grant_whose_server_is_starting_is_held_while_its_image_is_pulled(tmp_path):
    clock = Clock()
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock)
    devices = [Device("GPU-0", "stand-in", "STAND-IN A100", 80 << 30)]
    ledger.heartbeat("stand-in", devices)
    assert grant(ledger, "ada", "GPU-0")
    pulling, times = Pulling(), Times(warn_seconds=900, slot_held_seconds=600, utilisation=0.03)
    scheduler = Scheduler(ledger, pulling, Policy(Rules()), RULES, times, None, lambda: Utilisation({}))
    clock.ahead += 700
    ledger.heartbeat("stand-in", devices)
    await scheduler.look()
    assert ledger.request_of(holder("ada")).state == "granted"
    pulling.pending = ""
    await scheduler.look()
    assert ledger.ended(holder("ada"))[0].end_reason == "expired"


def test_who_gave_up_waiting_for_a_gpu_is_started_again_without_one_after_an_evacuation(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    assert hub.ask("bob", {"gpus": 1, "cpu_meanwhile": True}, token=hub.token("bob")).status_code in (
        201,
        202,
    )
    eventually(lambda: server(hub, "bob"), "bob's server")
    assert hub.ledger.cancel("test/bob/", "user:bob")
    hub.api("DELETE", "/users/bob/server")
    eventually(lambda: not hub.api("GET", "/users/bob").json()["servers"], "the end of bob's server")

    async def start(**more) -> None:
        client = HubClient(f"{hub.url}/api", hub.scheduler_token, "http://127.0.0.1:9/")
        await client.start("bob", "", **more)

    with pytest.raises(HubError, match="given up meanwhile"):
        asyncio.run(start())
    asyncio.run(start(without_gpu=True))
    eventually(lambda: server(hub, "bob"), "bob's server")
    assert hub.ledger.request_of("test/bob/") is None


def test_a_session_without_a_gpu_changes_to_one_when_it_is_free_and_its_cell_has_ended(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    answer = hub.ask("bob", {"gpus": 1, "cpu_meanwhile": True}, token=hub.token("bob"))
    assert answer.status_code in (201, 202)
    eventually(lambda: server(hub, "bob"), "bob's server without a GPU")
    assert standing(hub, "bob").state == "queued"
    hub.api("DELETE", "/users/ada/server")
    eventually(lambda: not hub.ledger.leases(), "ada's lease to end")
    driven.run("look")
    driven.clock.ahead += START_AFTER + 1
    driven.cell = True
    driven.run("look")
    assert standing(hub, "bob").state == "granted"
    driven.cell = False
    driven.run("look")
    eventually(lambda: is_running(hub, "bob"), "bob's server with its GPU")


def test_a_user_moves_a_session_to_the_cpu_and_back(hub, driven, monkeypatch):
    monkeypatch.setattr("respawner_hub.gpus.scheduler.RETRY_SECONDS", 0.1)
    driven.refusals = ["too many servers start just now"]
    token = hub.token("ada")
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    first = server(hub, "ada")["started"]
    assert hub.api("POST", "/respawner/hop/ada", hub.token("eve"), json={"gpus": 0}).status_code == 404
    answer = hub.api("POST", "/respawner/hop/ada", token, json={"gpus": 0})
    assert "comes back without a GPU" in answer.json()["message"]
    driven.run("look")
    eventually(lambda: server(hub, "ada") and server(hub, "ada")["started"] != first, "ada's server again")
    assert standing(hub, "ada") is None
    assert server(hub, "ada")["user_options"] == {"gpus": 0}
    assert "without a GPU already" in hub.api("POST", "/respawner/hop/ada", token, json={"gpus": 0}).text
    assert hub.api("POST", "/respawner/hop/ada", token, json={"gpus": 1}).status_code == 200
    driven.clock.ahead += START_AFTER + 1
    driven.run("look")
    eventually(lambda: is_running(hub, "ada"), "ada's server with its GPU")


def stops(hub, user: str) -> None:
    """The user stops the session by the hub's API, as the button on the home page does."""
    assert hub.api("DELETE", f"/users/{user}/server", hub.token(user)).status_code in (202, 204)
    eventually(lambda: not hub.api("GET", f"/users/{user}").json()["servers"], "the end of the server")


@pytest.mark.parametrize("failure", ["", "a cell runs"])
@pytest.mark.parametrize("comes_back", [Ask(Kind.GPU), None])
def test_who_stops_a_session_while_it_is_suspended_gets_a_stop(hub, driven, failure, comes_back):
    """It would have come back by itself: with a GPU, without one, or after it was interrupted."""
    driven.rules = replace(RULES, interrupt_cells=True)
    driven.cell = True
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    hub.ledger.begin_suspend("test/ada/", "moved by ada", comes_back, "user:ada")
    driven.meanwhile, driven.failure = lambda: stops(hub, "ada"), failure
    driven.run("look", "look")
    assert standing(hub, "ada") is None
    assert hub.api("GET", "/users/ada").json()["servers"] == {}
    assert hub.ledger.ended("test/ada/")[0].end_reason == "released"
    assert ("user:ada", "suspend aborted") in [
        (e.by, e.action) for e in hub.ledger.audit("test/ada/", most=3)
    ]


def test_the_scheduler_starts_nothing_whose_request_was_given_up_meanwhile(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    ask(hub, "bob")
    stops(hub, "ada")
    driven.run("look")
    assert standing(hub, "bob").state == "granted"
    assert hub.api("DELETE", "/respawner/requests/bob", hub.token("bob")).status_code == 204
    client = HubClient(f"{hub.url}/api", hub.scheduler_token, "http://127.0.0.1:9/")
    with pytest.raises(HubError, match="given up meanwhile"):
        asyncio.run(client.start("bob", ""))
    assert standing(hub, "bob") is None
    assert hub.api("GET", "/users/bob").json()["servers"] == {}


def test_a_session_is_not_suspended_for_what_it_could_never_get(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    answer = hub.api("POST", "/respawner/hop/ada", hub.token("ada"), json={"gpus": 2})
    assert (answer.status_code, "cannot be granted" in answer.json()["message"]) == (409, True)
    answer = hub.api("POST", "/respawner/hop/ada", hub.token("ada"), json={})
    assert (answer.status_code, "Say what ada moves to" in answer.json()["message"]) == (409, True)
    assert not standing(hub, "ada").lease.suspending


def test_a_moved_session_queues_again_and_starts_by_itself(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    fence = standing(hub, "ada").lease.fence
    hub.api("POST", "/respawner/move", json={"user": "ada", "options": {"gpus": 1, "gpu_model": "a100"}})
    driven.run("look")
    eventually(lambda: standing(hub, "ada").request.resumes, "ada's new request")
    driven.run("look")
    driven.clock.ahead += START_AFTER + 1
    driven.run("look")
    eventually(lambda: is_running(hub, "ada"), "ada's server again")
    assert standing(hub, "ada").lease.fence > fence


def test_who_holds_an_ill_gpu_is_told_and_may_leave_it(hub, driven):
    ask(hub, "ada")
    eventually(lambda: is_running(hub, "ada"), "ada's server")
    hub.ledger.cordon("GPU-0", "not healthy: Xid 79, it fell off the bus", "health")
    try:
        browser = Browser(hub)
        browser.log_in("ada", "pw")
        assert "Its GPU is not healthy: Xid 79" in text_of(browser.get("/gpus/queue"))
        answer = browser.submit("/gpus/queue", action="move", server="", gpu="gpus=1")
        assert answer.status_code == 302
        assert standing(hub, "ada").lease.suspending
        assert "It is being suspended" in text_of(browser.get("/gpus/queue"))
    finally:
        hub.ledger.uncordon("GPU-0", "test")
