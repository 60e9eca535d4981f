"""The likeliest token beside each loss."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null in the rows that are there: nobody recorded it.
    op.add_column("token_losses", sa.Column("top_tokens", sa.LargeBinary(), nullable=True))
    op.add_column("token_losses", sa.Column("top_probabilities", sa.LargeBinary(), nullable=True))
