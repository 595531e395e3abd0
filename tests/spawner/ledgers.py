"""Ledgers for tests: a clock that only moves when told, both databases, a real PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Decision, Device, Grant, Kind
from sqlalchemy import create_engine, text

GIB = 1 << 30
START = 1_000_000_000.0


class Clock:
    """`clock()` says `clock.now`."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def gpus(count: int = 3, host: str = "host-a") -> list[Device]:
    return [Device(f"GPU-{host}-{n}", host, "NVIDIA H100 80GB HBM3", 80 * GIB) for n in range(count)]


def whole(count: int = 1) -> Ask:
    return Ask(Kind.GPU, count=count)


def share(gib: int) -> Ask:
    return Ask(Kind.SHARE, share_bytes=gib * GIB)


def holder(user: str) -> str:
    return f"team/{user}/"


def submit(ledger: Ledger, user: str, ask: Ask | None = None, **more):
    return ledger.submit(holder(user), user, ask or whole(), **more)


def grant(ledger: Ledger, user: str, *uuids: str, ask: Ask | None = None, now: float | None = None, **more):
    """Submit and apply a decision that gives exactly these devices. Returns the lease, or None if refused."""
    request = submit(ledger, user, ask or whole(len(uuids)), **more)
    return next(iter(ledger.apply(Decision((Grant(request.id, tuple(uuids)),)), now)), None)


def run(ledger: Ledger, user: str, *uuids: str, **more):
    assert grant(ledger, user, *uuids, **more)
    return ledger.claim(holder(user))


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A folder where syncing costs nothing, if the system has one."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A server of its own in a temporary folder, on a Unix socket only; gives the URL of its first database."""
    bin_dir = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    folder = Path(tempfile.mkdtemp(prefix="respawner-pg-", dir="/tmp"))  # short: sockets' paths are limited
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [*as_user, bin_dir / program, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )

    data, log = folder / "data", folder / "log"
    try:
        call("initdb", "-D", str(data), "-U", "respawner", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = (
            f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
        )
        call("pg_ctl", "-D", str(data), "-l", str(log), "-w", "-t", "120", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://respawner@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def database_on(server_url: str) -> Iterator[str]:
    """An empty database on a PostgreSQL server."""
    name = f"t{uuid.uuid4().hex[:12]}"
    admin = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server_url.replace("/postgres?", f"/{name}?")
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()
