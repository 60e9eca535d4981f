"""Trainings are found by their recipe without reading every job of every run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_JOBS = sa.table(
    "jobs",
    sa.column("id", sa.Integer),
    sa.column("kind", sa.String),
    sa.column("status", sa.String),
    sa.column("facts", sa.JSON),
    sa.column("content_digest", sa.String),
    sa.column("family", sa.String),
    sa.column("seed", sa.BigInteger),
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("family", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("seed", sa.BigInteger(), nullable=True))
    _fill()
    op.create_index("ix_jobs_family_seed", "jobs", ["family", "seed"])
    op.drop_index("ix_jobs_reuse_key", "jobs")
    op.create_index("ix_jobs_reuse_key_status", "jobs", ["reuse_key", "status"])


def _fill() -> None:
    """From the facts, where both have been all along."""
    connection = op.get_bind()
    trained = sa.select(_JOBS.c.id, _JOBS.c.facts).where(
        _JOBS.c.kind == "train",
        _JOBS.c.status.in_(("done", "reused")),
        _JOBS.c.content_digest.is_not(None),
    )
    for id_, facts in connection.execute(trained).all():
        if "recipe_but_for_seed" in facts:
            known = {"family": facts["recipe_but_for_seed"], "seed": facts["seed"]}
            connection.execute(sa.update(_JOBS).where(_JOBS.c.id == id_).values(known))
