"""Divergence of a variant from a reference variant: KL, top tokens, token probabilities.

As `llama-perplexity --kl-divergence` of llama.cpp has it, for any model that transformers runs. All
in float64 over the whole vocabulary; standard errors are clustered by document. The reference is a
file that `write_reference` made (see `log_probs` for what its 16 bits cost), or a second model in
memory, in lockstep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import ScoringError
from evalkit.records import DIVERGENCE, Corpus, OnProgress, Progress, Score
from evalkit.records.divergence import Divergence
from evalkit.scoring import log_probs
from evalkit.scoring.divergence_summary import summarise
from evalkit.scoring.forward import Measured, forward_logits, measure_windows
from evalkit.scoring.layout import Layout, plan_layout
from evalkit.scoring.pairs import plan_pairs, reads_pairs
from evalkit.scoring.perplexity import check_fit, comparison
from evalkit.scoring.token_pairs import TokenPairs, compare_rows, float64_pieces, known_rows
from evalkit.scoring.windows import TokenIds

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite.divergence import DivergenceSpec


@dataclass(frozen=True)
class Subject:
    """What is scored, on what, and who is told."""

    model: PreTrainedModel
    """On its device; left in eval mode."""
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    spec: DivergenceSpec
    max_tokens_per_document: int | None
    job: str
    on_progress: OnProgress
    phase: str = DIVERGENCE
    cache: Path | None = None
    """Where tokenised corpora are kept; None tokenises."""

    def layout(self) -> Layout:
        """The windows: the same for the reference and for every variant.

        Raises:
            DataError: nothing can be scored this way.
            ScoringError: the model cannot read it.
        """
        plan = plan_pairs if reads_pairs(self.model) else plan_layout
        spec = self.spec.windows()
        layout = plan(self.tokenizer, self.corpus, spec, self.max_tokens_per_document, self.cache)
        check_fit(self.model, layout, self.spec.max_length)
        return layout

    def told(self, done: int, layout: Layout) -> None:
        """Tells the tokens done."""
        self.on_progress(Progress(self.job, self.phase, done, layout.n_tokens, "tokens"))


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
    starts = _starts(layout)
    with written_aside(folder) as aside:
        files: list[log_probs.LogProbs] = []

        def keep(index: int, logits: torch.Tensor) -> int:
            if not files:
                files.append(log_probs.create(aside, layout.windows, logits.shape[-1]))
            targets = layout.windows[index].targets
            for rows, exact in float64_pieces(logits):
                known = known_rows(exact, targets[rows])
                if not bool(known.losses.isfinite().all()):
                    losses = known.losses.cpu().numpy()
                    raise ScoringError(_not_finite(layout, index, losses, first=rows.start))
                files[0].write(_moved(rows, starts[index]), exact, known)
            return len(targets)

        done = 0
        for _, count in _each_window(subject, layout, keep):
            done += count
            subject.told(done, layout)
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
    layout = subject.layout()
    stored = log_probs.open_log_probs(folder, layout.windows)
    starts = _starts(layout)

    def compare(index: int, logits: torch.Tensor) -> TokenPairs:
        return compare_rows(
            logits,
            layout.windows[index].targets,
            lambda rows: stored.read(_moved(rows, starts[index]), logits.device),
            _common_vocabulary(subject.tokenizer, logits.shape[-1], stored.vocabulary),
        )

    return _score(subject, layout, _each_window(subject, layout, compare), metric, reference)


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
    layout = subject.layout()
    subject.model.eval()
    reference_model.eval()

    def compare(batch: Sequence[int]) -> list[TokenPairs]:
        windows = [layout.windows[index] for index in batch]
        theirs = forward_logits(reference_model, windows)
        ours = forward_logits(subject.model, windows)
        return [
            _compare_models(subject.tokenizer, window.targets, rows, other)
            for window, rows, other in zip(windows, ours, theirs, strict=True)
        ]

    found = measure_windows(layout.windows, compare, batch_tokens=subject.spec.batch_tokens)
    return _score(subject, layout, found, metric, reference)


# ----------------------------------------------------------------------------- windows


def _score(
    subject: Subject,
    layout: Layout,
    found: Iterator[tuple[int, TokenPairs]],
    metric: str,
    reference: str,
) -> tuple[Score, Divergence]:
    pairs: list[TokenPairs | None] = [None] * len(layout.windows)
    done = 0
    subject.told(done, layout)
    for index, pair in found:
        _check_finite(layout, index, pair)
        pairs[index] = pair
        done += len(pair.kl)
        subject.told(done, layout)
    spec = subject.spec.windows()
    shared = comparison(subject.tokenizer, subject.corpus, spec, subject.max_tokens_per_document)
    whole = [pair for pair in pairs if pair is not None]
    return summarise(layout, whole, metric, {**shared, "reference": reference})


def _each_window(
    subject: Subject, layout: Layout, measure: Callable[[int, torch.Tensor], Measured]
) -> Iterator[tuple[int, Measured]]:
    subject.model.eval()

    def batched(batch: Sequence[int]) -> list[Measured]:
        logits = forward_logits(subject.model, [layout.windows[index] for index in batch])
        return [measure(index, rows) for index, rows in zip(batch, logits, strict=True)]

    return measure_windows(layout.windows, batched, batch_tokens=subject.spec.batch_tokens)


def _starts(layout: Layout) -> list[int]:
    """Where each window's positions begin among all of them."""
    lengths = [len(window.targets) for window in layout.windows]
    return [0, *np.cumsum(lengths)[:-1].tolist()]


def _moved(rows: slice, start: int) -> slice:
    return slice(start + rows.start, start + rows.stop)


def _compare_models(
    tokenizer: PreTrainedTokenizerBase,
    targets: TokenIds,
    logits: torch.Tensor,
    reference: torch.Tensor,
) -> TokenPairs:
    other = reference.to(logits.device)
    return compare_rows(
        logits,
        targets,
        lambda rows: known_rows(other[rows].double(), targets[rows]),
        _common_vocabulary(tokenizer, logits.shape[-1], other.shape[-1]),
    )


def _common_vocabulary(tokenizer: PreTrainedTokenizerBase, ours: int, theirs: int) -> int:
    """How many logits are compared: all of them, but for padding that only one side has.

    Raises:
        ScoringError: one side has no logit for a token of the tokenizer.
    """
    common = min(ours, theirs)
    if ours != theirs and max(tokenizer.get_vocab().values()) >= common:
        raise ScoringError(
            f"the variant has {ours} logits and the reference {theirs}, and both are for tokens of "
            "the tokenizer: divergence needs the same vocabulary"
        )
    return common


def _check_finite(layout: Layout, index: int, pair: TokenPairs) -> None:
    for values in (pair.losses, pair.kl):
        if not np.isfinite(values).all():
            raise ScoringError(_not_finite(layout, index, values))


def _not_finite(layout: Layout, index: int, values: NDArray[np.float64], *, first: int = 0) -> str:
    window, at = layout.windows[index], int(np.flatnonzero(~np.isfinite(values))[0])
    token = window.first + first + at
    return (
        f"{layout.unit_ids[window.unit]}: what is measured at token {token} is "
        f"{values[at]}, not a finite number: a logit is no number, or one model gives no "
        "probability to what the other does"
    )
