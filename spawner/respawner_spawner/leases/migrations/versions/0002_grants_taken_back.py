"""Grants that were taken back keep their place and say why; a warning says whether others wait."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("respawner_requests", sa.Column("requeued", sa.Text()))
    for name in ("waits_for_cell", "warned_for_others"):
        op.add_column(
            "respawner_requests",
            sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("false")),
        )
