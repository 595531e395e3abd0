"""The programs that role postgresql runs on the hub's host: whom it would leave behind, and the password."""

import base64
import hashlib
import hmac
import runpy
import sqlite3
import subprocess
import sys

import pytest

from .running import ANSIBLE

PROGRAM = ANSIBLE / "roles" / "postgresql" / "files" / "left_behind.py"
PASSWORD = PROGRAM.with_name("password.py")
OURS = (
    "postgresql+psycopg://respawner@/respawner?host=/var/run/postgresql&passfile=/var/lib/respawner/secrets/x"
)


@pytest.fixture
def left_behind(tmp_path):
    """What it says: `left_behind(settings)`, None for no file. The default state_dir is tmp_path/state."""

    def left_behind(settings: str | None) -> str:
        file = tmp_path / "respawner.toml"
        if settings is not None:
            file.write_text(settings)
        return subprocess.run(
            [sys.executable, str(PROGRAM), str(file), str(tmp_path / "state"), OURS],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    (tmp_path / "state").mkdir()
    return left_behind


def make_database(file, table, people):
    file.parent.mkdir(exist_ok=True)
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"CREATE TABLE {table} (name TEXT)")
        database.executemany(f"INSERT INTO {table} VALUES (?)", [(str(n),) for n in range(people)])
    database.close()


def test_nobody_is_where_there_is_nothing(left_behind):
    assert left_behind(None) == ""
    assert left_behind("[hub]\n") == ""


def test_people_in_sqlite_are_found_where_the_settings_are_lost(left_behind, tmp_path):
    file = tmp_path / "state" / "respawner.sqlite"
    make_database(file, "respawner_accounts", 2)
    assert left_behind(None) == f"{file} with 2 in its table respawner_accounts"


@pytest.mark.parametrize("state_dir", ["elsewhere", "/elsewhere"])
def test_people_in_sqlite_are_found_in_the_folder_that_the_settings_name(left_behind, tmp_path, state_dir):
    file = tmp_path / "elsewhere" / "jupyterhub.sqlite"
    make_database(file, "users", 1)
    named = state_dir.replace("/", f"{tmp_path}/")
    assert left_behind(f'[hub]\nstate_dir = "{named}"\n') == f"{file} with 1 in its table users"


def test_an_empty_database_holds_nobody_up(left_behind, tmp_path):
    make_database(tmp_path / "state" / "jupyterhub.sqlite", "users", 0)
    (tmp_path / "state" / "respawner.sqlite").touch()
    assert left_behind(None) == ""


def test_a_database_that_cannot_be_read_counts(left_behind, tmp_path):
    (tmp_path / "state" / "jupyterhub.sqlite").write_bytes(b"no database" * 100)
    assert "jupyterhub.sqlite, which cannot be read (file is not a database)" in left_behind(None)


def test_another_database_is_named_without_its_password(left_behind, tmp_path):
    said = left_behind(
        'hub.database_url = "postgresql+psycopg://hub:s3cr3t@db.example.org:5433/hub?sslkey=s3cr3t"'
    )
    assert (
        said
        == f"the database postgresql+psycopg://db.example.org:5433/hub, which {tmp_path}/respawner.toml names"
    )
    other_host = OURS.replace("/var/run/postgresql", "db.example.org")
    assert left_behind(f'hub.database_url = "{other_host}"') != ""


def test_who_is_in_ours_already_leaves_nobody_behind(left_behind, tmp_path):
    make_database(tmp_path / "state" / "jupyterhub.sqlite", "users", 3)  # of a time before ours
    assert left_behind(f'hub.database_url = "{OURS}"') == ""
    assert left_behind(f'hub.database_url = "{OURS}er"') == "", "the passfile alone is another one"


def test_settings_that_cannot_be_read_count(left_behind, tmp_path):
    assert f"what {tmp_path}/respawner.toml names, which cannot be read" in left_behind("[hub")


def test_a_password_is_checked_by_what_the_server_gets_of_it():
    """By the conversation of RFC 7677, section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    of_the_server = runpy.run_path(str(PASSWORD))["verifier"]("pencil", salt)
    kind, parameters, keys = of_the_server.split("$")
    assert (kind, parameters) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    said = (
        f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client = bytes(a ^ b for a, b in zip(proof, hmac.digest(stored, said, "sha256"), strict=True))
    assert hashlib.sha256(client).digest() == stored
    signature = base64.b64encode(hmac.digest(server, said, "sha256")).decode()
    assert signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_password_is_in_its_file_alone_and_the_file_is_its_owners(tmp_path):
    passfile = tmp_path / "secrets" / "passfile"
    said = [
        subprocess.run(
            [sys.executable, str(PASSWORD), str(passfile)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    password = passfile.read_text().removeprefix("*:*:respawner:respawner:").strip()
    assert len(password) == 64
    assert said[0] != said[1]
    assert said[1].startswith("ALTER ROLE respawner PASSWORD 'SCRAM-SHA-256$4096:")
    assert password not in said[1]
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert list(passfile.parent.iterdir()) == [passfile]
