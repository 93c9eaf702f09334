"""The tables of the labels database, as SQLAlchemy describes them; `migrations/` makes them, `store.py` is all that reads them.

    campaign  what is compared, by which rules           prompt      what the models were asked
    model     a model and the fingerprint of its weights  generation  what one of them answered, with its sampling
    item      the answers that are compared with each other           comparison  an item as one annotator sees it, in an order of its own
    annotator who votes                                   vote, undo  what was said, and what was taken back: rows are only ever added

At most one vote of a comparison counts: `round` is how many of its votes were undone before, and (comparison, round) is unique, so that
two clicks, tabs or servers cannot both be heard. `client_id` names one click: a retry of it finds its own row.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

annotator = sa.Table(
    "annotator",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),  # what the browser keeps
    sa.Column("name", sa.String(80), nullable=False, unique=True),
    sa.Column("quota", sa.Integer),  # most votes in a campaign; NULL: what the campaign says
    sa.Column("created_at", sa.String(32), nullable=False),
)

campaign = sa.Table(
    "campaign",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("name", sa.String(80), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),  # pair | ranking
    sa.Column("guideline", sa.Text, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),  # answers of each model to a prompt
    sa.Column("answers_per_item", sa.Integer, nullable=False),
    sa.Column("overlap", sa.Integer, nullable=False),  # annotators wanted for each item
    sa.Column("quota", sa.Integer, nullable=False),  # most votes of an annotator; 0: no limit
    sa.Column("rule", sa.String(16), nullable=False),  # uncertain | uniform
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("sampling", sa.Text, nullable=False),  # JSON: how answers are drawn
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
)

model = sa.Table(
    "model",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.UniqueConstraint("name", "fingerprint"),
)

campaign_model = sa.Table(
    "campaign_model",
    metadata,
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), primary_key=True),
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
)

prompt = sa.Table(
    "prompt",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("messages", sa.Text, nullable=False),  # JSON
    sa.Column("hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("campaign_id", "hash"),
)

generation = sa.Table(
    "generation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("prompt_id", sa.ForeignKey("prompt.id"), nullable=False),
    sa.Column("model_id", sa.ForeignKey("model.id"), nullable=False),
    sa.Column("sample", sa.Integer, nullable=False),  # which of the model's answers
    sa.Column("sampling", sa.Text, nullable=False),  # JSON
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("text_hash", sa.String(64), nullable=False),
    sa.Column("ending", sa.String(16), nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.UniqueConstraint("prompt_id", "model_id", "sample"),
)

item = sa.Table(
    "item",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("campaign_id", sa.ForeignKey("campaign.id"), nullable=False, index=True),
    sa.Column("prompt_id", sa.ForeignKey("prompt.id"), nullable=False),
    sa.Column("members", sa.String(200), nullable=False),  # the generations' ids in rising order, comma between
    sa.Column("contest", sa.String(200), nullable=False),  # their models' ids, in the same order
    sa.Column("is_identical", sa.Boolean, nullable=False),  # all answers are the same text: a tie that nobody is asked about
    sa.UniqueConstraint("prompt_id", "members"),
)

comparison = sa.Table(
    "comparison",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("annotator_id", sa.ForeignKey("annotator.id"), nullable=False, index=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("shown", sa.String(80), nullable=False),  # which of the item's answers stands at each place, comma between
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("revealed_at", sa.String(32)),
    sa.UniqueConstraint("item_id", "annotator_id"),
)

vote = sa.Table(
    "vote",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("comparison_id", sa.ForeignKey("comparison.id"), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("client_id", sa.String(64), nullable=False, unique=True),
    sa.Column("choice", sa.String(16), nullable=False),  # a | b | tie | both_bad | skip | ranking; a and b are the item's, not the places'
    sa.Column("ranks", sa.String(80), nullable=False),  # of the item's answers, 1 is best, comma between; "" for a skip
    sa.Column("milliseconds", sa.Integer, nullable=False),
    sa.Column("is_blind", sa.Boolean, nullable=False, server_default=sa.true()),  # whether the models' names had not been shown
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.UniqueConstraint("comparison_id", "round"),
)

undo = sa.Table(
    "undo",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("vote_id", sa.ForeignKey("vote.id"), nullable=False, unique=True),
    sa.Column("client_id", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.String(32), nullable=False),
)

live_vote = sa.select(vote).where(sa.not_(sa.exists().where(undo.c.vote_id == vote.c.id))).subquery("live_vote")
"""The votes that count: those that were not undone."""
