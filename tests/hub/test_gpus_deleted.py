"""What becomes of requests whose server, user or account is deleted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from respawner_hub.auth.accounts import Accounts
from respawner_spawner.leases.model import Ask, Kind

from .gpu_hub import GpuHub, eventually
from .running_hub import Browser, text_of

PASSWORD = "three random words"
ACCOUNTS = """
from respawner_hub.auth.local import LocalAccountsAuthenticator
c.JupyterHub.authenticator_class = LocalAccountsAuthenticator
c.LocalAccountsAuthenticator.database_url = "sqlite:///accounts.sqlite"
c.RespawnerHub.default_gpus = 1

import asyncio
async def slow_poll(self):
    await asyncio.sleep(0.2)
    return await SimpleLocalProcessSpawner.poll(self)
LeasingSpawner.poll = slow_poll
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """With local accounts, and no GPU that is free."""
    with GpuHub(tmp_path_factory.mktemp("hub"), gpus=1, more=ACCOUNTS) as running:
        running.ledger.cordon("GPU-0", "it is on fire", "test")
        yield running


def queue(hub, user: str, server: str = "") -> None:
    assert hub.ask(user, {"gpus": 1}, server, token=hub.token(user)).json()["state"] == "queued"


def how_it_ended(hub, user: str, server: str = "") -> tuple[str, str]:
    holder = f"test/{user}/{server}"
    assert hub.ledger.request_of(holder) is None
    [ended] = hub.ledger.ended(holder)
    return ended.end_reason, ended.end_detail


def test_a_deleted_named_server_waits_no_longer_and_the_others_do(hub):
    queue(hub, "ada", "lab")
    queue(hub, "ada")
    assert hub.api("DELETE", "/users/ada/servers/lab", json={"remove": True}).status_code == 204
    assert how_it_ended(hub, "ada", "lab") == ("cancelled", "its server was deleted")
    assert hub.ledger.request_of("test/ada/").state == "queued"


def test_a_deleted_user_waits_no_longer(hub):
    queue(hub, "bob", "lab")
    queue(hub, "bob")
    assert hub.api("DELETE", "/users/bob").status_code == 204
    assert how_it_ended(hub, "bob", "lab") == ("cancelled", "its server was deleted")
    assert how_it_ended(hub, "bob") == ("cancelled", "its user was deleted")


def test_a_removed_account_waits_no_longer_and_nothing_of_it_comes_back(hub):
    accounts = Accounts(hub.database_url)
    code = accounts.add("boss", admin=True)
    accounts.add("eve")
    queue(hub, "eve")
    hub.ledger.adopt("test/eve/lab", "eve", ["GPU-0"])
    hub.ledger.begin_suspend("test/eve/lab", "draining: fans", Ask(Kind.GPU))
    browser = Browser(hub)
    browser.set_password("boss", code, PASSWORD)
    answer = browser.accounts("remove", "eve")
    assert "eve has no account any more" in text_of(answer)
    assert how_it_ended(hub, "eve") == ("cancelled", "its account was removed")
    assert hub.ledger.audit("test/eve/", most=1)[0].by == "user:boss"
    assert hub.ledger.release("test/eve/lab").end_reason == "released"
    assert hub.ledger.request_of("test/eve/lab") is None


def test_whoever_stops_what_another_stops_at_the_same_moment_gets_no_error(hub):
    """JupyterHub asks whether a server stops, then whether it still lives, then stops it: in between another may have."""
    hub.ask("ada", {"gpus": 0}, token=hub.token("ada"))
    eventually(lambda: hub.api("GET", "/users/ada").json()["server"], "ada's server")
    with ThreadPoolExecutor(6) as pool:
        stops = [pool.submit(hub.api, "DELETE", "/users/ada/server") for _ in range(6)]
    assert {stop.result().status_code for stop in stops} <= {202, 204}
    eventually(lambda: not hub.api("GET", "/users/ada").json()["servers"], "the end of ada's server")
