"""Every session's newest start on a cluster, with or without GPUs: its number, and on which host its container is."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "respawner_starts",
        sa.Column("holder", sa.String(512), primary_key=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
    )
