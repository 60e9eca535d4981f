"""What a merge did to every module."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "survival_modules",
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.Column("modules", sa.JSON(), nullable=False),
        sa.Column("sums", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["score_id"],
            ["scores.id"],
            name="fk_survival_modules_score_id_scores",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("score_id", name="pk_survival_modules"),
    )
