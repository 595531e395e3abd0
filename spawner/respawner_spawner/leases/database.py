"""The ledger's database: connections, transactions that happen one after the other, and the schema's upgrade.

SQLite (in WAL mode, so that readers never wait) and PostgreSQL. Nothing here knows what the tables mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import make_url

from . import schema

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "respawner_schema"
"""Not alembic's default name: in a shared PostgreSQL database that one is JupyterHub's."""
UPGRADE_LOCK = 0x7265_7370
"""PostgreSQL's advisory lock while the schema is upgraded; any number that nobody else takes."""
BUSY_SECONDS = 30
"""How long SQLite waits for another process's transaction."""


class SchemaTooNew(RuntimeError):
    """A later version of Respawner has written this database."""


class Database:
    """Transactions on the database at `url`; any thread."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(respawner_writes=True)
        self._reader = self.engine
        if self.engine.dialect.name == "postgresql":
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ")
        upgrade(self._writer)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that no other writer overlaps: what it reads stays true until it commits."""
        with self._writer.begin() as connection:
            connection.execute(select(schema.ledger.c.id).with_for_update())
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction in which all queries see the same moment."""
        with self._reader.begin() as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Python's sqlite3 begins transactions late and without a lock; we begin them ourselves.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("respawner_writes")
    # IMMEDIATE takes the write lock at once: two that read first and write later would both fail with "locked"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upgrade(engine: Engine) -> None:
    """Bring the schema to this version, once, also when several processes start at the same time.

    :raises SchemaTooNew: and nothing has changed.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        config = _alembic()
        config.attributes.update(connection=connection, version_table=VERSION_TABLE)
        scripts = ScriptDirectory.from_config(config)
        found = _revision(connection)
        if found == scripts.get_current_head():
            return
        try:
            scripts.get_revision(found or "base")
        except CommandError:
            raise SchemaTooNew(
                f"The database {engine.url.render_as_string()} has the ledger's schema {found!r}, which this version does "
                f"not know (it knows up to {scripts.get_current_head()!r}). Start the version that wrote it, or restore "
                "the backup that was made before the upgrade."
            ) from None
        command.upgrade(config, "head")


def schema_of(connection: Connection) -> tuple[str | None, str | None]:
    """The schema that a ledger's database has (None: none yet) and the one of this version; nothing is changed."""
    return _revision(connection), ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()
