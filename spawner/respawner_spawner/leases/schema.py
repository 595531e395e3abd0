"""The tables of the ledger. Their states and rules are told in docs/gpus.md, "The ledger".

Whoever changes a table adds a migration in `migrations/versions` (a test compares both).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

ledger = Table(
    "respawner_ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_fence", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="respawner_ledger_one_row"),
)
"""One row. Every writer locks it first, so that changes happen one after the other on any database."""

requests = Table(
    "respawner_requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("holder", String(512), nullable=False),
    Column("user", String(255), nullable=False),
    Column("groups", JSON, nullable=False),
    Column("ask", JSON, nullable=False),
    Column("submitted", Double, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("preemptible", Boolean, nullable=False),
    Column("attained_seconds", Double, nullable=False),
    Column("resumes", Boolean, nullable=False),
    Column("cpu_meanwhile", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    # while it waits, as the last decision said
    Column("wait_position", Integer),
    Column("wait_reason", Text),
    Column("wait_expected", Double),
    Column("wait_impossible", Boolean),
    Column("requeued", Text),
    Column("waits_for_cell", Boolean, nullable=False, server_default=text("false")),
    # once it is granted: a request has one lease at most, and this is it
    Column("fence", BigInteger),
    Column("share_bytes", BigInteger, nullable=False, server_default="0"),
    Column("granted_at", Double),
    Column("claimed_at", Double),
    Column("ended_at", Double),
    Column("end_reason", String(16)),
    Column("end_detail", Text),
    # while it runs
    Column("busy_at", Double),
    Column("cell_running", Boolean, nullable=False, server_default=text("false")),
    Column("warned_at", Double),
    Column("warning", Text),
    Column("warned_for_others", Boolean, nullable=False, server_default=text("false")),
    Column("reclaim_at", Double),
    Column("snoozed_until", Double),
    Column("snoozes", Integer, nullable=False, server_default="0"),
    Column("suspending_since", Double),
    Column("suspend_reason", Text),
    Column("comes_back", JSON(none_as_null=True)),
    Column("suspend_failed_at", Double),
    Column("suspend_failure", Text),
    Column("flag", Text),
    sqlite_autoincrement=True,
)
_open = text("state <> 'ended'")
Index(
    "respawner_requests_open",
    requests.c.holder,
    unique=True,
    sqlite_where=_open,
    postgresql_where=_open,
)
Index(
    "respawner_requests_fence",
    requests.c.fence,
    unique=True,
    sqlite_where=_open,
    postgresql_where=_open,
)
Index("respawner_requests_ended_at", requests.c.ended_at)

starts = Table(
    "respawner_starts",
    metadata,
    Column("holder", String(512), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("host", String(255), nullable=False),
)
"""The newest start of every session of a cluster. `host` is empty once its container is gone."""

holdings = Table(
    "respawner_holdings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request_id", Integer, ForeignKey("respawner_requests.id"), nullable=False, index=True),
    Column("uuid", String(96), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("share_bytes", BigInteger, nullable=False),
    Column("part", Double, nullable=False),
    Column("since", Double, nullable=False),
    Column("until", Double),
    sqlite_autoincrement=True,
)
"""A device in somebody's hands. `until` is empty while it is: then (uuid, slot) is unique, a whole device is slot 0."""
_live = text("until IS NULL")
Index(
    "respawner_holdings_live",
    holdings.c.uuid,
    holdings.c.slot,
    unique=True,
    sqlite_where=_live,
    postgresql_where=_live,
)
Index("respawner_holdings_until", holdings.c.until)

use = Table(
    "respawner_use",
    metadata,
    Column("request_id", Integer, ForeignKey("respawner_requests.id"), primary_key=True),
    Column("uuid", String(96), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("busy_seconds", Double, nullable=False),
    Column("sampled_seconds", Double, nullable=False),
    Column("last_sample", Double, nullable=False),
)
"""How much a held device really computed, by UTC day: utilisation integrated over time."""

devices = Table(
    "respawner_devices",
    metadata,
    Column("uuid", String(96), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("model", String(255), nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("parent", String(96), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("present", Boolean, nullable=False),
)
"""Every device that an agent has told of; those that are gone stay, for the history."""

agents = Table(
    "respawner_agents",
    metadata,
    Column("host", String(255), primary_key=True),
    Column("seen", Double, nullable=False),
    Column("detail", Text, nullable=False),
)

cordons = Table(
    "respawner_cordons",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String(255), nullable=False),
    Column("since", Double, nullable=False),
    sqlite_autoincrement=True,
)
Index("respawner_cordons_target_reason", cordons.c.target, cordons.c.reason, unique=True)

sharing = Table(
    "respawner_sharing",
    metadata,
    Column("uuid", String(96), primary_key=True),
    Column("shareable_bytes", BigInteger, nullable=False),
)

limits = Table(
    "respawner_limits",
    metadata,
    Column("subject", String(255), primary_key=True),
    Column("most", Double),
    Column("guarantee", Double, nullable=False),
    Column("priority", Integer),
)

reservations = Table(
    "respawner_reservations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("group", String(255), nullable=False),
    Column("count", Integer, nullable=False),
    Column("start", Double, nullable=False),
    Column("end", Double, nullable=False),
    Column("model", String(255), nullable=False),
    Column("note", Text, nullable=False),
    sqlite_autoincrement=True,
)

audit = Table(
    "respawner_audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("by", String(255), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(512), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("data", JSON, nullable=False),
    sqlite_autoincrement=True,
)
