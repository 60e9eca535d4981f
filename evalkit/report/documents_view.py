"""Which documents moved between two variants, and by how much a token: for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.records import RunRecord, Score
from evalkit.report import facts

FEWEST = 8
"""Documents under which a distribution is no more than its values."""


@dataclass(frozen=True, eq=False)
class Moves:
    """How the loss of every document changed from one variant to another."""

    variant: str
    against: str
    metric: str
    noun: str
    """'document' or 'window'."""
    ids: tuple[str, ...]
    nats: NDArray[np.float64]
    """Nats per token, above 0 where `variant` is worse; shape (documents,)."""
    tokens: NDArray[np.float64]
    """Shape (documents,)."""

    @property
    def words(self) -> str:
        """'merged-4bit against nf4+adapter: worse on 41 of 42 documents'."""
        worse = int(np.sum(self.nats > 0))
        count = len(self.nats)
        nouns = self.noun if count == 1 else f"{self.noun}s"
        how = "worse" if worse * 2 >= count else "better"
        number = worse if how == "worse" else int(np.sum(self.nats < 0))
        return f"{self.variant} against {self.against}: {how} on {number:,} of {count:,} {nouns}"


def judged_pairs(run: RunRecord) -> list[tuple[str, str]]:
    """(variant, against) of every gate between two variants of the run, losses first."""
    verdicts = facts.worst_first(run.verdicts)
    pairs = [(v.gate.variant, v.gate.against) for v in verdicts if v.gate.against]
    names = {variant.name for variant in run.variants}
    return [(one, other) for one, other in dict.fromkeys(pairs) if one in names and other in names]


def document_moves(run: RunRecord) -> list[Moves]:
    """The distributions worth a picture: of each pair that a gate compares, on perplexity.

    Without such a gate: of every variant against the plain base weights.
    """
    metric = facts.primary_perplexity(run)
    if metric is None:
        return []
    pairs = judged_pairs(run)
    if not pairs and (reference := facts.reference_of(run, metric)) is not None:
        pairs = [(v.name, reference.name) for v in run.variants if v.name != reference.name]
    found = (moves(run, metric, variant, against) for variant, against in pairs)
    return [each for each in found if each is not None and len(each.nats) >= FEWEST]


def moves(run: RunRecord, metric: str, variant: str, against: str) -> Moves | None:
    """What became of each document; None where the two scores cannot be compared."""
    new, old = (facts.score_of(run, name, metric) for name in (variant, against))
    if new is None or old is None or not _same_tokens(new, old):
        return None
    nats = (new.sums - old.sums) / new.counts
    return Moves(variant, against, metric, facts.unit_noun(new), new.unit_ids, nats, new.counts)


def _same_tokens(new: Score, old: Score) -> bool:
    return facts.comparable(new, old) and bool(np.array_equal(new.counts, old.counts))
