"""`respawner-hub user`."""

from __future__ import annotations

import argparse
import json
import re

import pytest
from respawner_hub.auth.accounts import Accounts, State
from respawner_hub.cli import users
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Kind

from tests.spawner.ledgers import submit

PASSWORD = "three random words"
HUB_URL = "https://gpu.example.org:8000/hub/"


@pytest.fixture
def accounts(tmp_path):
    store = Accounts(f"sqlite:///{tmp_path / 'accounts.sqlite'}", clock=lambda: 1_700_000_000)
    yield store
    store.close()


@pytest.fixture
def ledger(tmp_path):
    """In the accounts' database."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'accounts.sqlite'}")
    yield ledger
    ledger.close()


@pytest.fixture
def user(accounts, ledger):
    def run(*arguments: str, hub_url: str = HUB_URL) -> int:
        parser = argparse.ArgumentParser(prog="respawner-hub")
        users.add_parser(parser.add_subparsers())
        return users.run(parser.parse_args(["user", *arguments]), accounts, hub_url, lambda: ledger)

    return run


def code_in(text: str) -> str:
    found = re.search(r"\b[0-9A-Z]{5}(-[0-9A-Z]{5}){3}\b", text)
    assert found, text
    return found.group()


def test_added_user_gets_a_code_that_works(user, accounts, capsys):
    assert user("add", "Alice") == 0
    printed = capsys.readouterr().out
    assert "code for alice" in printed
    assert "valid until 2023-11-21 22:13 UTC" in printed
    assert "https://gpu.example.org:8000/hub/set-password" in printed
    accounts.set_password("alice", code_in(printed), PASSWORD)
    assert accounts.check("alice", PASSWORD)
    assert not accounts.get("alice").admin


def test_admin_is_added_as_one(user, accounts):
    assert user("add", "alice", "--admin") == 0
    assert accounts.get("alice").admin


def test_page_is_named_without_an_address_too(user, capsys):
    user("add", "alice", hub_url="")
    assert "at /hub/set-password" in capsys.readouterr().out


def test_reset_user_gets_a_new_code(user, accounts, capsys):
    accounts.set_password("alice", accounts.add("alice"), PASSWORD)
    assert user("reset", "alice") == 0
    assert not accounts.check("alice", PASSWORD)
    accounts.set_password("alice", code_in(capsys.readouterr().out), PASSWORD)


def test_removed_user_is_told_what_stays(user, accounts, capsys):
    accounts.add("alice")
    assert user("remove", "alice") == 0
    assert "volumes stay" in capsys.readouterr().out
    assert accounts.list() == []


@pytest.mark.parametrize("typed", ["alice", "Alice"])
def test_removed_user_waits_for_no_gpu_and_nothing_of_theirs_comes_back(user, accounts, ledger, typed):
    for name in ("alice", "bob"):
        accounts.add(name)
        submit(ledger, name)
    ledger.adopt("team/alice/lab", "alice", ["GPU-0"])
    ledger.begin_suspend("team/alice/lab", "draining: fans", Ask(Kind.GPU))
    assert user("remove", typed) == 0
    assert [standing.request.user for standing in ledger.queue()] == ["bob"]
    assert ledger.release("team/alice/lab").end_reason == "released"
    assert ledger.request_of("team/alice/lab") is None
    assert ledger.audit("team/alice/", most=1)[0].by == "respawner-hub"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "alice"), "'alice' has an account already"),
        (("add", "a b"), "'a b' cannot be a user's name"),
        (("reset", "nobody"), "'nobody' has no account"),
        (("remove", "nobody"), "'nobody' has no account"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_1(user, accounts, capsys, arguments, message):
    accounts.add("alice")
    assert user(*arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_list_is_a_table(user, accounts, capsys):
    accounts.add("alice", admin=True)
    accounts.set_password("bob", accounts.add("bob"), PASSWORD)
    accounts.record_login("bob")
    assert user("list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME   ADMIN  STATE                                     LAST LOGIN",
        "alice  yes    waiting for code, until 2023-11-21 22:13  never",
        "bob           active                                    2023-11-14 22:13",
    ]


def test_empty_list_says_what_to_do(user, capsys):
    assert user("list") == 0
    assert "user add NAME --admin" in capsys.readouterr().out


def test_list_as_json(user, accounts, capsys):
    accounts.add_without_code("alice")
    assert user("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "alice",
            "admin": False,
            "state": State.NO_CODE.name.lower(),
            "code_expires_at": None,
            "created_at": "2023-11-14T22:13:20+00:00",
            "password_set_at": None,
            "last_login_at": None,
        }
    ]
