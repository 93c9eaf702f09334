"""When the names behind a comparison were shown, and whether a vote came before that."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds both columns, and the index that an annotator's comparisons are found by. Votes cast before were blind: nothing was shown."""
    op.add_column("comparison", sa.Column("revealed_at", sa.String(32)))
    op.create_index("ix_comparison_annotator_id", "comparison", ["annotator_id"])
    op.add_column("vote", sa.Column("is_blind", sa.Boolean, nullable=False, server_default=sa.true()))
