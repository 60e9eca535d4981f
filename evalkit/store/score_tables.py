"""The tables that hang on a score: what it holds beside its value and its units' sums."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from evalkit.store.base import Base


class TokenLossRow(Base):
    """The loss of every scored token of one unit of one score."""

    __tablename__ = "token_losses"

    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    unit: Mapped[int]  # index into the ids of the unit set
    tokens: Mapped[list[Any]]
    losses: Mapped[bytes]
    """Little-endian float32, nats, one a token."""
    top_tokens: Mapped[bytes | None]
    """The likeliest tokens as `blobs.pack_json` writes them; null where they were not recorded."""
    top_probabilities: Mapped[bytes | None]
    """Theirs, little-endian float32; null with them."""


class TaskOutcomes(Base):
    """What a variant did with every sample of a task, in the order of the score's unit set."""

    __tablename__ = "task_outcomes"

    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True
    )
    golds: Mapped[list[Any]]
    choices: Mapped[list[Any]]
    correct: Mapped[list[Any]]
    tied: Mapped[list[Any]]
    """Indices of the samples with a tie."""
    lengths: Mapped[list[Any]]
    """Of each sample's log-likelihoods, which are nats, all samples in a row."""
    log_likelihoods: Mapped[bytes]


class TaskTextSet(Base):
    """What a task put to the model, sample by sample: the same for all metrics and variants."""

    __tablename__ = "task_text_sets"

    digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    """Of the texts: the same documents may be put in other ways, with other examples."""
    texts: Mapped[bytes]
    """As `blobs.pack_json` writes them: of each sample the prompt, then its choices."""


class TaskTexts(Base):
    """Which texts belong to the samples of a score, in the order of its unit set."""

    __tablename__ = "task_texts"

    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(
        sa.ForeignKey("task_text_sets.digest", ondelete="RESTRICT"), index=True
    )


class SurvivalModules(Base):
    """What became of the change that adapters wanted to make to each module of a merged variant."""

    __tablename__ = "survival_modules"

    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True
    )
    modules: Mapped[list[Any]]
    """Names, in the model's order."""
    sums: Mapped[bytes]
    """Six a module: see `evalkit.store.modules`."""
