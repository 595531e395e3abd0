"""What admins do to GPUs, by API, page and command line, on a real hub process."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
import requests
from respawner_hub import gateway, secrets
from respawner_hub.cli import main
from respawner_spawner.leases.model import Ask, Decision, Grant, Kind
from respawner_spawner.leases.reconcile import SILENT_ENGINE

from .gpu_hub import GpuHub, eventually
from .running_hub import Browser, text_of

API_PORT_SETTINGS = """
[hub]
state_dir = "{folder}/state"
database_url = "{database}"
hub_api_port = {port}
port = 1
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with GpuHub(tmp_path_factory.mktemp("hub"), gpus=2) as running:
        yield running


@pytest.fixture(autouse=True)
def all_is_as_it_was(hub):
    yield
    for standing in hub.ledger.standings(granted_only=False):
        hub.ledger.cancel(standing.request.holder)
    hub.stop_all()
    for cordon in hub.ledger.cordons():
        hub.ledger.uncordon(cordon.target, "test")
    for device in hub.devices:
        hub.ledger.share(device.uuid, 0, "test")
    for limit in hub.ledger.limits():
        hub.ledger.remove_limit(limit.subject, "test")


@pytest.fixture
def gpu(hub, monkeypatch, capsys):
    """`respawner-hub gpu …` → (exit code, standard output, standard error)."""
    settings = hub.folder / "respawner.toml"
    database = hub.ledger.database.engine.url
    settings.write_text(API_PORT_SETTINGS.format(folder=hub.folder, database=database, port=hub.port))
    monkeypatch.setattr(gateway, "remembered", lambda settings: "127.0.0.1")
    monkeypatch.setattr(secrets, "gpu_token", lambda state_dir: hub.api_token)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--settings", str(settings), "gpu", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def act(hub, action: str, **fields) -> requests.Response:
    return hub.api("POST", f"/respawner/{action}", json=fields)


def running(hub, user: str) -> bool:
    standing = hub.ledger.request_of(f"test/{user}/")
    return bool(standing and standing.state == "running") and hub.serves(user)


def take(hub, user: str, count: int = 1) -> None:
    assert hub.ask(user, {"gpus": count}, token=hub.token(user)).status_code in (201, 202)
    eventually(lambda: running(hub, user), f"{user}'s server")


def last_change(hub) -> tuple[str, str, str]:
    entry = hub.ledger.audit(most=1)[0]
    return entry.by, entry.action, entry.subject


def test_only_who_may_sees_and_changes(hub):
    user, manager = hub.token("ada"), hub.token("manager")
    for path in ("leases", "queue", "history", "audit", "limits"):
        assert hub.api("GET", f"/respawner/{path}", user).status_code == 403
        assert hub.api("GET", f"/respawner/{path}", manager).status_code == 200
        assert requests.get(f"{hub.url}/api/respawner/{path}").status_code == 403
    body = {"target": "GPU-0"}
    assert hub.api("POST", "/respawner/cordon", user, json=body).status_code == 403
    assert hub.ledger.cordons() == []
    assert hub.api("POST", "/respawner/cordon", manager, json=body).status_code == 200
    assert last_change(hub) == ("user:manager", "cordoned", "GPU-0")


def test_users_see_devices_without_the_names_of_others(hub):
    take(hub, "ada")
    [gpu] = [d for d in hub.api("GET", "/respawner/devices", hub.token("bob")).json() if d["holders"]]
    assert "user" not in gpu["holders"][0]
    [gpu] = [d for d in hub.api("GET", "/respawner/devices", hub.token("ada")).json() if d["holders"]]
    assert gpu["holders"][0]["user"] == "ada"
    assert hub.api("GET", "/respawner/requests", hub.token("bob")).json() == []


def test_a_cordoned_gpu_takes_no_lease_until_it_is_uncordoned(hub, gpu):
    for uuid in ("GPU-0", "GPU-1"):
        assert gpu("cordon", uuid, "--reason", "new fans") == (0, f"{uuid} takes no new leases.\n", "")
    waiting = hub.ask("ada", {"gpus": 1}, token=hub.token("ada")).json()
    assert waiting["state"] == "queued"
    assert "new fans" in waiting["reason"]
    assert "new fans" in gpu("list")[1]
    assert gpu("uncordon", "GPU-1")[0] == 0
    assert gpu("uncordon", "stand-in")[1] == "stand-in was not cordoned.\n"


def test_who_names_a_reason_takes_only_that_cordon_away(hub, gpu):
    gpu("cordon", "stand-in", "--reason", "new fans")
    gpu("drain", "stand-in", "--reason", "an upgrade")
    assert (
        gpu("uncordon", "stand-in", "--reason", "an upgrade")[1] == "stand-in is still cordoned: new fans.\n"
    )
    assert gpu("uncordon", "stand-in", "--reason", "new fans")[1] == "stand-in takes leases again.\n"
    assert gpu("uncordon", "stand-in", "--reason", "new fans")[1] == "stand-in was not cordoned.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cordon", "GPU-9"), "target = 'GPU-9': no such GPU or host. Known: stand-in, GPU-0, GPU-1."),
        (("cordon", "GPU-0", "--reason", " "), "reason = ' '"),
        (("cordon", "GPU-0", "--reason", "draining: fans"), "begin it otherwise, or use drain"),
        (("assign", "boss", "--server", "a/b", "--gpus", "1"), "server = 'a/b': Invalid server_name"),
        (("share", "GPU-0", "much"), "memory = 'much': 'much' is not a size"),
        (("limit", "user:ada", "--most", "1", "--guarantee", "2"), "guarantee = 2 is more than most = 1"),
        (("limit", "ada", "--most", "1"), "subject = 'ada'"),
        (("assign", "nobody", "--gpus", "1"), "user = 'nobody': the hub knows no such user."),
        (("assign", "boss", "--gpus", "0"), "Assign at least one GPU"),
        (("release", "nobody"), "user = 'nobody'"),
        (("unreserve", "99"), "id = 99: there is no such reservation"),
        (
            ("reserve", "lab", "1", "--from", "2030-01-02T00:00", "--until", "2030-01-01T00:00"),
            "not after its start",
        ),
        (("history", "--by", "moon"), "by = 'moon': choose user, group, gpu, day."),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(hub, gpu, arguments, message):
    hub.token("boss")
    before = hub.ledger.audit(most=1)
    code, output, error = gpu(*arguments)
    assert (code, output) == (1, "")
    assert message in error
    assert hub.ledger.audit(most=1) == before


@pytest.mark.parametrize("address", ["history?since=nan", "audit?most=inf", "audit?since=now"])
def test_a_number_in_an_address_that_is_none_is_named(hub, address):
    answer = hub.api("GET", f"/respawner/{address}")
    assert answer.status_code == 400
    assert f"= '{address.partition('?')[2].partition('=')[2]}'" in answer.json()["message"]


def test_an_admin_releases_a_session_and_the_log_says_who(hub, gpu):
    take(hub, "ada")
    assert "ada" in gpu("leases")[1]
    code, output, _ = gpu("release", "ada")
    assert code == 0
    assert output.startswith("ada is stopp")
    eventually(lambda: not hub.ledger.leases(), "the lease to end")
    assert ("service:tests", "release") in [(entry.by, entry.action) for entry in hub.ledger.audit(most=5)]


def test_a_lease_whose_server_the_hub_has_forgotten_is_told_of(hub, gpu):
    hub.token("ada")
    request = hub.ledger.submit("test/ada/", "ada", Ask(Kind.GPU))
    hub.ledger.apply(Decision((Grant(request.id, ("GPU-0",)),)))
    hub.ledger.claim("test/ada/")
    try:
        code, _, error = gpu("release", "ada")
        assert (code, "the hub does not know its server. Start it" in error) == (1, True)
    finally:
        hub.ledger.release("test/ada/")


def test_only_a_session_on_a_lost_host_can_be_given_up(hub, gpu, monkeypatch):
    take(hub, "ada")
    code, _, error = gpu("give-up", "ada", "--yes")
    assert (code, "ada is on stand-in, which answers" in error) == (1, True)
    browser = Browser(hub)
    browser.log_in("boss", "pw")
    assert "Give up" not in text_of(browser.get("/gpus"))
    assert hub.api("POST", "/respawner/give-up", hub.token("ada"), json={"user": "ada"}).status_code == 403

    hub.ledger.cordon("host:stand-in", SILENT_ENGINE, "reconcile")
    assert "Give up" in text_of(browser.get("/gpus"))
    code, _, error = gpu("give-up", "ada")
    assert (code, "say --yes" in error) == (1, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert gpu("give-up", "ada")[1].endswith("Nothing has changed.\n")
    assert running(hub, "ada")
    monkeypatch.setattr("builtins.input", lambda question: "y")
    code, output, _ = gpu("give-up", "ada", "--reason", "flooded")
    assert (code, "ada is given up and can start again." in output) == (0, True)
    ended = hub.ledger.ended("test/ada/")[0]
    assert (ended.end_reason, ended.end_detail) == ("lost", "flooded")
    assert hub.api("GET", "/users/ada").json()["servers"] == {}
    assert ("service:tests", "lost") in [(e.by, e.action) for e in hub.ledger.audit("test/ada/", most=3)]

    take_again = hub.ask("ada", {"gpus": 1}, token=hub.token("ada"))
    assert take_again.json()["state"] == "queued"


def test_an_admin_gives_a_session_up_on_the_page(hub):
    take(hub, "ada")
    hub.ledger.cordon("host:stand-in", SILENT_ENGINE, "reconcile")
    browser = Browser(hub)
    browser.log_in("boss", "pw")
    answer = browser.submit("/gpus", action="give-up", user="ada", server="")
    assert "ada is given up and can start again." in text_of(answer)
    assert hub.ledger.audit("test/ada/", most=1)[0].by == "user:boss"


def test_an_assigned_session_goes_before_those_who_wait_longer(hub, gpu):
    take(hub, "ada", 2)
    hub.ask("bob", {"gpus": 1}, token=hub.token("bob"))
    hub.token("carol")
    code, output, _ = gpu("assign", "carol", "--gpus", "1", "--non-preemptible")
    assert code == 0
    assert output.startswith("carol waits: 1st in the queue: needs 1 GPU; ")
    rows = gpu("queue")[1].splitlines()
    assert rows[1].split()[:2] == ["1", "carol"]
    queue = json.loads(gpu("queue", "--json")[1])
    assert [(request["user"], request["preemptible"]) for request in queue] == [
        ("carol", False),
        ("bob", True),
    ]


def test_a_limit_holds_and_can_be_taken_away(hub, gpu):
    assert gpu("limit", "user:ada", "--most", "1")[0] == 0
    assert "user:ada" in gpu("limits")[1]
    answer = hub.ask("ada", {"gpus": 2}, token=hub.token("ada"))
    assert answer.status_code == 400
    assert "limit of user ada is 1" in answer.json()["message"]
    assert gpu("unlimit", "user:ada")[0] == 0
    assert gpu("limits")[1] == "No limits.\n"


def test_a_shared_gpu_serves_several_sessions(hub, gpu):
    assert gpu("share", "GPU-0", "40G")[0] == 0
    for user in ("ada", "bob"):
        assert hub.ask(user, {"share": "20G"}, token=hub.token(user)).status_code in (201, 202)
        eventually(lambda user=user: running(hub, user), f"{user}'s server")
    waiting = hub.ask("carol", {"share": "20G"}, token=hub.token("carol")).json()
    assert waiting["state"] == "queued"
    [device] = [d for d in json.loads(gpu("list", "--json")[1]) if d["uuid"] == "GPU-0"]
    assert (len(device["holders"]), device["free_bytes"]) == (2, 0)


@pytest.mark.parametrize("most", ["inf", "nan", "many"])
def test_a_limit_is_a_number(gpu, capsys, most):
    with pytest.raises(SystemExit):
        gpu("limit", "user:ada", "--most", most)
    assert f"'{most}' is not a number of GPUs" in capsys.readouterr().err


def test_a_reservation_is_made_and_cancelled(hub, gpu):
    code, output, _ = gpu("reserve", "lab", "1", "--from", "2030-01-01T09:00", "--until", "2030-01-02T09:00")
    assert code == 0
    number = output.split()[1]
    assert "lab" in gpu("reservations")[1]
    assert gpu("unreserve", number)[0] == 0
    assert gpu("reservations")[1] == "No reservations.\n"


def test_a_drain_moves_the_sessions_off(hub, gpu):
    take(hub, "ada")
    held = hub.ledger.request_of("test/ada/").lease.uuids[0]
    assert "suspended now: 1" in gpu("drain", held)[1]
    standing = hub.ledger.request_of("test/ada/")
    assert standing.lease.suspending
    assert standing.comes_back.count == 1
    hub.ledger.abort_suspend("test/ada/", "a cell runs")
    [row] = [line for line in gpu("leases")[1].splitlines() if line.startswith("ada")]
    assert "not suspended: a cell runs; next try" in row
    browser = Browser(hub)
    browser.log_in("boss", "pw")
    assert "ada: not suspended: a cell runs; next try" in text_of(browser.get("/gpus"))
    assert gpu("uncordon", held)[0] == 0
    assert hub.api("GET", "/respawner/leases").json()[0]["suspend_retry_at"] is None


def test_a_moved_session_comes_back_with_what_it_was_moved_to(hub, gpu):
    take(hub, "ada")
    assert gpu("move", "ada", "--device", "GPU-1")[0] == 0
    assert hub.ledger.request_of("test/ada/").comes_back.uuids == ("GPU-1",)
    assert hub.api("GET", "/users/ada").json()["servers"][""]["user_options"] == {
        "gpus": 1,
        "gpu_uuids": ["GPU-1"],
    }


def test_history_as_table_json_and_csv(hub, gpu):
    take(hub, "ada")
    time.sleep(0.1)
    assert "ada" in gpu("history")[1]
    assert json.loads(gpu("history", "--json")[1])["hours"]
    rows = list(csv.DictReader(io.StringIO(gpu("history", "--by", "user", "--csv")[1])))
    assert "ada" in [row["user"] for row in rows]


def test_reading_works_while_the_hub_is_down_and_changing_says_why_not(hub, gpu):
    hub.stop()
    try:
        code, output, error = gpu("list")
        assert code == 0
        assert "GPU-0" in output
        assert "The hub does not answer" in error
        code, _, error = gpu("cordon", "GPU-0")
        assert code == 1
        assert "`respawner-hub up` starts it" in error
    finally:
        hub.start()


def test_the_admin_page_shows_the_board_and_its_forms_work(hub):
    take(hub, "ada")
    browser = Browser(hub)
    assert browser.log_in("boss", "pw").status_code == 302
    page = text_of(browser.get("/gpus"))
    assert "ada running" in page
    answer = browser.submit("/gpus", action="cordon", target="GPU-1")
    assert "GPU-1 takes no new leases." in text_of(answer)
    answer = browser.submit("/gpus", action="limit", subject="group:lab", most="", guarantee="1", priority="")
    assert "The limit of group:lab is set." in text_of(answer)
    answer = browser.submit("/gpus", action="limit", subject="lab", most="")
    assert answer.status_code == 400
    assert "subject = 'lab'" in text_of(answer)
    assert browser.submit("/gpus", action="fly").status_code == 400
    assert browser.post("/gpus", action="cordon", target="GPU-0").status_code == 403


def test_a_user_sees_own_sessions_and_not_the_board(hub):
    take(hub, "ada")
    browser = Browser(hub)
    browser.log_in("ada", "pw")
    assert browser.get("/gpus").status_code == 403
    page = browser.get("/gpus/queue")
    assert "Default server: 1 GPU" in text_of(page)
    assert 'href="/hub/gpus"' not in page.text
