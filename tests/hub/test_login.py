"""Local accounts in a real JupyterHub, through its real forms."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from respawner_hub.auth.accounts import Accounts, State
from respawner_hub.auth.throttle import NAME_AT_ADDRESS

from tests.hub.running_hub import Browser, RunningHub, account_row, code_on, text_of

PASSWORD = "three random words"
OTHER_PASSWORD = "four other random words"
WRONG = "not at all the password"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with RunningHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def accounts(hub):
    store = Accounts(hub.database_url)
    yield store
    store.close()


@pytest.fixture
def log_in(hub, accounts) -> Callable[..., Browser]:
    """Makes the account if needed and returns a browser that is logged in to it."""

    def do(name: str, *, admin: bool = False) -> Browser:
        if accounts.get(name) is None:
            accounts.set_password(name, accounts.add(name, admin=admin), PASSWORD)
        browser = Browser(hub)
        assert browser.log_in(name, PASSWORD).status_code == 302
        return browser

    return do


@pytest.fixture
def boss(log_in) -> Browser:
    return log_in("boss", admin=True)


_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"user{next(_numbers)}"


def eventually(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


# Logging in ------------------------------------------------------------------------------------------


def test_user_with_a_password_logs_in(log_in, name):
    assert log_in(name).user() == name


def test_name_is_accepted_in_any_case(hub, log_in, name):
    log_in(name)
    browser = Browser(hub)
    assert browser.log_in(f"  {name.upper()} ", PASSWORD).status_code == 302
    assert browser.user() == name


def test_wrong_password_and_unknown_user_read_the_same(hub, log_in, name):
    log_in(name)
    answers = []
    for tried in (name, "no-such-user"):
        browser = Browser(hub)
        answer = browser.log_in(tried, WRONG)
        assert answer.status_code == 403
        assert browser.user() is None
        answers.append(text_of(answer).replace(tried, ""))
    assert answers[0] == answers[1]
    assert "Invalid username or password" in answers[0]


def test_login_page_leads_to_the_page_for_codes(hub):
    browser = Browser(hub)
    assert 'href="/hub/set-password"' in browser.get("/login").text
    assert "One-time code" in text_of(browser.get("/set-password"))


def test_last_login_is_recorded(accounts, log_in, name):
    log_in(name)
    assert accounts.get(name).last_login_at == pytest.approx(time.time(), abs=60)


def test_blocked_user_sets_a_password_and_stays_out(hub, accounts):
    browser = Browser(hub)
    answer = browser.set_password("blocked", accounts.add("blocked"), PASSWORD)
    assert answer.status_code == 403
    assert "does not let you log in" in text_of(answer)
    assert browser.user() is None


# One-time codes --------------------------------------------------------------------------------------


def test_code_sets_the_password_and_logs_in(hub, accounts, name):
    browser = Browser(hub)
    answer = browser.set_password(name, accounts.add(name), PASSWORD)
    assert answer.status_code == 302
    assert browser.user() == name
    assert Browser(hub).log_in(name, PASSWORD).status_code == 302


def test_used_code_is_refused(hub, accounts, name):
    code = accounts.add(name)
    Browser(hub).set_password(name, code, PASSWORD)
    browser = Browser(hub)
    answer = browser.set_password(name, code, OTHER_PASSWORD)
    assert answer.status_code == 403
    assert "do not belong together" in text_of(answer)
    assert browser.user() is None
    assert accounts.check(name, PASSWORD)


def test_expired_code_is_refused(hub, accounts, name):
    eight_days_ago = time.time() - 8 * 86_400
    code = Accounts(hub.database_url, clock=lambda: eight_days_ago).add(name)
    browser = Browser(hub)
    assert browser.set_password(name, code, PASSWORD).status_code == 403
    assert browser.user() is None
    assert accounts.get(name).state is State.EXPIRED


def test_account_cannot_be_claimed_without_its_code(hub, accounts, log_in, name):
    log_in(name)
    waiting = f"{name}-waiting"
    accounts.add(waiting)
    code_of_another = accounts.add(f"{name}-other")
    answers = set()
    for claimed in (name, waiting, "no-such-user"):
        for code in ("", "AAAAA-AAAAA-AAAAA-AAAAA", code_of_another):
            browser = Browser(hub)
            answer = browser.set_password(claimed, code, OTHER_PASSWORD)
            assert answer.status_code == 403
            assert browser.user() is None
            answers.add(text_of(answer))
    assert len(answers) == 1, "the page tells names apart"
    assert accounts.check(name, PASSWORD)
    assert accounts.get(waiting).state is State.WAITING


@pytest.mark.parametrize(
    ("password", "repeat", "message"),
    [("too short", None, "at least 12 characters"), (PASSWORD, PASSWORD + "x", "passwords differ")],
)
def test_unsuitable_password_is_explained_and_the_code_stays_valid(
    hub, accounts, name, password, repeat, message
):
    code = accounts.add(name)
    browser = Browser(hub)
    for _ in range(NAME_AT_ADDRESS.free + 3):  # none of these is an attempt at the code
        answer = browser.set_password(name, code, password, repeat)
        assert answer.status_code == 400
        assert message in text_of(answer)
    assert browser.set_password(name, code, PASSWORD).status_code == 302


def test_form_without_xsrf_token_is_refused(hub, accounts, name):
    code = accounts.add(name)
    fields = {"username": name, "code": code, "new_password": PASSWORD, "repeat_password": PASSWORD}
    assert Browser(hub).post("/set-password", **fields).status_code == 403
    strangers_token = Browser(hub).get("/set-password").cookies["_xsrf"]
    answer = Browser(hub).post("/set-password", _xsrf=strangers_token, **fields)
    assert answer.status_code == 403
    assert "reload the page" in text_of(answer)
    assert accounts.get(name).state is State.WAITING


def test_name_in_the_address_is_filled_in_and_escaped(hub):
    page = Browser(hub).get("/set-password", params={"username": 'x"><script>alert(1)</script>'})
    assert "<script>alert(1)" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


# Throttling ------------------------------------------------------------------------------------------


def test_failed_logins_make_the_next_one_wait(hub, log_in, name):
    log_in(name)
    attacker = Browser(hub)
    statuses = [attacker.log_in(name, WRONG).status_code for _ in range(NAME_AT_ADDRESS.free + 1)]
    assert set(statuses) == {403}
    refused = attacker.log_in(name, PASSWORD)
    assert refused.status_code == 429
    assert "Too many failed attempts. Wait" in text_of(refused)
    assert int(refused.headers["Retry-After"]) > 0
    assert attacker.user() is None
    assert log_in(name).user() == name, "the attacker has locked the user out"


def test_guesses_at_a_code_are_throttled_together_with_logins(hub, accounts, name):
    code = accounts.add(name)
    browser = Browser(hub)
    browser.log_in(name, WRONG)
    for _ in range(NAME_AT_ADDRESS.free):
        assert browser.set_password(name, "AAAAA-AAAAA-AAAAA-AAAAA", PASSWORD).status_code == 403
    refused = browser.set_password(name, code, PASSWORD)
    assert refused.status_code == 429
    assert "Wait" in text_of(refused)
    assert Browser(hub).set_password(name, code, PASSWORD).status_code == 302


def test_header_of_the_client_does_not_make_it_somebody_else(hub, accounts, name):
    accounts.add(name)
    address = "203.0.113.9"
    statuses = []
    for number in range(NAME_AT_ADDRESS.free + 2):
        browser = Browser(hub, f"10.9.9.{number}, {address}")
        browser.session.headers["X-Real-Ip"] = f"10.9.8.{number}"
        statuses.append(browser.log_in(name, WRONG).status_code)
    assert statuses[-1] == 429


def test_api_that_makes_tokens_for_passwords_is_throttled_too(hub, log_in, name):
    log_in(name)
    attacker = Browser(hub)

    def token(password: str) -> int:
        auth = {"username": name, "password": password}
        url = f"{hub.url}/api/users/{name}/tokens"
        return attacker.session.post(url, json={"auth": auth}, timeout=120).status_code

    assert token(PASSWORD) == 201
    assert {token(WRONG) for _ in range(NAME_AT_ADDRESS.free + 1)} == {403}
    assert token(PASSWORD) == 403


@pytest.mark.parametrize(
    "auth", [None, {}, "text", {"username": 1, "password": []}, {"username": "\ud800", "password": "\ud800"}]
)
def test_api_survives_any_json(hub, auth):
    url = f"{hub.url}/api/users/boss/tokens"
    answer = Browser(hub).session.post(url, json={"auth": auth}, timeout=120)
    assert answer.status_code == 403


# The admin's page ------------------------------------------------------------------------------------


def test_admin_adds_an_account_and_its_code_works(hub, boss, name):
    page = boss.accounts("add", name.upper())
    assert page.status_code == 200
    assert page.headers["Cache-Control"] == "no-store"
    assert f"{hub.url}/set-password?username={name}" in page.text
    assert "waiting for code" in account_row(page, name)
    code = code_on(page)
    assert code not in boss.get("/accounts").text, "shown once"
    user = Browser(hub)
    user.set_password(name, code, PASSWORD)
    assert user.user() == name
    row = account_row(boss.get("/accounts"), name)
    assert "active" in row
    assert "never" not in row


def test_admin_added_on_the_page_is_an_admin(hub, boss, name):
    admin = Browser(hub)
    admin.set_password(name, code_on(boss.accounts("add", name, admin="on")), PASSWORD)
    assert admin.get("/accounts").status_code == 200
    assert hub.api("GET", f"/users/{name}").json()["admin"] is True


@pytest.mark.parametrize(
    ("action", "who", "message"),
    [
        ("add", "boss", "has an account already"),
        ("add", "not a name", "cannot be a user's name"),
        ("add", "<b>", "cannot be a user's name"),
        ("reset", "nobody", "has no account"),
        ("make-admin", "nobody", "has no account"),
        ("reset", "boss", "your own account"),
        ("remove", "boss", "your own account"),
        ("revoke-admin", "boss", "your own account"),
    ],
)
def test_admin_is_told_what_cannot_be_done(boss, action, who, message):
    page = boss.accounts(action, who)
    assert page.status_code == 400
    assert message in text_of(page)
    assert boss.user() == "boss"


def test_unknown_action_is_refused(boss):
    assert boss.accounts("destroy", "boss").status_code == 400


def test_reset_ends_logins_and_password_and_gives_a_code(hub, boss, log_in, name):
    user = log_in(name)
    code = code_on(boss.accounts("reset", name))
    assert user.user() is None
    assert Browser(hub).log_in(name, PASSWORD).status_code == 403
    assert Browser(hub).set_password(name, code, OTHER_PASSWORD).status_code == 302
    assert user.user() is None, "the earlier login came back"


def test_reset_keeps_api_tokens_for_when_the_password_is_set(hub, boss, log_in, name):
    user = log_in(name)
    token = make_token(hub, name)
    code = code_on(boss.accounts("reset", name))
    user.set_password(name, code, OTHER_PASSWORD)
    assert hub.api("GET", "/user", token).json()["name"] == name


def test_removed_account_loses_all_access(hub, boss, log_in, name):
    user = log_in(name)
    token = make_token(hub, name)
    page = boss.accounts("remove", name)
    assert "Files and saved variables stay" in text_of(page)
    assert account_row(page, name) is None
    assert user.user() is None
    assert hub.api("GET", "/user", token).status_code == 403
    assert Browser(hub).log_in(name, PASSWORD).status_code == 403


def test_removal_stops_running_sessions_and_keeps_files(hub, boss, log_in, name):
    log_in(name)
    assert hub.api("POST", f"/users/{name}/server").status_code in (201, 202)
    eventually(lambda: hub.api("GET", f"/users/{name}").json()["server"], "session is ready")
    home = hub.folder / "homes" / name
    (home / "work.txt").write_text("work")
    boss.accounts("remove", name)
    eventually(lambda: not hub.api("GET", f"/users/{name}").json()["servers"], "session stops")
    assert (home / "work.txt").read_text() == "work"


def test_name_given_to_another_person_has_none_of_the_former_access(hub, accounts, log_in, name):
    """Removed and added again by the command line, between two requests of the former holder."""
    former = log_in(name)
    token = make_token(hub, name)
    accounts.remove(name)
    code = accounts.add(name)
    assert Browser(hub).set_password(name, code, OTHER_PASSWORD).status_code == 302
    assert former.user() is None
    assert hub.api("GET", "/user", token).status_code == 403


def make_token(hub: RunningHub, name: str) -> str:
    answer = hub.api("POST", f"/users/{name}/tokens", json={"note": "by the test"})
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


def test_admin_right_is_given_and_taken_while_the_user_is_logged_in(boss, log_in, name):
    user = log_in(name)
    assert user.get("/accounts").status_code == 403
    boss.accounts("make-admin", name)
    assert user.get("/accounts").status_code == 200
    boss.accounts("revoke-admin", name)
    assert user.get("/accounts").status_code == 403


def test_admin_right_that_the_account_does_not_have_does_not_last(hub, boss, log_in, name):
    """What JupyterHub's own admin page would do."""
    user = log_in(name)
    token = boss.get("/accounts").text.split('xsrf_token: "')[1].split('"')[0]
    patched = boss.session.patch(
        f"{hub.url}/api/users/{name}", json={"admin": True}, headers={"X-Xsrftoken": token}, timeout=120
    )
    assert patched.status_code == 200, patched.text
    eventually(lambda: user.get("/accounts").status_code == 403, "the account's right counts")
    assert hub.api("GET", f"/users/{name}").json()["admin"] is False


# Who may see it --------------------------------------------------------------------------------------


def test_user_gets_403_and_no_link(log_in, accounts, name):
    user = log_in(name)
    assert user.get("/accounts").status_code == 403
    token = user.get("/change-password").text.split('xsrf_token: "')[1].split('"')[0]
    for action, other in [("add", f"{name}-new"), ("reset", "boss"), ("remove", "boss")]:
        assert user.post("/accounts", _xsrf=token, action=action, username=other).status_code == 403
    assert accounts.get(f"{name}-new") is None
    home = user.get("/home").text
    assert "/hub/accounts" not in home
    assert "/hub/change-password" in home


def test_admin_has_the_link(boss):
    home = boss.get("/home").text
    assert 'href="/hub/accounts"' in home
    assert 'href="/hub/admin"' in home, "JupyterHub's own links are gone"


@pytest.mark.parametrize("page", ["/accounts", "/change-password"])
def test_stranger_is_sent_to_the_login(hub, page):
    stranger = Browser(hub)
    answer = stranger.get(page, allow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/hub/login?next=")
    token = stranger.get("/set-password").cookies["_xsrf"]
    assert stranger.post(page, _xsrf=token, action="add", username="mallory").status_code == 403


def test_manager_who_is_no_admin_cannot_reach_admins(hub, accounts, log_in, name):
    manager, other_admin = log_in(name), f"{name}-admin"
    accounts.set_password(other_admin, accounts.add(other_admin, admin=True), PASSWORD)
    joined = hub.api("POST", "/groups/managers/users", json={"users": [name]})
    assert joined.status_code == 200, joined.text
    assert code_on(manager.accounts("add", f"{name}-member"))
    assert code_on(manager.accounts("reset", f"{name}-member"))
    for action in ("reset", "remove", "revoke-admin"):
        assert manager.accounts(action, other_admin).status_code == 403
    assert manager.accounts("make-admin", f"{name}-member").status_code == 403
    assert manager.accounts("add", f"{name}-second", admin="on").status_code == 403
    assert accounts.check(other_admin, PASSWORD)
    assert accounts.get(f"{name}-second") is None
    assert not accounts.get(f"{name}-member").admin


# JupyterHub's own ways to add and delete users -------------------------------------------------------


def test_user_added_by_the_api_waits_for_a_code(hub, accounts, boss, name):
    assert hub.api("POST", "/users", json={"usernames": [name]}).status_code == 201
    assert accounts.get(name).state is State.NO_CODE
    assert Browser(hub).log_in(name, "").status_code == 403
    assert Browser(hub).set_password(name, "", PASSWORD).status_code == 403
    page = boss.get("/accounts")
    assert "no code yet" in account_row(page, name)
    user = Browser(hub)
    user.set_password(name, code_on(boss.accounts("reset", name)), PASSWORD)
    assert user.user() == name


def test_token_made_for_a_user_without_a_password_works(hub, name):
    """For users that are programs, and for sessions that an admin starts for somebody."""
    hub.api("POST", "/users", json={"usernames": [name]})
    token = make_token(hub, name)
    time.sleep(1.1)  # longer than this hub's auth_refresh_age
    for _ in range(3):
        assert hub.api("GET", "/user", token).json()["name"] == name


def test_user_deleted_by_the_api_has_no_account(hub, accounts, log_in, name):
    user = log_in(name)
    assert hub.api("DELETE", f"/users/{name}").status_code == 204
    assert accounts.get(name) is None
    assert user.user() is None


@pytest.mark.parametrize("bad", ["with space", "UPPER", "ünsal"])
def test_user_whose_name_cannot_log_in_is_not_added(hub, accounts, bad):
    assert hub.api("POST", f"/users/{bad}").status_code == 400
    assert hub.api("GET", f"/users/{bad}").status_code == 404
    assert accounts.get(bad) is None


# Changing one's own password -------------------------------------------------------------------------


def test_changed_password_logs_other_browsers_out(hub, log_in, name):
    here, elsewhere = log_in(name), log_in(name)
    answer = here.change_password(PASSWORD, OTHER_PASSWORD)
    assert answer.status_code == 302
    assert here.user() == name
    assert "Your password is changed" in text_of(here.get("/change-password?changed=1"))
    assert elsewhere.user() is None
    assert Browser(hub).log_in(name, PASSWORD).status_code == 403
    assert Browser(hub).log_in(name, OTHER_PASSWORD).status_code == 302


def test_wrong_old_password_changes_nothing_and_is_throttled(accounts, log_in, name):
    user = log_in(name)
    for _ in range(NAME_AT_ADDRESS.free + 1):
        answer = user.change_password(WRONG, OTHER_PASSWORD)
        assert answer.status_code == 403
        assert "old password is wrong" in text_of(answer)
    assert user.change_password(PASSWORD, OTHER_PASSWORD).status_code == 429
    assert accounts.check(name, PASSWORD)
    assert user.user() == name


def test_short_new_password_is_refused(accounts, log_in, name):
    user = log_in(name)
    answer = user.change_password(PASSWORD, "short")
    assert answer.status_code == 400
    assert "at least 12" in text_of(answer)
    assert accounts.check(name, PASSWORD)


# The command line beside a running hub ---------------------------------------------------------------


@pytest.mark.parametrize("action", ["reset", "remove"])
def test_running_hub_notices_what_the_command_line_did(hub, accounts, log_in, name, action):
    user, token = log_in(name), make_token(hub, name)
    getattr(accounts, action)(name)
    eventually(lambda: user.user() is None, f"logged out after {action}")
    if action == "remove":
        eventually(lambda: hub.api("GET", "/user", token).status_code == 403, "token is revoked")


# Restart ---------------------------------------------------------------------------------------------


def test_restarted_hub_remembers_logins_and_brings_no_removed_account_back(tmp_path: Path):
    with RunningHub(tmp_path) as hub:
        accounts = Accounts(hub.database_url)
        stays, goes = Browser(hub), Browser(hub)
        stays.set_password("stays", accounts.add("stays"), PASSWORD)
        goes.set_password("goes", accounts.add("goes"), PASSWORD)
        hub.stop()
        accounts.remove("goes")
        hub.start()
        assert stays.user() == "stays"
        assert goes.user() is None
        assert [account.name for account in accounts.list()] == ["stays"]
        assert Browser(hub).log_in("goes", PASSWORD).status_code == 403
