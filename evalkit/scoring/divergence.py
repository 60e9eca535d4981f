"""Divergence of a variant from a reference variant: KL, top tokens, token probabilities.

As `llama-perplexity --kl-divergence` of llama.cpp has it, for any model that transformers runs. All
in float64 over the whole vocabulary; standard errors are clustered by document. The reference is a
file that `write_reference` made (see `log_probs` for what its 16 bits cost), or a second model in
memory, in lockstep.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import ScoringError
from evalkit.records import Corpus, Score
from evalkit.records.divergence import Divergence
from evalkit.scoring import log_probs
from evalkit.scoring.comparing import (
    DivergencePart,
    Subject,
    by_pieces,
    first_rows,
    measure_pairs,
    moved,
    not_finite,
)
from evalkit.scoring.divergence_summary import summarise
from evalkit.scoring.forward import measure_windows
from evalkit.scoring.layout import Layout, plan_layout
from evalkit.scoring.pairs import plan_pairs
from evalkit.scoring.perplexity import comparison
from evalkit.scoring.token_pairs import TokenPairs, float64_pieces, known_rows
from evalkit.scoring.windows import WHOLE, Shard

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite.divergence import DivergenceSpec

__all__ = [
    "DivergencePart",
    "Subject",
    "join_divergence_parts",
    "measure_divergence_part",
    "score_divergence",
    "score_lockstep",
    "write_reference",
]


def write_reference(subject: Subject, folder: Path) -> int:
    """Writes the log-probabilities of a reference variant, to be deleted after the run.

    Args:
        subject: the reference variant.
        folder: to be made; whole or not at all.

    Returns:
        Bytes written.

    Raises:
        DataError, ScoringError: as for perplexity; or a logit that is not a number.
        WeightsError: the disk is full.
    """
    from evalkit.weights.folders import written_aside

    layout = subject.layout()
    starts = first_rows(layout)
    with written_aside(folder, lasting=False) as aside:
        files: list[log_probs.LogProbs] = []

        def keep(index: int, rows: slice, logits: torch.Tensor) -> int:
            if not files:
                files.append(log_probs.create(aside, layout.windows, logits.shape[-1]))
            targets = layout.windows[index].targets[rows]
            for some, exact in float64_pieces(logits):
                known = known_rows(exact, targets[some])
                if not bool(known.losses.isfinite().all()):
                    losses, first = known.losses.cpu().numpy(), rows.start + some.start
                    raise ScoringError(not_finite(layout, index, losses, first=first))
                files[0].write(moved(some, starts[index] + rows.start), exact, known)
            return len(targets)

        done = 0
        subject.model.eval()
        batches = measure_windows(
            layout.windows,
            by_pieces([subject.model], layout, keep),
            batch_tokens=subject.spec.batch_tokens,
        )
        for batch in batches:
            done += sum(sum(counts) for _, counts in batch)
            subject.told(done, layout.n_tokens)
    return sum(file.stat().st_size for file in folder.iterdir())


def score_divergence(
    subject: Subject, folder: Path, *, metric: str, reference: str
) -> tuple[Score, Divergence]:
    """Compares a variant with the reference that was written into a folder.

    Args:
        subject: the variant.
        folder: of `write_reference`, on the same corpus and settings.
        metric: the score's name, "divergence".
        reference: what scores must share to be compared: the reference's name, or its key.

    Returns:
        The score, with a sum (nats) and a count (tokens) for each document or window; everything.

    Raises:
        DataError, ScoringError: as for perplexity; the reference is of other tokens; the
            vocabularies do not fit; the variant gives no probability to what the reference does.
    """
    return _score_whole(subject, folder, metric, reference)


def score_lockstep(
    subject: Subject, reference_model: PreTrainedModel, *, metric: str, reference: str
) -> tuple[Score, Divergence]:
    """Compares a variant with a second model in memory, batch by batch: exact, and nothing written.

    Args:
        subject: the variant.
        reference_model: with the same tokenizer; left in eval mode.
        metric: the score's name.
        reference: as for `score_divergence`.

    Raises:
        DataError, ScoringError: as for `score_divergence`.
    """
    return _score_whole(subject, reference_model, metric, reference)


def measure_divergence_part(
    subject: Subject, other: Path | PreTrainedModel, shard: Shard
) -> DivergencePart:
    """Compares a variant with a reference on a share of the batches.

    Args:
        subject: the variant.
        other: the reference, as a folder of `write_reference` or as a second model.
        shard: the batches to take.

    Raises:
        DataError, ScoringError: as for `score_divergence`.
    """
    return measure_pairs(subject, subject.layout(), other, shard)


def join_divergence_parts(
    parts: Sequence[DivergencePart],
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: DivergenceSpec,
    *,
    max_tokens_per_document: int | None,
    metric: str,
    reference: str,
    cache: Path | None = None,
) -> Score:
    """The score that all batches together give: that of `score_divergence`, bit for bit.

    Args:
        parts: of all shards.
        tokenizer: the model's.
        corpus: the documents.
        spec: as the parts were measured by.
        max_tokens_per_document: as the parts were measured with.
        metric: the score's name.
        reference: as for `score_divergence`.
        cache: where tokenised corpora are kept; None tokenises.

    Raises:
        ScoringError: a window is missing.
    """
    plan = plan_pairs if parts[0].reads_pairs else plan_layout
    layout = plan(tokenizer, corpus, spec.windows(), max_tokens_per_document, cache)
    shared = comparison(tokenizer, corpus, spec.windows(), max_tokens_per_document)
    return summarise(layout, _joined(parts, layout), metric, {**shared, "reference": reference})[0]


# ----------------------------------------------------------------------------- windows


def _score_whole(
    subject: Subject, other: Path | PreTrainedModel, metric: str, reference: str
) -> tuple[Score, Divergence]:
    layout = subject.layout()
    pairs = _joined([measure_pairs(subject, layout, other, WHOLE)], layout)
    spec = subject.spec.windows()
    shared = comparison(subject.tokenizer, subject.corpus, spec, subject.max_tokens_per_document)
    return summarise(layout, pairs, metric, {**shared, "reference": reference})


def _joined(parts: Sequence[DivergencePart], layout: Layout) -> list[TokenPairs]:
    """One for each window, in the layout's order."""
    found = {index: pair for part in parts for index, pair in part.pairs.items()}
    if len(found) != len(layout.windows):
        raise ScoringError(f"{len(found)} of {len(layout.windows)} windows were compared")
    return [found[index] for index in range(len(layout.windows))]
