"""Outcomes of task samples, repeats of variants, noise floors, baselines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_task_outcomes()
    _create_repeats()
    _create_baselines()


def _create_task_outcomes() -> None:
    op.create_table(
        "task_outcomes",
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.Column("golds", sa.JSON(), nullable=False),
        sa.Column("choices", sa.JSON(), nullable=False),
        sa.Column("correct", sa.JSON(), nullable=False),
        sa.Column("tied", sa.JSON(), nullable=False),
        sa.Column("lengths", sa.JSON(), nullable=False),
        sa.Column("log_likelihoods", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["score_id"], ["scores.id"], name="fk_task_outcomes_score_id_scores", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("score_id", name="pk_task_outcomes"),
    )


def _create_repeats() -> None:
    op.create_table(
        "repeats",
        sa.Column("variant_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["score_id"], ["scores.id"], name="fk_repeats_score_id_scores", ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["variant_id"],
            ["variants.id"],
            name="fk_repeats_variant_id_variants",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("variant_id", "label", "metric", name="pk_repeats"),
    )
    op.create_index("ix_repeats_score_id", "repeats", ["score_id"])
    op.create_table(
        "noise_floors",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("floor", sa.Double(), nullable=False),
        sa.Column("shift", sa.Double(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("condition", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_noise_floors"),
    )
    op.create_index("ix_noise_floors_key", "noise_floors", ["key"])


def _create_baselines() -> None:
    op.create_table(
        "baselines",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("suite", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("promoted", sa.String(40), nullable=False),
        sa.Column("forced", sa.Boolean(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_baselines"),
    )
    op.create_index("ix_baselines_suite", "baselines", ["suite"])

    op.create_table(
        "baseline_scores",
        sa.Column("baseline_id", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.Column("answers", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(
            ["baseline_id"],
            ["baselines.id"],
            name="fk_baseline_scores_baseline_id_baselines",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["score_id"],
            ["scores.id"],
            name="fk_baseline_scores_score_id_scores",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("baseline_id", "variant", "metric", name="pk_baseline_scores"),
    )
    op.create_index("ix_baseline_scores_score_id", "baseline_scores", ["score_id"])
