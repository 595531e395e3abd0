"""The ledger, and what version 0.1 had written down: a row for each GPU that somebody held."""

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_tables()
    op.execute("INSERT INTO respawner_ledger (id, last_fence) VALUES (1, 0)")
    if sa.inspect(op.get_bind()).has_table("respawner_leases"):
        _take_over_version_0_1()
        op.drop_table("respawner_leases")


def _take_over_version_0_1() -> None:
    """Each holder of that version becomes a running request with its devices."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.text("SELECT uuid, holder, since FROM respawner_leases ORDER BY since, uuid").columns(
            uuid=sa.String, holder=sa.String, since=sa.DateTime(timezone=True)
        )
    ).all()
    by_holder: dict[str, list[sa.Row]] = {}
    for row in rows:
        by_holder.setdefault(row.holder, []).append(row)
    for fence, (holder, held) in enumerate(by_holder.items(), start=1):
        _insert_lease(connection, fence, holder, held)
    connection.execute(sa.text("UPDATE respawner_ledger SET last_fence = :n"), {"n": len(by_holder)})


def _insert_lease(connection: sa.Connection, fence: int, holder: str, held: list[sa.Row]) -> None:
    since = _seconds(held[0].since)
    user = holder.split("/")[1] if holder.count("/") >= 2 else holder
    ask = {
        "kind": "gpu",
        "count": len(held),
        "model": "",
        "min_memory_bytes": 0,
        "profile": "",
        "share_bytes": 0,
        "host": "",
        "uuids": [],
        "one_host": True,
    }
    request_id = connection.execute(
        sa.text(
            'INSERT INTO respawner_requests (holder, "user", groups, ask, submitted, priority, preemptible, '
            "attained_seconds, resumes, cpu_meanwhile, state, fence, granted_at, claimed_at, busy_at) VALUES "
            "(:holder, :user, :groups, :ask, :since, 0, true, 0, false, false, 'running', :fence, :since, :since, "
            ":since) RETURNING id"
        ).bindparams(sa.bindparam("groups", type_=sa.JSON), sa.bindparam("ask", type_=sa.JSON)),
        {"holder": holder, "user": user, "groups": [], "ask": ask, "since": since, "fence": fence},
    ).scalar_one()
    for row in held:
        connection.execute(
            sa.text(
                "INSERT INTO respawner_holdings (request_id, uuid, slot, share_bytes, part, since) "
                "VALUES (:request_id, :uuid, 0, 0, 1, :since)"
            ),
            {"request_id": request_id, "uuid": row.uuid, "since": _seconds(row.since)},
        )
    connection.execute(
        sa.text(
            "INSERT INTO respawner_audit (at, by, action, subject, reason, data) "
            "VALUES (:at, 'migration', 'adopted', :holder, 'taken over from version 0.1', :data)"
        ).bindparams(sa.bindparam("data", type_=sa.JSON)),
        {"at": since, "holder": holder, "data": {"fence": fence, "uuids": [row.uuid for row in held]}},
    )


def _seconds(moment: dt.datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()  # SQLite forgets the zone


def _create_tables() -> None:
    op.create_table(
        "respawner_agents",
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("host"),
    )
    op.create_table(
        "respawner_audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_respawner_audit_at"), "respawner_audit", ["at"], unique=False)
    op.create_index(op.f("ix_respawner_audit_subject"), "respawner_audit", ["subject"], unique=False)
    op.create_table(
        "respawner_cordons",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("respawner_cordons_target_reason", "respawner_cordons", ["target", "reason"], unique=True)
    op.create_table(
        "respawner_devices",
        sa.Column("uuid", sa.String(length=96), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("parent", sa.String(length=96), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("uuid"),
    )
    op.create_table(
        "respawner_ledger",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_fence", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="respawner_ledger_one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "respawner_limits",
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("most", sa.Double(), nullable=True),
        sa.Column("guarantee", sa.Double(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_table(
        "respawner_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=512), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("ask", sa.JSON(), nullable=False),
        sa.Column("submitted", sa.Double(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("preemptible", sa.Boolean(), nullable=False),
        sa.Column("attained_seconds", sa.Double(), nullable=False),
        sa.Column("resumes", sa.Boolean(), nullable=False),
        sa.Column("cpu_meanwhile", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("wait_position", sa.Integer(), nullable=True),
        sa.Column("wait_reason", sa.Text(), nullable=True),
        sa.Column("wait_expected", sa.Double(), nullable=True),
        sa.Column("wait_impossible", sa.Boolean(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=True),
        sa.Column("share_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("granted_at", sa.Double(), nullable=True),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("end_reason", sa.String(length=16), nullable=True),
        sa.Column("end_detail", sa.Text(), nullable=True),
        sa.Column("busy_at", sa.Double(), nullable=True),
        sa.Column("cell_running", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("warned_at", sa.Double(), nullable=True),
        sa.Column("warning", sa.Text(), nullable=True),
        sa.Column("reclaim_at", sa.Double(), nullable=True),
        sa.Column("snoozed_until", sa.Double(), nullable=True),
        sa.Column("snoozes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("suspending_since", sa.Double(), nullable=True),
        sa.Column("suspend_reason", sa.Text(), nullable=True),
        sa.Column("comes_back", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("suspend_failed_at", sa.Double(), nullable=True),
        sa.Column("suspend_failure", sa.Text(), nullable=True),
        sa.Column("flag", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("respawner_requests_ended_at", "respawner_requests", ["ended_at"], unique=False)
    op.create_index(
        "respawner_requests_fence",
        "respawner_requests",
        ["fence"],
        unique=True,
        sqlite_where=sa.text("state <> 'ended'"),
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_index(
        "respawner_requests_open",
        "respawner_requests",
        ["holder"],
        unique=True,
        sqlite_where=sa.text("state <> 'ended'"),
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_table(
        "respawner_reservations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("group", sa.String(length=255), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("start", sa.Double(), nullable=False),
        sa.Column("end", sa.Double(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "respawner_sharing",
        sa.Column("uuid", sa.String(length=96), nullable=False),
        sa.Column("shareable_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uuid"),
    )
    op.create_table(
        "respawner_holdings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(length=96), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("share_bytes", sa.BigInteger(), nullable=False),
        sa.Column("part", sa.Double(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["respawner_requests.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_respawner_holdings_request_id"), "respawner_holdings", ["request_id"], unique=False
    )
    op.create_index(
        "respawner_holdings_live",
        "respawner_holdings",
        ["uuid", "slot"],
        unique=True,
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    )
    op.create_index("respawner_holdings_until", "respawner_holdings", ["until"], unique=False)
    op.create_table(
        "respawner_use",
        sa.Column("request_id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(length=96), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("busy_seconds", sa.Double(), nullable=False),
        sa.Column("sampled_seconds", sa.Double(), nullable=False),
        sa.Column("last_sample", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["respawner_requests.id"],
        ),
        sa.PrimaryKeyConstraint("request_id", "uuid", "day"),
    )
