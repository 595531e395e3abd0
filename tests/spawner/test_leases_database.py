"""The ledger's schema: made, taken over from version 0.1, refused when it is too new."""

import datetime as dt
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from respawner_spawner.leases import schema
from respawner_spawner.leases.database import VERSION_TABLE, SchemaTooNew
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import State
from sqlalchemy import Column, DateTime, MetaData, String, Table, create_engine, insert, inspect, text

from tests.spawner.ledgers import database_on, grant, submit


def test_the_migrations_make_the_tables_of_the_schema(database_url):
    ledger = Ledger(database_url)
    ours = {"include_object": lambda item, name, kind, *_: kind != "table" or name.startswith("respawner_")}
    with ledger.database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, **ours}
        )
        assert compare_metadata(context, schema.metadata) == []
    ledger.close()


def test_the_leases_of_version_0_1_are_taken_over(database_url):
    engine = create_engine(database_url)
    old = Table(
        "respawner_leases",
        MetaData(),
        Column("uuid", String(96), primary_key=True),
        Column("holder", String(512), nullable=False),
        Column("since", DateTime(timezone=True), nullable=False),
    )
    old.create(engine)
    since = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
    with engine.begin() as connection:
        for uuid, holder in (("GPU-a", "team/alice/"), ("GPU-b", "team/bob/two"), ("GPU-c", "team/alice/")):
            connection.execute(insert(old).values(uuid=uuid, holder=holder, since=since))
    ledger = Ledger(database_url)
    alice, bob = ledger.leases()
    assert (alice.holder, alice.user, alice.uuids) == ("team/alice/", "alice", ("GPU-a", "GPU-c"))
    assert (bob.holder, bob.user, bob.uuids) == ("team/bob/two", "bob", ("GPU-b",))
    assert {alice.state, bob.state} == {State.RUNNING}
    assert alice.since == since.timestamp()
    assert not inspect(engine).has_table("respawner_leases")
    assert grant(ledger, "carol", "GPU-b") is None
    ledger.cancel("team/carol/")
    assert grant(ledger, "carol", "GPU-d").fence > bob.fence
    assert [entry.by for entry in ledger.audit("team/bob/two")] == ["migration"]
    ledger.close()
    engine.dispose()


def test_a_schema_of_a_later_version_is_refused_and_not_touched(database_url):
    ledger = Ledger(database_url)
    submit(ledger, "alice")
    with ledger.database.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(
        SchemaTooNew, match=r"schema '9999'.*knows up to '0003'.*Start the version that wrote it"
    ):
        Ledger(database_url)
    assert len(ledger.queue()) == 1
    ledger.close()


def test_processes_that_start_at_once_upgrade_once(database_url):
    code = (
        "import sys; from respawner_spawner.leases.ledger import Ledger\n"
        "print('ready', flush=True); sys.stdin.readline(); print(Ledger(sys.argv[1]).last_fence())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, "0\n"), errors


def test_connections_that_the_server_has_closed_are_replaced(postgresql_server):
    """The database was restarted: the next call works."""
    with database_on(postgresql_server) as url:
        ledger = Ledger(url)
        submit(ledger, "alice")
        admin = create_engine(url)
        with admin.begin() as connection:
            others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            closed = connection.execute(text(f"SELECT pg_terminate_backend(pid) {others}")).all()
        assert closed
        assert len(ledger.queue()) == 1
        admin.dispose()
        ledger.close()
