"""`respawner-hub backup` and `restore`: what a hub is besides code and settings that a playbook makes, in one file.

A tar archive whose members are the hub's own paths, without the first slash. So `tar -xf FILE -C /` brings back everything but
a PostgreSQL database, also on a machine that has nothing of ours yet (`ansible/roles/restore`). In it:

    respawner-backup.json          format, version, when
    …/jupyterhub.sqlite, …         copies that are consistent while the hub writes; or
    …/postgresql.dump              of pg_dump, in its custom format
    …/secrets, tls, offered-images.json of the state folder
    the settings file, jupyterhub_config.d/*.py, the certificate that [tls] names, the secrets that [auth] names
    …/tls/ca.*, client.*           of a cluster: the authority that signed what engines and agents trust

Not in it: users' files and snapshots, images, logs, the kernel bundle.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy.engine import URL, make_url

from . import __version__
from .images import offered
from .settings import Settings
from .supervision import Supervisor
from .up import ask_hub
from .whole_files import whole_file

ABOUT = "respawner-backup.json"
DUMP = "postgresql.dump"
FORMAT = 1
SQLITE_RESTS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database; with another one in its place it would be applied to that."""
AUTHORITY = ("ca.crt", "ca.key", "client.crt", "client.key")
PASSFILE = "postgresql-passfile"
"""In the folder of the secrets, and left out: a new server gets a password of its own (role postgresql)."""


class BackupError(Exception):
    """Nothing was backed up or restored, but where the message says so."""


@dataclass(frozen=True)
class _Parts:
    """What belongs to a deployment."""

    databases: tuple[Path, ...]
    """SQLite's files; empty with PostgreSQL."""
    files: tuple[Path, ...]
    """Everything else that is there, as absolute paths."""


def back_up(settings: Settings, settings_file: Path | None, file: Path | None, out: IO[bytes]) -> list[str]:
    """Write the backup while everything runs; the names of what is in it.

    :param file: replaced only when the new one is complete; None writes to `out`.
    :raises BackupError:
    """
    if file and file.exists() and not file.is_file():
        raise BackupError(
            f"{file} is no file that a backup could replace: name one, or - for the standard output."
        )
    server = _server(settings)
    parts = _parts(settings, settings_file)
    if missing := [path for path in parts.databases if not path.is_file()]:
        raise BackupError(
            f"{missing[0]} is not there: this hub has no accounts yet, or has lost its database."
        )
    with tempfile.TemporaryDirectory(prefix="respawner-backup-") as folder:  # only its owner reads it
        members = {path: path for path in parts.files}
        for database in parts.databases:
            members[database] = Path(folder) / database.name
            _copy_sqlite(database, members[database])
        if server:
            members[_dump_of(settings)] = Path(folder) / DUMP
            _postgresql(server, "pg_dump", "--format=custom", f"--file={folder}/{DUMP}")
            members[_dump_of(settings)].chmod(0o600)
        try:
            if file is None:
                _write(out, members)
                out.flush()
            else:
                with whole_file(file.resolve(), 0o600) as target:
                    _write(target, members)
        except OSError as error:
            raise BackupError(f"{file or 'the standard output'} cannot be written: {error}") from error
    return [str(path) for path in members]


def restore(settings: Settings, file: Path, *, unpacked: bool = False) -> list[str]:
    """Put a backup's files in their places and its dump into the database; the names of what was put there.

    The hub must not run. What began since the backup is found again when it starts: leases by the labels of the containers.

    :param unpacked: `tar` has put the files in their places: leave these as they are now.
    :raises BackupError:
    """
    names = examine(file)
    wanted = (_dump_of(settings),) if _server(settings) else _parts(settings, None).databases
    if missing := [path for path in wanted if _member(path) not in names]:
        raise BackupError(
            f"{file} does not have {missing[0]}, where these settings keep their database. It is of another deployment, or of other "
            f"settings: see `tar -tf {file}`, and name theirs with --settings."
        )
    # supervisord: also while the hub starts, or the proxy is away
    if Supervisor(settings.state_dir, settings.folder, None).is_running() or _answers(settings):
        raise BackupError(
            f"the hub at {settings.url} runs: stop it first (`make down`; in a cluster `systemctl stop respawner-hub`)."
        )
    try:
        with tarfile.open(file) as archive:
            put: list[str] = []
            if server := _server(settings):  # first, since it is all or nothing
                _load_dump(archive, _dump_of(settings), server)
                put.append(str(_dump_of(settings)))
            return put if unpacked else put + _put_back(archive, settings)
    except OSError as error:
        raise BackupError(f"{file} cannot be restored: {error}") from error


def examine(file: Path) -> list[str]:
    """Names of what is in a backup, which is read to its end: one that was cut off, or has changed on a disk, is not restored.

    :raises BackupError: it is not whole, or is none of ours, or a later version's.
    """
    try:
        with gzip.open(file) as stream:  # to its checksum: tarfile stops before that
            while stream.read(1 << 20):
                pass
        with tarfile.open(file) as archive:
            members = archive.getmembers()
            about = json.load(archive.extractfile(ABOUT) or io.BytesIO())
    except (KeyError, ValueError) as error:
        raise BackupError(f"{file} is no backup of `respawner-hub backup`: it has no {ABOUT}.") from error
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise BackupError(f"{file} cannot be restored: {error}") from error
    if about.get("format") != FORMAT:
        raise BackupError(
            f"{file} has format {about.get('format')!r}, this version knows {FORMAT}: restore it with version {about.get('version')}."
        )
    for entry in members:
        if not entry.isreg() or entry.name.startswith("/") or ".." in Path(entry.name).parts:
            raise BackupError(
                f"{file} is no backup of `respawner-hub backup`: {entry.name} in it is none of its files."
            )
    return [entry.name for entry in members]


def _parts(settings: Settings, settings_file: Path | None) -> _Parts:
    folder, state = settings.folder, settings.state_dir
    urls = [make_url(url) for url in (settings.hub_database_url, settings.own_database_url)]
    databases = [folder / url.database for url in urls if url.get_backend_name() == "sqlite" and url.database]
    chosen = [path for path in (state / "secrets").glob("[!.]*") if path.name != PASSFILE]
    chosen += [*(state / "tls").glob("[!.]*"), state / offered.FILE_NAME]
    chosen += (folder / settings.hub.config_dir).glob("*.py")
    chosen += [settings_file] if settings_file else []
    oidc, ldap = settings.auth.oidc, settings.auth.ldap
    named = [settings.tls.certificate, settings.tls.key]
    named += [oidc.client_secret_file, oidc.ca_file] if oidc else []
    named += [ldap.lookup_password_file, ldap.ca_file] if ldap else []
    chosen += [folder / path for path in named if path]
    if settings.cluster:
        chosen += [settings.cluster.tls_dir / name for name in AUTHORITY]
    files = sorted({_absolute(path) for path in chosen if path.is_file()})
    return _Parts(tuple(dict.fromkeys(map(_absolute, databases))), tuple(files))


def _absolute(path: Path) -> Path:
    """Without "..", which tar refuses to unpack; links stay, as another machine has them or not."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _server(settings: Settings) -> URL | None:
    """PostgreSQL's address; None with SQLite.

    :raises BackupError: the database is another one.
    """
    url = make_url(settings.hub_database_url)
    kind = url.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise BackupError(f"[hub] database_url names {kind}; backup and restore know SQLite and PostgreSQL.")
    return url if kind == "postgresql" else None


def _dump_of(settings: Settings) -> Path:
    return _absolute(settings.state_dir / DUMP)


def _copy_sqlite(source: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as database,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            target.chmod(0o600)
            database.backup(copy)
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied to {target.parent}: {error}") from error


def _postgresql(url: URL, program: str, *arguments: str) -> None:
    """One of PostgreSQL's programs on the hub's database."""
    command = [program, f"--dbname={_connection(url)}", "--no-password", *arguments]
    password = url.password or url.query.get("password")
    environment: Mapping[str, str] = {**os.environ, "PGPASSWORD": str(password)} if password else os.environ
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    except FileNotFoundError as error:
        raise BackupError(
            f"{program} is not on this machine: install postgresql-client, of the server's version or newer."
        ) from error
    except subprocess.CalledProcessError as error:
        raise BackupError(f"{program} failed: {error.stderr.strip()[-2000:]}") from error


def _connection(url: URL) -> str:
    """As libpq reads it, and without the password, which every process of this machine could see."""
    bare = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return bare.difference_update_query(["password"]).render_as_string(hide_password=False)


def _write(target: IO[bytes], members: Mapping[Path, Path]) -> None:
    """:param members: path on the hub → where its bytes are now."""
    about = {"format": FORMAT, "version": __version__, "made_at": time.time()}
    # The files themselves in place of links: certbot's certificate is one.
    with tarfile.open(fileobj=target, mode="w|gz", dereference=True) as archive:
        text = json.dumps(about).encode()
        entry = tarfile.TarInfo(ABOUT)
        entry.size, entry.mode, entry.mtime = len(text), 0o600, int(time.time())
        archive.addfile(entry, io.BytesIO(text))
        for path, source in members.items():
            archive.add(source, _member(path), recursive=False)


def _member(path: Path) -> str:
    return str(path).lstrip("/")


def _load_dump(archive: tarfile.TarFile, dump: Path, server: URL) -> None:
    with tempfile.TemporaryDirectory(prefix="respawner-restore-") as folder:
        copy = Path(folder) / DUMP
        with copy.open("wb") as written:
            shutil.copyfileobj(_content(archive, _member(dump)), written)
        _postgresql(
            server, "pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction", str(copy)
        )  # fmt: skip
    dump.unlink(missing_ok=True)  # unpacked there by `tar` or role restore


def _put_back(archive: tarfile.TarFile, settings: Settings) -> list[str]:
    put: list[str] = []
    dump, databases = _dump_of(settings), _parts(settings, None).databases
    for entry in archive.getmembers():
        place = Path("/") / entry.name
        if entry.name == ABOUT or place == dump:
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            target = place.resolve()  # a link stays one
            stale = [Path(f"{target}{rest}") for rest in SQLITE_RESTS] if place in databases else []
            # keep_owner: root may restore the hub of somebody else
            with whole_file(target, entry.mode, keep_owner=True, stale=stale) as written:
                shutil.copyfileobj(_content(archive, entry.name), written)
        except OSError as error:
            raise BackupError(
                f"{place} cannot be written: {error}. Part of the backup may be in its places: correct this and restore it again, "
                "before the hub starts."
            ) from error
        put.append(str(place))
    return put


def _content(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    content = archive.extractfile(name)
    assert content, name  # plain files only: examine()
    return content


def _answers(settings: Settings) -> bool:
    try:
        ask_hub(settings)
    except TimeoutError:  # somebody took the question: a hub that is busy may not be written over
        return True
    except OSError:
        return False
    return True
