"""Campaigns, answers, comparisons and votes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the first tables."""
    _make_people_and_campaigns()
    _make_answers()
    _make_votes()


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, nullable=False)


def _text(name: str, length: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text if length is None else sa.String(length), nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=nullable)


def _foreign(table: str, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([f"{name}_id"], [f"{name}.id"], name=f"fk_{table}_{name}_id")


def _unique(table: str, *names: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*names, name=f"uq_{table}_{'_'.join(names)}")


def _make_people_and_campaigns() -> None:
    op.create_table(
        "annotator",
        _id(),
        _text("key", 32),
        _text("name", 80),
        _number("quota", nullable=True),
        _text("created_at", 32),
        sa.PrimaryKeyConstraint("id", name="pk_annotator"),
        _unique("annotator", "key"),
        _unique("annotator", "name"),
    )
    op.create_table(
        "campaign",
        _id(),
        _text("key", 32),
        _text("name", 80),
        _text("kind", 16),
        _text("guideline"),
        _number("samples"),
        _number("answers_per_item"),
        _number("overlap"),
        _number("quota"),
        _text("rule", 16),
        sa.Column("seed", sa.BigInteger, nullable=False),
        _text("sampling"),
        sa.Column("is_open", sa.Boolean, nullable=False),
        _text("created_at", 32),
        sa.PrimaryKeyConstraint("id", name="pk_campaign"),
        _unique("campaign", "key"),
        _unique("campaign", "name"),
    )
    op.create_table(
        "model",
        _id(),
        _text("name", 200),
        _text("fingerprint", 64),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        _unique("model", "name", "fingerprint"),
    )
    op.create_table(
        "campaign_model",
        _number("campaign_id"),
        _number("model_id"),
        _number("position"),
        sa.PrimaryKeyConstraint("campaign_id", "model_id", name="pk_campaign_model"),
        _foreign("campaign_model", "campaign"),
        _foreign("campaign_model", "model"),
    )


def _make_answers() -> None:
    op.create_table(
        "prompt",
        _id(),
        _number("campaign_id"),
        _number("position"),
        _text("messages"),
        _text("hash", 64),
        sa.PrimaryKeyConstraint("id", name="pk_prompt"),
        _foreign("prompt", "campaign"),
        _unique("prompt", "campaign_id", "hash"),
    )
    op.create_table(
        "generation",
        _id(),
        _number("prompt_id"),
        _number("model_id"),
        _number("sample"),
        _text("sampling"),
        sa.Column("seed", sa.BigInteger, nullable=False),
        _text("text"),
        _text("text_hash", 64),
        _text("ending", 16),
        _text("created_at", 32),
        sa.PrimaryKeyConstraint("id", name="pk_generation"),
        _foreign("generation", "prompt"),
        _foreign("generation", "model"),
        _unique("generation", "prompt_id", "model_id", "sample"),
    )
    op.create_table(
        "item",
        _id(),
        _number("campaign_id"),
        _number("prompt_id"),
        _text("members", 200),
        _text("contest", 200),
        sa.Column("is_identical", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_item"),
        _foreign("item", "campaign"),
        _foreign("item", "prompt"),
        _unique("item", "prompt_id", "members"),
    )
    op.create_index("ix_item_campaign_id", "item", ["campaign_id"])


def _make_votes() -> None:
    op.create_table(
        "comparison",
        _id(),
        _text("key", 32),
        _number("item_id"),
        _number("annotator_id"),
        sa.Column("seed", sa.BigInteger, nullable=False),
        _text("shown", 80),
        _text("created_at", 32),
        sa.PrimaryKeyConstraint("id", name="pk_comparison"),
        _foreign("comparison", "item"),
        _foreign("comparison", "annotator"),
        _unique("comparison", "key"),
        _unique("comparison", "item_id", "annotator_id"),
    )
    op.create_table(
        "vote",
        _id(),
        _number("comparison_id"),
        _number("round"),
        _text("client_id", 64),
        _text("choice", 16),
        _text("ranks", 80),
        _number("milliseconds"),
        _text("created_at", 32),
        sa.PrimaryKeyConstraint("id", name="pk_vote"),
        _foreign("vote", "comparison"),
        _unique("vote", "client_id"),
        _unique("vote", "comparison_id", "round"),
    )
    op.create_table(
        "undo",
        _id(),
        _number("vote_id"),
        _text("client_id", 64),
        _text("created_at", 32),
        sa.PrimaryKeyConstraint("id", name="pk_undo"),
        _foreign("undo", "vote"),
        _unique("undo", "vote_id"),
        _unique("undo", "client_id"),
    )
