"""The likeliest token beside each loss, and what tasks put to the model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_top_tokens()
    _create_task_texts()


def _add_top_tokens() -> None:
    # Null in the rows that are there: nobody recorded it.
    op.add_column("token_losses", sa.Column("top_tokens", sa.LargeBinary(), nullable=True))
    op.add_column("token_losses", sa.Column("top_probabilities", sa.LargeBinary(), nullable=True))


def _create_task_texts() -> None:
    op.create_table(
        "task_text_sets",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("texts", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_task_text_sets"),
    )
    op.create_table(
        "task_texts",
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["score_id"], ["scores.id"], name="fk_task_texts_score_id_scores", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["digest"],
            ["task_text_sets.digest"],
            name="fk_task_texts_digest_task_text_sets",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("score_id", name="pk_task_texts"),
    )
    op.create_index("ix_task_texts_digest", "task_texts", ["digest"])
