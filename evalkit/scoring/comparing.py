"""A variant beside its reference, batch by batch: from a file, or from a second model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import ScoringError
from evalkit.records import DIVERGENCE, Corpus, OnProgress, Progress
from evalkit.scoring import log_probs
from evalkit.scoring.forward import measure_windows
from evalkit.scoring.layout import Layout, plan_layout
from evalkit.scoring.logit_rows import Measured, measure_logits
from evalkit.scoring.pairs import plan_pairs, reads_pairs
from evalkit.scoring.perplexity import check_fit
from evalkit.scoring.token_pairs import TokenPairs, compare_rows, joined, known_rows
from evalkit.scoring.windows import Shard

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

    def told(self, done: int, total: int) -> None:
        """Tells the tokens done, of how many."""
        self.on_progress(Progress(self.job, self.phase, done, total, "tokens"))


@dataclass(frozen=True, eq=False)
class DivergencePart:
    """What a share of the batches gave."""

    pairs: Mapping[int, TokenPairs]
    """By the window's place in the layout."""
    reads_pairs: bool
    """Whether the model reads pairs: it lays out a corpus in another way."""


def measure_pairs(
    subject: Subject, layout: Layout, other: Path | PreTrainedModel, shard: Shard
) -> DivergencePart:
    """Compares a variant with what was written of a reference, or with a second model."""
    subject.model.eval()
    found = measure_windows(
        layout.windows,
        _beside_written(subject, layout, other)
        if isinstance(other, Path)
        else _in_lockstep(subject, layout, other),
        batch_tokens=subject.spec.batch_tokens,
        shard=shard,
    )
    pairs: dict[int, TokenPairs] = {}
    done, total = 0, layout.n_tokens // shard.count
    subject.told(done, total)
    for batch in found:
        for index, pieces in batch:
            pairs[index] = joined(pieces)
            _check_finite(layout, index, pairs[index])
            done += len(pairs[index].kl)
        subject.told(done, max(done, total))
    return DivergencePart(pairs, reads_pairs(subject.model))


def _beside_written(
    subject: Subject, layout: Layout, folder: Path
) -> Callable[[Sequence[int]], list[list[TokenPairs]]]:
    stored = log_probs.open_log_probs(folder, layout.windows)
    starts = first_rows(layout)

    def compare(index: int, rows: slice, logits: torch.Tensor) -> TokenPairs:
        start = starts[index] + rows.start
        return compare_rows(
            logits,
            layout.windows[index].targets[rows],
            lambda some: stored.read(moved(some, start), logits.device),
            _common_vocabulary(subject.tokenizer, logits.shape[-1], stored.vocabulary),
        )

    return by_pieces([subject.model], layout, compare)


def _in_lockstep(
    subject: Subject, layout: Layout, reference_model: PreTrainedModel
) -> Callable[[Sequence[int]], list[list[TokenPairs]]]:
    reference_model.eval()

    def compare(index: int, rows: slice, theirs: torch.Tensor, logits: torch.Tensor) -> TokenPairs:
        targets, other = layout.windows[index].targets[rows], theirs.to(logits.device)
        return compare_rows(
            logits,
            targets,
            lambda some: known_rows(other[some].double(), targets[some]),
            _common_vocabulary(subject.tokenizer, logits.shape[-1], other.shape[-1]),
        )

    return by_pieces([reference_model, subject.model], layout, compare)


def by_pieces(
    models: Sequence[PreTrainedModel], layout: Layout, measure: Callable[..., Measured]
) -> Callable[[Sequence[int]], list[list[Measured]]]:
    """Measures each window of a batch from the logits of one forward pass of each model.

    Args:
        models: as for `measure_logits`.
        layout: the windows.
        measure: as for `measure_logits`, but told the window's place in the layout.
    """

    def batched(batch: Sequence[int]) -> list[list[Measured]]:
        windows = [layout.windows[index] for index in batch]
        return measure_logits(models, windows, lambda place, *rest: measure(batch[place], *rest))

    return batched


def first_rows(layout: Layout) -> list[int]:
    """Where each window's positions begin among all of them."""
    lengths = [len(window.targets) for window in layout.windows]
    return [0, *np.cumsum(lengths)[:-1].tolist()]


def moved(rows: slice, start: int) -> slice:
    """A window's rows among those of all windows."""
    return slice(start + rows.start, start + rows.stop)


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
            raise ScoringError(not_finite(layout, index, values))


def not_finite(layout: Layout, index: int, values: NDArray[np.float64], *, first: int = 0) -> str:
    """Names the first value that is no finite number; `first` is the row it is counted from."""
    window, at = layout.windows[index], int(np.flatnonzero(~np.isfinite(values))[0])
    token = window.first + first + at
    return (
        f"{layout.unit_ids[window.unit]}: what is measured at token {token} is "
        f"{values[at]}, not a finite number: a logit is no number, or one model gives no "
        "probability to what the other does"
    )
