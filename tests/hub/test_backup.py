"""`respawner-hub backup` and `restore`, on folders and databases like a hub's; with Ansible, and a hub's host that is lost, in
`tests/cluster/test_hub_lost.py`."""

import http.server
import json
import sqlite3
import tarfile
import threading

import pytest
from respawner_hub import cli, secrets
from respawner_hub.auth.accounts import Accounts
from respawner_hub.backup import BackupError, back_up, restore
from respawner_hub.settings import load

from tests.spawner.ledgers import database_on, postgresql

PASSWORD = "three random words"


class Deployment:
    """A folder with settings, secrets, an account and the hub's own database."""

    def __init__(self, folder, port, database_url=""):
        self.file = folder / "respawner.toml"
        url = f'database_url = "{database_url}"' if database_url else ""
        self.file.write_text(
            f'[hub]\nport = {port}\n{url}\n[cluster]\nhub_address = "10.89.255.250"\nshared_dir = "/srv"\n'
            f'tls_dir = "{folder}/authority"\n[cluster.hosts]\ngpu1 = "192.0.2.1"\n'
        )
        self.settings = load(self.file)
        self.state = self.settings.state_dir
        self.authority = folder / "authority" / "ca.key"
        self.hatch = folder / "jupyterhub_config.d" / "own.py"
        for file in (self.authority, self.hatch, self.state / "secrets" / "postgresql-passfile"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(file.name)
            file.chmod(0o600)
        self.cookie = secrets.cookie_secret_file(self.state)
        self.accounts = Accounts(self.settings.own_database_url)
        self.accounts.set_password("ada", self.accounts.add("ada"), PASSWORD)
        if not database_url:
            with sqlite3.connect(self.state / "jupyterhub.sqlite") as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("CREATE TABLE users (name)")
                database.execute("INSERT INTO users VALUES ('ada')")

    def back_up(self, file):
        return back_up(self.settings, self.file, file, None)

    def knows_ada(self):
        accounts = Accounts(self.settings.own_database_url)
        try:
            return accounts.check("ada", PASSWORD)
        finally:
            accounts.close()


@pytest.fixture
def port():
    """Where nobody answers."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return server.server_address[1]


@pytest.fixture
def deployment(tmp_path, port):
    made = Deployment(tmp_path, port)
    yield made
    made.accounts.close()


@pytest.fixture
def backup(tmp_path):
    return tmp_path / "elsewhere.tar.gz"


def test_a_backup_made_while_the_hub_writes_brings_back_accounts_secrets_and_the_authority(
    deployment, backup
):
    with sqlite3.connect(deployment.state / "jupyterhub.sqlite") as open_by_the_hub:
        open_by_the_hub.execute("BEGIN IMMEDIATE")
        deployment.back_up(backup)
    cookie, authority = deployment.cookie.read_text(), deployment.authority.read_text()
    deployment.accounts.remove("ada")
    deployment.accounts.close()
    for file in (deployment.cookie, deployment.authority, deployment.hatch):
        file.unlink()
    with sqlite3.connect(deployment.state / "jupyterhub.sqlite") as later:
        later.execute("DELETE FROM users")
    (deployment.state / "jupyterhub.sqlite-wal").write_bytes(b"of the database that is replaced")
    restore(deployment.settings, backup)
    assert deployment.knows_ada()
    assert not (deployment.state / "jupyterhub.sqlite-wal").exists()
    with sqlite3.connect(deployment.state / "jupyterhub.sqlite") as database:
        assert database.execute("SELECT name FROM users").fetchall() == [("ada",)]
    assert deployment.cookie.read_text() == cookie
    assert deployment.authority.read_text() == authority
    assert deployment.cookie.stat().st_mode & 0o777 == deployment.authority.stat().st_mode & 0o777 == 0o600
    assert deployment.hatch.exists()


def test_it_is_its_owners_alone_and_unpacks_to_the_hubs_own_paths(deployment, backup):
    deployment.back_up(backup)
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup) as archive:
        names = set(archive.getnames())
    state = str(deployment.state).lstrip("/")
    assert {f"{state}/jupyterhub.sqlite", f"{state}/respawner.sqlite", f"{state}/secrets/cookie"} <= names
    assert f"{state}/secrets/postgresql-passfile" not in names
    assert not any(name.startswith(("/", "..")) for name in names)


def test_the_command_writes_to_a_file_or_to_its_output_and_restores(deployment, backup, capfdbinary):
    settings = ["--settings", str(deployment.file)]
    assert cli.main([*settings, "backup", str(backup)]) == 0
    capfdbinary.readouterr()
    assert cli.main([*settings, "backup", "-"]) == 0
    written = capfdbinary.readouterr()
    assert str(deployment.authority).encode() in written.err
    copy = backup.with_name("copy.tar.gz")
    copy.write_bytes(written.out)
    for file in (backup, copy):
        deployment.cookie.unlink()
        assert cli.main([*settings, "restore", str(file)]) == 0
        assert deployment.cookie.exists()


def test_a_hub_that_runs_is_not_written_over(tmp_path, backup):
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        deployment = Deployment(tmp_path, server.server_address[1])
        deployment.back_up(backup)
        deployment.cookie.unlink()
        with pytest.raises(BackupError, match="runs: stop it first"):
            restore(deployment.settings, backup)
        server.shutdown()
    deployment.accounts.close()
    assert not deployment.cookie.exists()


def test_a_database_that_is_not_there_is_not_backed_up_as_nothing(deployment, backup):
    (deployment.state / "jupyterhub.sqlite").unlink()
    with pytest.raises(BackupError, match=r"jupyterhub\.sqlite is not there"):
        deployment.back_up(backup)
    assert not backup.exists()


def test_a_backup_that_cannot_be_written_leaves_the_one_before(deployment, backup, monkeypatch):
    deployment.back_up(backup)
    before = backup.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(BackupError, match="cannot be written: No space left"):
        deployment.back_up(backup)
    assert backup.read_bytes() == before
    assert list(backup.parent.glob(".*.new")) == []


def no_backup(deployment, file):
    with tarfile.open(file, "w:gz") as archive:
        archive.add(deployment.file, "respawner.toml")


def cut(deployment, file):
    deployment.back_up(file)
    file.write_bytes(file.read_bytes()[:-200])


def of_a_later_format(deployment, file):
    about = file.with_name("respawner-backup.json")
    about.write_text(json.dumps({"format": 99, "version": "9.0"}))
    with tarfile.open(file, "w:gz") as archive:
        archive.add(about, about.name)


def of_another_deployment(deployment, file):
    folder = file.with_name("other")
    folder.mkdir()
    other = Deployment(folder, 1)
    other.back_up(file)
    other.accounts.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_backup, "is no backup of `respawner-hub backup`"),
        (cut, "cannot be restored"),
        (of_a_later_format, "restore it with version 9.0"),
        (
            of_another_deployment,
            "does not have .*jupyterhub.sqlite, where these settings keep their database",
        ),
    ],
)
def test_what_is_no_backup_of_this_deployment_changes_nothing(deployment, backup, make, said):
    make(deployment, backup)
    deployment.cookie.write_text("as it was")
    with pytest.raises(BackupError, match=said):
        restore(deployment.settings, backup)
    assert deployment.cookie.read_text() == "as it was"
    assert deployment.knows_ada()


def test_a_file_that_is_not_there_is_named(deployment, backup):
    with pytest.raises(BackupError, match=r"elsewhere\.tar\.gz cannot be restored: .*No such file"):
        restore(deployment.settings, backup)


def test_a_database_in_postgresql_goes_out_and_comes_back(tmp_path, port, backup):
    with postgresql() as server, database_on(server) as url:
        deployment = Deployment(tmp_path, port, url)
        deployment.back_up(backup)
        deployment.accounts.remove("ada")
        assert not deployment.knows_ada()
        deployment.accounts.close()
        restore(deployment.settings, backup)
        assert deployment.knows_ada()
        assert not (deployment.state / "postgresql.dump").exists()


def test_a_server_that_does_not_answer_says_so_and_no_password(tmp_path, port, backup, deployment):
    file = tmp_path / "postgresql.toml"
    file.write_text('[hub]\ndatabase_url = "postgresql+psycopg://ada:secret@/ada?host=/nowhere"\n')
    with pytest.raises(BackupError, match=r"pg_dump failed: .*nowhere") as raised:
        back_up(load(file), file, backup, None)
    assert "secret" not in str(raised.value)
