"""The queue in a real hub process: API callers and forms, one GPU, no container."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from .gpu_hub import GpuHub, eventually
from .running_hub import Browser, text_of


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with GpuHub(tmp_path_factory.mktemp("hub"), gpus=1) as running:
        yield running


@pytest.fixture(autouse=True)
def all_is_free(hub):
    """Nobody has anything before a test."""
    yield
    hub.stop_all()
    for standing in hub.ledger.standings(granted_only=False):
        hub.ledger.cancel(standing.request.holder)


def state(hub, user: str) -> dict:
    return hub.api("GET", f"/respawner/requests/{user}").json()


def log_in(hub, name: str) -> Browser:
    browser = Browser(hub)
    assert browser.log_in(name, "pw").status_code == 302
    return browser


def spawn_by_form(browser: Browser, **fields: str):
    page = browser.get("/spawn")
    action = BeautifulSoup(page.text, "html.parser").find("form", id="spawn_form")["action"]
    return browser.session.post(
        browser.hub.url.removesuffix("/hub") + action, data=fields, allow_redirects=False, timeout=60
    )


def test_what_is_free_starts_at_once(hub):
    token = hub.token("ada")
    answer = hub.ask("ada", {"gpus": 1}, token=token)
    assert answer.status_code in (201, 202), answer.text
    assert "position" not in answer.text
    eventually(lambda: state(hub, "ada")["state"] == "running", "the lease to be claimed")
    assert state(hub, "ada")["devices"] == ["GPU-0"]


def test_who_must_wait_is_told_why_and_the_server_has_not_begun(hub):
    hub.token("bob")
    hub.ask("ada", {"gpus": 1}, token=hub.token("ada"))
    answer = hub.ask("bob", {"gpus": 1}, token=hub.token("bob"))
    assert answer.status_code == 202
    waiting = answer.json()
    assert (waiting["state"], waiting["position"]) == ("queued", 1)
    assert waiting["reason"]
    assert answer.headers["Location"] == "/hub/api/respawner/requests/bob"
    assert hub.api("GET", "/users/bob").json()["servers"] == {}


def test_a_request_can_be_cancelled_by_its_user_only(hub):
    hub.ask("ada", {"gpus": 1}, token=hub.token("ada"))
    bob = hub.token("bob")
    hub.ask("bob", {"gpus": 1}, token=bob)
    path = "/respawner/requests/bob"
    assert hub.api("GET", path, hub.token("eve")).status_code == 404
    assert hub.api("DELETE", path, hub.token("eve")).status_code == 404
    assert hub.api("GET", path, bob).json()["state"] == "queued"
    assert hub.api("DELETE", path, bob).status_code == 204
    assert hub.api("DELETE", path, bob).status_code == 404


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 9}, "gpus = 9: choose 0 to 4."),
        ({"gpu": 1}, "gpu = 1: no such choice"),
        ({"gpus": 2}, "This cannot be granted here"),
    ],
)
def test_what_cannot_be_is_refused_with_the_choice(hub, options, message):
    answer = hub.ask("ada", options, token=hub.token("ada"))
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert state(hub, "ada")["state"] is None


def test_the_form_shows_what_is_free_and_leads_to_the_queue(hub):
    browser = log_in(hub, "carol")
    page = text_of(browser.get("/spawn"))
    assert "GPUs (1 of 1 free now)" in page
    assert "1 GPU free now" in page
    hub.ask("ada", {"gpus": 1}, token=hub.token("ada"))
    assert "1 GPU 1st in the queue" in text_of(browser.get("/spawn"))
    answer = spawn_by_form(browser, gpu="gpus=1")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/hub/gpus/queue/carol")
    page = text_of(browser.get("/gpus/queue/carol"))
    assert "Waiting for a GPU" in page
    assert "You asked for 1 GPU" in page
    assert "what fits is held by ada" in page
    assert (
        browser.get("/spawn", allow_redirects=False).headers["Location"].startswith("/hub/gpus/queue/carol")
    )
    assert "carol" not in text_of(browser.get("/home")) or "waits for 1 GPU" in text_of(browser.get("/home"))


def test_a_person_cancels_or_chooses_something_else(hub):
    hub.ask("ada", {"gpus": 1}, token=hub.token("ada"))
    browser = log_in(hub, "carol")
    for action, leads_to in (("cancel", "/hub/home"), ("change", "/hub/spawn/carol")):
        spawn_by_form(browser, gpu="gpus=1")
        assert 'http-equiv="refresh"' in browser.get("/gpus/queue/carol").text
        answer = browser.submit("/gpus/queue/carol", action=action)
        assert answer.headers["Location"] == leads_to
        assert state(hub, "carol")["state"] is None
    assert browser.get("/gpus/queue/carol", allow_redirects=False).headers["Location"] == "/hub/home"
    assert browser.get("/gpus/queue/ada").status_code in (403, 404)


def test_a_wrong_choice_comes_back_with_the_form(hub):
    answer = spawn_by_form(log_in(hub, "carol"), gpu="gpus=7")
    assert answer.status_code == 400
    assert "gpus = '7': choose 0 to 4." in text_of(answer)
    assert "free now" in text_of(answer)


def test_the_queue_survives_a_restart_of_the_hub(hub):
    hub.ask("ada", {"gpus": 1}, token=hub.token("ada"))
    hub.ask("bob", {"gpus": 1}, token=hub.token("bob"))
    hub.stop()
    hub.start()
    assert state(hub, "bob")["state"] == "queued"


def test_the_form_offers_a_non_preemptible_session_to_those_who_may(hub):
    assert "Never suspend it for others" not in text_of(log_in(hub, "ada").get("/spawn"))
    browser = log_in(hub, "carol")
    assert "others wait until you stop it" in text_of(browser.get("/spawn"))
    assert spawn_by_form(browser, gpu="gpus=1", preemptible="false").status_code == 302
    eventually(lambda: state(hub, "carol")["state"] == "running", "carol's server")
    assert state(hub, "carol")["preemptible"] is False
    assert "never suspended for others" in text_of(browser.get("/gpus/queue"))
    answer = hub.ask("ada", {"gpus": 1, "preemptible": False}, token=hub.token("ada"))
    assert answer.status_code == 400
    assert "you may not start sessions that are never suspended" in answer.json()["message"]
