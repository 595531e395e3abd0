"""The store of local accounts, with a clock that the tests turn."""

import subprocess
import sys
import threading
from pathlib import Path

import argon2
import pytest
import sqlalchemy as sa
from respawner_hub.auth.accounts import (
    AccountExistsError,
    Accounts,
    InvalidNameError,
    State,
    UnknownAccountError,
    UnsuitablePasswordError,
    WrongCodeError,
)

PASSWORD = "three random words"
DAY = 86_400


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'accounts.sqlite'}"


@pytest.fixture
def accounts(url, clock):
    store = Accounts(url, clock=clock)
    yield store
    store.close()


@pytest.fixture
def alice(accounts):
    """Alice's account, with `PASSWORD`."""
    accounts.set_password("alice", accounts.add("alice"), PASSWORD)
    return "alice"


def stored(url: str) -> str:
    with sa.create_engine(url).connect() as connection:
        return str(connection.execute(sa.text("SELECT * FROM respawner_accounts")).all())


def test_code_sets_the_password_and_the_password_logs_in(accounts):
    code = accounts.add("alice")
    assert not accounts.check("alice", PASSWORD)
    accounts.set_password("alice", code, PASSWORD)
    assert accounts.check("alice", PASSWORD)
    assert not accounts.check("alice", PASSWORD + "x")
    assert not accounts.check("alice", "")


def test_code_works_once(accounts):
    code = accounts.add("alice")
    accounts.set_password("alice", code, PASSWORD)
    with pytest.raises(WrongCodeError):
        accounts.set_password("alice", code, "another good password")
    assert accounts.check("alice", PASSWORD)


def test_of_two_who_use_a_code_at_once_one_wins(accounts):
    code, passwords, winners = accounts.add("alice"), [f"password of thread {n}" for n in range(4)], []

    def use(password: str) -> None:
        try:
            accounts.set_password("alice", code, password)
        except WrongCodeError:
            return
        winners.append(password)

    threads = [threading.Thread(target=use, args=[password]) for password in passwords]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert [password for password in passwords if accounts.check("alice", password)] == winners


def test_code_of_another_account_is_refused(accounts):
    accounts.add("alice")
    code_of_bob = accounts.add("bob")
    with pytest.raises(WrongCodeError):
        accounts.set_password("alice", code_of_bob, PASSWORD)
    accounts.set_password("bob", code_of_bob, PASSWORD)


@pytest.mark.parametrize("code", ["", "-", "00000-00000-00000-00000"])
def test_account_without_a_code_cannot_be_claimed(accounts, alice, code):
    accounts.add_without_code("carol")
    for name in ("carol", alice, "nobody", "no such name!"):
        with pytest.raises(WrongCodeError):
            accounts.set_password(name, code, "another good password")
    assert accounts.check(alice, PASSWORD)


def test_wrong_name_and_wrong_code_read_the_same(accounts):
    accounts.add("alice")
    messages = set()
    for name in ("alice", "nobody"):
        with pytest.raises(WrongCodeError) as caught:
            accounts.set_password(name, "00000-00000-00000-00000", PASSWORD)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_code_expires(accounts, clock):
    code = accounts.add("alice")
    clock.now += 7 * DAY - 1
    assert accounts.get("alice").state is State.WAITING
    clock.now += 1
    assert accounts.get("alice").state is State.EXPIRED
    with pytest.raises(WrongCodeError):
        accounts.set_password("alice", code, PASSWORD)
    accounts.set_password("alice", accounts.reset("alice"), PASSWORD)


def test_days_of_validity_can_be_chosen(url, clock):
    accounts = Accounts(url, code_days=0.5, clock=clock)
    accounts.add("alice")
    assert accounts.get("alice").code_expires_at == clock.now + DAY // 2


def test_code_may_be_typed_as_people_type(accounts):
    for name, typed in {
        "lower": str.lower,
        "spaced": lambda code: f" {code.replace('-', ' ')} ",
        "bare": lambda code: code.replace("-", ""),
        "oh": lambda code: code.replace("0", "O").replace("1", "l"),
    }.items():
        accounts.set_password(name, typed(accounts.add(name)), PASSWORD)
        assert accounts.check(name, PASSWORD)


def test_code_has_100_random_bits(url):
    asked = []

    def zero(below: int) -> int:
        asked.append(below)
        return 0

    assert Accounts(url, random_below=zero).add("alice") == "00000-00000-00000-00000"
    assert asked == [32] * 20


def test_two_codes_differ(accounts):
    assert accounts.add("alice") != accounts.reset("alice")


def test_reset_stops_password_and_earlier_code(accounts, alice):
    first = accounts.reset(alice)
    assert not accounts.check(alice, PASSWORD)
    assert accounts.get(alice).state is State.WAITING
    second = accounts.reset(alice)
    with pytest.raises(WrongCodeError):
        accounts.set_password(alice, first, PASSWORD)
    accounts.set_password(alice, second, PASSWORD)


def test_neither_code_nor_password_is_stored(accounts, url):
    code = accounts.add("alice")
    assert code not in stored(url)
    assert code.replace("-", "") not in stored(url)
    accounts.set_password("alice", code, PASSWORD)
    assert PASSWORD not in stored(url)
    assert "$argon2id$" in stored(url)


def test_name_is_normalised_as_jupyterhub_does(accounts):
    accounts.set_password("ALICE", accounts.add("Alice"), PASSWORD)
    assert accounts.check("aLiCe", PASSWORD)
    assert [account.name for account in accounts.list()] == ["alice"]
    with pytest.raises(AccountExistsError, match="'alice'"):
        accounts.add("ALICE")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a b", " a", "a\n", "-a", "é", "а", "a" * 65, "a%2fb", "a\x00", "İ"]
)
def test_invalid_name_is_refused(accounts, name):
    with pytest.raises(InvalidNameError):
        accounts.add(name)
    with pytest.raises(InvalidNameError):
        accounts.add_without_code(name)


@pytest.mark.parametrize("name", ["a", "a.b-c_d@example.org", "x+y", "0" * 64])
def test_usual_name_is_accepted(accounts, name):
    accounts.set_password(name, accounts.add(name), PASSWORD)
    assert accounts.check(name, PASSWORD)


def test_existing_account_is_not_added_again(accounts, alice):
    with pytest.raises(AccountExistsError):
        accounts.add(alice, admin=True)
    accounts.add_without_code(alice, admin=True)
    assert accounts.check(alice, PASSWORD)
    assert not accounts.get(alice).admin


def test_unknown_account_is_named(accounts):
    for action in (accounts.reset, accounts.remove, lambda name: accounts.set_admin(name, True)):
        with pytest.raises(UnknownAccountError, match="'nobody'"):
            action("nobody")


def test_removed_account_cannot_log_in_and_its_name_is_free(accounts, alice):
    accounts.remove(alice)
    assert not accounts.check(alice, PASSWORD)
    assert accounts.get(alice) is None
    accounts.add(alice)
    assert not accounts.check(alice, PASSWORD)


def test_short_password_is_refused_and_the_code_stays_valid(accounts):
    code = accounts.add("alice")
    with pytest.raises(UnsuitablePasswordError, match="at least 12 characters"):
        accounts.set_password("alice", code, "x" * 11)
    accounts.set_password("alice", code, "x" * 12)


@pytest.mark.parametrize("password", ["x" * 1025, "alexandria-99", "ALEXANDRIA-99"])
def test_unsuitable_password_is_refused(accounts, password):
    code = accounts.add("alexandria")
    with pytest.raises(UnsuitablePasswordError):
        accounts.set_password("alexandria", code, password)


def test_code_is_not_accepted_as_the_password(accounts):
    code = accounts.add("alice")
    with pytest.raises(UnsuitablePasswordError, match="one-time code"):
        accounts.set_password("alice", code, code.lower())


def test_minimum_length_can_be_chosen(url):
    accounts = Accounts(url, min_password_length=20)
    with pytest.raises(UnsuitablePasswordError, match="at least 20"):
        accounts.set_password("alice", accounts.add("alice"), "x" * 19)


@pytest.mark.parametrize(
    "password",
    [
        " leading and trailing ",
        "pässwörd-pässwörd",
        "🐎🔋📎 correct horse",
        "\ud800 lone surrogate",
        "x" * 1024,
    ],
)
def test_any_characters_make_a_password(accounts, password):
    accounts.set_password("alice", accounts.add("alice"), password)
    assert accounts.check("alice", password)
    assert not accounts.check("alice", password.strip()[:-1])


def test_password_matches_in_either_unicode_form(accounts):
    accounts.set_password("alice", accounts.add("alice"), "pa\u0308ssword-password")
    assert accounts.check("alice", "p\u00e4ssword-password")


@pytest.mark.parametrize("name", ["nobody", "no such name!", "waiting", "\ud800", "x" * 10_000])
def test_unknown_name_costs_the_same_hash(accounts, alice, name, monkeypatch):
    """What takes the time is one Argon2 verification: counted, for a timing would be a test of the machine."""
    accounts.add_without_code("waiting")
    verified = []
    original = argon2.PasswordHasher.verify

    def count(self, stored, password):
        verified.append(argon2.extract_parameters(stored))
        return original(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", count)
    assert not accounts.check(name, PASSWORD)
    assert not accounts.check(alice, "wrong")
    assert len(verified) == 2
    assert verified[0] == verified[1]


def test_hash_with_older_parameters_is_renewed_at_login(accounts, alice, url):
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("UPDATE respawner_accounts SET password_hash = :weak"), {"weak": weak})
    assert not accounts.check(alice, "wrong")
    assert weak in stored(url)
    assert accounts.check(alice, PASSWORD)
    assert weak not in stored(url)
    assert accounts.check(alice, PASSWORD)


def test_changed_password_replaces_the_old_one(accounts, alice):
    accounts.change_password(alice, "another good password")
    assert accounts.check(alice, "another good password")
    assert not accounts.check(alice, PASSWORD)


def test_password_of_a_reset_account_cannot_be_changed(accounts, alice):
    accounts.reset(alice)
    with pytest.raises(UnknownAccountError):
        accounts.change_password(alice, "another good password")
    assert accounts.get(alice).state is State.WAITING


def test_list_tells_states_and_times(accounts, alice, clock):
    accounts.add("bob", admin=True)
    accounts.add_without_code("carol")
    clock.now += 5
    accounts.record_login(alice)
    accounts.record_login("nobody")
    by_name = {account.name: account for account in accounts.list()}
    assert list(by_name) == ["alice", "bob", "carol"]
    assert [account.state for account in by_name.values()] == [State.ACTIVE, State.WAITING, State.NO_CODE]
    assert [account.admin for account in by_name.values()] == [False, True, False]
    assert by_name["alice"].password_set_at == by_name["alice"].created_at == clock.now - 5
    assert by_name["alice"].last_login_at == clock.now
    assert by_name["bob"].last_login_at is None


def test_admin_right_comes_and_goes(accounts, alice):
    accounts.set_admin(alice, True)
    assert accounts.get(alice).admin
    accounts.set_admin(alice, False)
    assert not accounts.get(alice).admin


def test_accounts_outlive_the_process(accounts, alice, url):
    program = "import sys; from respawner_hub.auth.accounts import Accounts; print(Accounts(sys.argv[1]).check(*sys.argv[2:]))"
    answer = subprocess.run(
        [sys.executable, "-c", program, url, alice, PASSWORD],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "hub")},
        check=True,
    )
    assert answer.stdout == "True\n"


def test_sqlite_writers_do_not_block_readers(accounts, alice, url):
    with sa.create_engine(url).connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        writer.exec_driver_sql("UPDATE respawner_accounts SET admin = 1")
        assert accounts.check(alice, PASSWORD)
        assert not accounts.get(alice).admin
