"""The first tables: runs, jobs, variants, scores with their per-unit values, samples, verdicts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_runs()
    _create_jobs()
    _create_scores()
    _create_variants()
    _create_verdicts()


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("suite", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("started", sa.String(40), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("suite_text", sa.Text(), nullable=False),
        sa.Column("suite_json", sa.JSON(), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_started", "runs", ["started"])


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("reused_from", sa.String(32), nullable=True),
        sa.Column("reuse_key", sa.String(64), nullable=True),
        sa.Column("content_digest", sa.String(64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_jobs_run_id_runs", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("run_id", "name", name="uq_jobs_run_id_name"),
    )
    op.create_index("ix_jobs_reuse_key", "jobs", ["reuse_key"])


def _create_scores() -> None:
    op.create_table(
        "unit_sets",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("ids", sa.JSON(), nullable=False),
        sa.Column("clusters", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_unit_sets"),
    )
    op.create_table(
        "scores",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("reuse_key", sa.String(64), nullable=False),
        sa.Column("computed_in", sa.String(32), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("stderr", sa.Double(), nullable=True),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("higher_is_better", sa.Boolean(), nullable=False),
        sa.Column("units", sa.String(64), nullable=False),
        sa.Column("sums", sa.LargeBinary(), nullable=False),
        sa.Column("extra", sa.JSON(), nullable=False),
        sa.Column("comparison", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_scores"),
        sa.ForeignKeyConstraint(
            ["units"], ["unit_sets.digest"], name="fk_scores_units_unit_sets", ondelete="RESTRICT"
        ),
    )
    op.create_index("ix_scores_reuse_key", "scores", ["reuse_key"])
    op.create_index("ix_scores_units", "scores", ["units"])
    op.create_table(
        "token_losses",
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("unit", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.JSON(), nullable=False),
        sa.Column("losses", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("score_id", "position", name="pk_token_losses"),
        sa.ForeignKeyConstraint(
            ["score_id"], ["scores.id"], name="fk_token_losses_score_id_scores", ondelete="CASCADE"
        ),
    )


def _create_variants() -> None:
    op.create_table(
        "sample_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("reuse_key", sa.String(64), nullable=False),
        sa.Column("computed_in", sa.String(32), nullable=False),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample_sets"),
    )
    op.create_index("ix_sample_sets_reuse_key", "sample_sets", ["reuse_key"])
    op.create_table(
        "variants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("path", sa.JSON(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        sa.Column("edge", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("sample_set_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_variants"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_variants_run_id_runs", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_variants_job_id_jobs", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["sample_set_id"],
            ["sample_sets.id"],
            name="fk_variants_sample_set_id_sample_sets",
            ondelete="RESTRICT",
        ),
        sa.UniqueConstraint("run_id", "name", name="uq_variants_run_id_name"),
    )
    op.create_index("ix_variants_job_id", "variants", ["job_id"])
    op.create_index("ix_variants_sample_set_id", "variants", ["sample_set_id"])
    _create_variant_scores()


def _create_variant_scores() -> None:
    op.create_table(
        "variant_scores",
        sa.Column("variant_id", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("score_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("variant_id", "metric", name="pk_variant_scores"),
        sa.ForeignKeyConstraint(
            ["variant_id"],
            ["variants.id"],
            name="fk_variant_scores_variant_id_variants",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["score_id"],
            ["scores.id"],
            name="fk_variant_scores_score_id_scores",
            ondelete="RESTRICT",
        ),
    )
    op.create_index("ix_variant_scores_score_id", "variant_scores", ["score_id"])


def _create_verdicts() -> None:
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("gate", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_verdicts"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_verdicts_run_id_runs", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_verdicts_run_id", "verdicts", ["run_id"])
