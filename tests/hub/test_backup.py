"""`respawner-hub backup` and `restore`, on folders and databases like a hub's; with Ansible, and a hub's host that is lost, in
`tests/cluster/test_hub_lost.py`."""

import http.server
import io
import json
import socket
import sqlite3
import subprocess
import tarfile
import threading
from pathlib import Path

import psycopg
import pytest
from respawner_hub import cli, secrets
from respawner_hub.auth.accounts import Accounts
from respawner_hub.backup import BackupError, back_up, restore
from respawner_hub.settings import load

from tests.ports import free_port
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
    return free_port()


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
    rests = [deployment.state / f"jupyterhub.sqlite-{rest}" for rest in ("wal", "journal")]
    for rest in rests:
        rest.write_bytes(b"of the database that is replaced")
    restore(deployment.settings, backup)
    assert deployment.knows_ada()
    assert not any(rest.exists() for rest in rests)
    with sqlite3.connect(deployment.state / "jupyterhub.sqlite") as database:
        assert database.execute("SELECT name FROM users").fetchall() == [("ada",)]
    assert deployment.cookie.read_text() == cookie
    assert deployment.authority.read_text() == authority
    assert deployment.cookie.stat().st_mode & 0o777 == deployment.authority.stat().st_mode & 0o777 == 0o600
    assert deployment.hatch.exists()


def test_it_is_its_owners_alone_and_unpacks_to_the_hubs_own_paths(deployment, backup):
    deployment.cookie.with_name(".cookie.1.new").write_text("half of it, from a writer that was killed")
    deployment.back_up(backup)
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup) as archive:
        names = set(archive.getnames())
    state = str(deployment.state).lstrip("/")
    assert {f"{state}/jupyterhub.sqlite", f"{state}/respawner.sqlite", f"{state}/secrets/cookie"} <= names
    assert not names & {f"{state}/secrets/postgresql-passfile", f"{state}/secrets/.cookie.1.new"}
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


def test_files_that_tar_has_unpacked_stay_as_they_are_now(deployment, backup):
    """As role pki may have renewed a certificate."""
    deployment.back_up(backup)
    deployment.authority.write_text("renewed")
    settings = ["--settings", str(deployment.file)]
    assert cli.main([*settings, "restore", "--unpacked", str(backup)]) == 0
    assert deployment.authority.read_text() == "renewed"
    assert deployment.knows_ada()


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


def test_a_hub_that_is_too_busy_to_answer_is_not_written_over(tmp_path, backup):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        deployment = Deployment(tmp_path, busy.getsockname()[1])
        deployment.back_up(backup)
        deployment.cookie.unlink()
        with pytest.raises(BackupError, match="runs: stop it first"):
            restore(deployment.settings, backup)
    deployment.accounts.close()
    assert not deployment.cookie.exists()


def test_a_hub_that_does_not_answer_yet_is_not_written_over(deployment, backup, monkeypatch):
    deployment.back_up(backup)
    deployment.cookie.unlink()
    monkeypatch.setattr("respawner_hub.supervision.Supervisor.is_running", lambda supervisor: True)
    with pytest.raises(BackupError, match="runs: stop it first"):
        restore(deployment.settings, backup)
    assert not deployment.cookie.exists()


def test_no_backup_is_written_to_a_terminal(deployment, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert cli.main(["--settings", str(deployment.file), "backup", "-"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "add > FILE" in said.err


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


def test_what_the_settings_name_is_in_it_also_behind_a_link(tmp_path, port, backup):
    """As certbot keeps a certificate."""
    (tmp_path / "live").mkdir()
    for name in ("chain.pem", "key.pem", "oidc"):
        (tmp_path / f"1-{name}").write_text(name)
        (tmp_path / "live" / name).symlink_to(f"../1-{name}")
    deployment = Deployment(tmp_path, port)
    deployment.accounts.close()
    deployment.file.write_text(
        deployment.file.read_text()
        + '[tls]\ncertificate = "live/chain.pem"\nkey = "live/key.pem"\n[auth]\nmethod = "oidc"\n[auth.oidc]\n'
        'client_id = "hub"\nclient_secret_file = "live/oidc"\ncallback_url = "https://hub/hub/oauth_callback"\n'
        'issuer = "https://idp"\n'
    )
    deployment.settings = load(deployment.file)
    deployment.back_up(backup)
    (tmp_path / "1-key.pem").write_text("a later one")
    (tmp_path / "live" / "oidc").unlink()
    restore(deployment.settings, backup)
    assert (tmp_path / "live" / "key.pem").is_symlink()
    assert (tmp_path / "1-key.pem").read_text() == "key.pem"
    assert (tmp_path / "live" / "oidc").read_text() == "oidc"


def test_databases_in_it_are_their_owners_alone(deployment, backup):
    (deployment.state / "jupyterhub.sqlite").chmod(0o600)
    deployment.back_up(backup)
    with tarfile.open(backup) as archive:
        assert {entry.mode & 0o077 for entry in archive if entry.name.endswith(".sqlite")} == {0}


def test_paths_are_such_that_tar_unpacks_them(tmp_path, port, backup):
    (tmp_path / "conf").mkdir()
    deployment = Deployment(tmp_path, port)
    moved = tmp_path / "conf" / "respawner.toml"
    moved.write_text(f'[hub]\nport = {port}\nstate_dir = "../var"\n')
    back_up(load(moved), moved, backup, None)
    with tarfile.open(backup) as archive:
        assert not [name for name in archive.getnames() if ".." in name]
        assert f"{deployment.state}/respawner.sqlite".lstrip("/") in archive.getnames()
    deployment.accounts.remove("ada")
    deployment.accounts.close()
    restore(load(moved), backup)
    assert deployment.knows_ada()


def test_a_file_of_sqlite_that_database_url_names_is_copied_and_another_database_is_refused(
    tmp_path, port, backup
):
    deployment = Deployment(tmp_path, port, f"sqlite:///{tmp_path}/own.db")
    deployment.back_up(backup)
    deployment.accounts.remove("ada")
    deployment.accounts.close()
    restore(deployment.settings, backup)
    assert deployment.knows_ada()
    deployment.file.write_text('[hub]\ndatabase_url = "mysql://hub:secret@db/hub"\n')
    with pytest.raises(BackupError, match="names mysql; backup and restore know") as raised:
        back_up(load(deployment.file), deployment.file, backup, None)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", [".", "/", "", "/dev/null"])
def test_what_is_no_file_is_not_replaced_by_a_backup(deployment, capsys, name):
    assert cli.main(["--settings", str(deployment.file), "backup", name]) == 1
    assert "is no file that a backup could replace" in capsys.readouterr().err


def test_a_restore_that_stops_says_that_it_began_and_keeps_the_database_with_its_journal(
    deployment, backup, monkeypatch
):
    deployment.back_up(backup)
    database = deployment.state / "jupyterhub.sqlite"
    rest = Path(f"{database}-wal")
    rest.write_bytes(b"what was committed last")
    before = database.read_bytes()

    def fchmod(descriptor, mode):
        if "jupyterhub.sqlite" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError("No space left")

    with monkeypatch.context() as full:
        full.setattr("os.fchmod", fchmod)
        with pytest.raises(BackupError, match=r"No space left.*restore it again, before the hub starts"):
            restore(deployment.settings, backup)
    assert (database.read_bytes(), rest.read_bytes()) == (before, b"what was committed last")
    restore(deployment.settings, backup)
    assert not rest.exists()


def no_backup(deployment, file):
    with tarfile.open(file, "w:gz") as archive:
        archive.add(deployment.file, "respawner.toml")


def cut(deployment, file):
    deployment.back_up(file)
    file.write_bytes(file.read_bytes()[:-200])


def damaged(deployment, file):
    """One bit of its checksum, to which tarfile does not read."""
    deployment.back_up(file)
    data = bytearray(file.read_bytes())
    data[-8] ^= 1
    file.write_bytes(data)


def outside(deployment, file):
    deployment.back_up(file)
    with tarfile.open(file) as archive:
        members = [(entry, archive.extractfile(entry).read()) for entry in archive]
    members.append((tarfile.TarInfo("var/../../etc/passwd"), b""))
    with tarfile.open(file, "w:gz") as archive:
        for entry, content in members:
            archive.addfile(entry, io.BytesIO(content))


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
        (damaged, "cannot be restored: CRC"),
        (outside, r"no backup of .*: var/\.\./\.\./etc/passwd in it is none of its files"),
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


@pytest.mark.parametrize("unpacked", [False, True])
def test_a_database_in_postgresql_goes_out_and_comes_back(tmp_path, port, backup, unpacked):
    with postgresql() as server, database_on(server) as url:
        deployment = Deployment(tmp_path, port, url)
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("CREATE ROLE grafana")
            other.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO grafana")
        deployment.back_up(backup)
        with tarfile.open(backup) as archive:
            assert archive.getmember(f"{deployment.state}/postgresql.dump".lstrip("/")).mode & 0o077 == 0
        deployment.accounts.remove("ada")
        assert not deployment.knows_ada()
        deployment.accounts.close()
        with psycopg.connect(url.replace("+psycopg", "")) as other:  # a new server does not know it
            other.execute("DROP OWNED BY grafana")
            other.execute("DROP ROLE grafana")
        (deployment.state / "postgresql.dump").write_text("unpacked by tar")
        deployment.cookie.write_text("changed since")
        restore(deployment.settings, backup, unpacked=unpacked)
        assert deployment.knows_ada()
        assert not (deployment.state / "postgresql.dump").exists()
        assert (deployment.cookie.read_text() == "changed since") == unpacked


def test_where_the_server_does_not_take_the_dump_nothing_is_restored(tmp_path, port, backup):
    with postgresql() as server, database_on(server) as url:
        deployment = Deployment(tmp_path, port, url)
        deployment.back_up(backup)
        deployment.accounts.close()
    deployment.cookie.write_text("as it was")
    with pytest.raises(BackupError, match="pg_restore failed"):
        restore(deployment.settings, backup)
    assert deployment.cookie.read_text() == "as it was"


def test_a_server_that_does_not_answer_says_so_and_no_password(tmp_path, backup, monkeypatch):
    file = tmp_path / "postgresql.toml"
    ran = []
    run = subprocess.run
    monkeypatch.setattr("subprocess.run", lambda command, **more: ran.append(command) or run(command, **more))
    for url in ("ada:secret@/ada?host=/nowhere", "ada@/ada?host=/nowhere&password=secret"):
        file.write_text(f'[hub]\ndatabase_url = "postgresql+psycopg://{url}"\n')
        with pytest.raises(BackupError, match=r"pg_dump failed: .*nowhere") as raised:
            back_up(load(file), file, backup, None)
        assert "secret" not in str(raised.value)
    assert len(ran) == 2
    assert "secret" not in str(ran)
