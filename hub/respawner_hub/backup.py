"""`respawner-hub backup` and `restore`: what a hub is besides code and settings that a playbook makes, in one file.

A tar archive whose members are the hub's own paths, without the first slash. So `tar -xf FILE -C /` brings back everything but
a PostgreSQL database, also on a machine that has nothing of ours yet (`ansible/roles/restore`). In it:

    respawner-backup.json          format, version, when
    …/jupyterhub.sqlite, …         copies that are consistent while the hub writes; or
    …/postgresql.dump              of pg_dump, in its custom format
    …/secrets, tls, offered-images.json of the state folder
    the settings file, jupyterhub_config.d/*.py, the certificate that [tls] names
    …/tls/ca.*, client.*           of a cluster: the authority that signed what engines and agents trust

Not in it: users' files and snapshots, images, logs, the kernel bundle.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy.engine import URL, make_url

from . import __version__
from .images import offered
from .settings import Settings
from .up import ask_hub

ABOUT = "respawner-backup.json"
DUMP = "postgresql.dump"
FORMAT = 1
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
        if settings.hub.database_url:
            members[_dump_of(settings)] = Path(folder) / DUMP
            _postgresql(settings, "pg_dump", "--format=custom", f"--file={folder}/{DUMP}")
        if file is None:
            _write(out, members)
        else:
            with _complete(file) as target:
                _write(target, members)
    return [str(path) for path in members]


def restore(settings: Settings, file: Path) -> list[str]:
    """Put a backup's files in their places and its dump into the database; the names of what was put there.

    The hub must not run. What began since the backup is found again when it starts: leases by the labels of the containers.

    :raises BackupError:
    """
    if _answers(settings):
        raise BackupError(
            f"the hub at {settings.url} runs: stop it first (`make down`; in a cluster `systemctl stop respawner-hub`)."
        )
    try:
        with tarfile.open(file) as archive:
            _check(archive, file, settings)
            return _put_back(archive, settings)
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise BackupError(f"{file} cannot be restored: {error}") from error


def _parts(settings: Settings, settings_file: Path | None) -> _Parts:
    state = settings.state_dir.absolute()
    urls = (settings.hub_database_url, settings.own_database_url)
    ours = not settings.hub.database_url
    databases = tuple(Path(make_url(url).database or "").absolute() for url in urls) if ours else ()
    chosen = [path for path in (state / "secrets").glob("*") if path.name != PASSFILE]
    chosen += [*(state / "tls").glob("*"), state / offered.FILE_NAME]
    chosen += (settings.folder / settings.hub.config_dir).absolute().glob("*.py")
    chosen += [settings_file.absolute()] if settings_file else []
    named = (settings.tls.certificate, settings.tls.key)
    chosen += [(settings.folder / path).absolute() for path in named if path]
    if settings.cluster:
        chosen += [settings.cluster.tls_dir / name for name in AUTHORITY]
    return _Parts(databases, tuple(sorted(path for path in chosen if path.is_file())))


def _dump_of(settings: Settings) -> Path:
    return settings.state_dir.absolute() / DUMP


def _copy_sqlite(source: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as database,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            database.backup(copy)
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be read: {error}") from error


def _postgresql(settings: Settings, program: str, *arguments: str) -> None:
    """One of PostgreSQL's programs on the hub's database."""
    url = make_url(settings.hub.database_url)
    command = [program, f"--dbname={_connection(url)}", "--no-password", *arguments]
    environment: Mapping[str, str] = (
        {**os.environ, "PGPASSWORD": str(url.password)} if url.password else os.environ
    )
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
    return bare.render_as_string(hide_password=False)


@contextlib.contextmanager
def _complete(file: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file that takes the place of FILE when everything is in it and on the disk."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BackupError(f"{file} cannot be written: {error}") from error


def _write(target: IO[bytes], members: Mapping[Path, Path]) -> None:
    """:param members: path on the hub → where its bytes are now."""
    about = {"format": FORMAT, "version": __version__, "made_at": time.time()}
    with tarfile.open(fileobj=target, mode="w|gz") as archive:
        text = json.dumps(about).encode()
        entry = tarfile.TarInfo(ABOUT)
        entry.size, entry.mode, entry.mtime = len(text), 0o600, int(time.time())
        archive.addfile(entry, io.BytesIO(text))
        for path, source in members.items():
            archive.add(source, _member(path), recursive=False)


def _member(path: Path) -> str:
    return str(path).lstrip("/")


def _check(archive: tarfile.TarFile, file: Path, settings: Settings) -> None:
    """:raises BackupError: it is not a backup of a deployment of these settings."""
    try:
        about = json.load(archive.extractfile(ABOUT) or io.BytesIO())
    except (KeyError, ValueError) as error:
        raise BackupError(f"{file} is no backup of `respawner-hub backup`: it has no {ABOUT}.") from error
    if about.get("format") != FORMAT:
        raise BackupError(
            f"{file} has format {about.get('format')!r}, this version knows {FORMAT}: restore it with version {about.get('version')}."
        )
    wanted = _parts(settings, None).databases or (_dump_of(settings),)
    if missing := [path for path in wanted if _member(path) not in archive.getnames()]:
        raise BackupError(
            f"{file} does not have {missing[0]}, where these settings keep their database. It is of another deployment, or of other "
            f"settings: see `tar -tf {file}`, and name theirs with --settings."
        )


def _put_back(archive: tarfile.TarFile, settings: Settings) -> list[str]:
    put = []
    for entry in archive.getmembers():
        content = archive.extractfile(entry)
        if content is None or entry.name == ABOUT:
            continue
        target = Path("/") / entry.name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if target.suffix == ".sqlite":
            for rest in ("-wal", "-shm"):  # of the database that is replaced
                target.with_name(target.name + rest).unlink(missing_ok=True)
        with _complete(target, entry.mode) as written:
            shutil.copyfileobj(content, written)
        put.append(str(target))
    if settings.hub.database_url:
        dump = _dump_of(settings)
        _postgresql(settings, "pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", str(dump))  # fmt: skip
        dump.unlink()
    return put


def _answers(settings: Settings) -> bool:
    try:
        ask_hub(settings)
    except OSError:
        return False
    return True
