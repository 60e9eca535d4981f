"""Scores with the per-unit values behind them, and what a variant said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evalkit.records.integrity import ModuleSurvival

Float64s = NDArray[np.float64]
MetricKind = Literal["perplexity", "mean"]
RepeatKind = Literal["aa", "seed"]


def _none_recorded() -> NDArray[np.float32]:
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class TokenLosses:
    """The losses of the first scored tokens of one unit: for the report's token view."""

    unit: int
    """Index into the score's unit ids."""
    tokens: tuple[str, ...]
    """All of the unit's, or its first where it is long."""
    losses: NDArray[np.float32]
    """Nats, same length as `tokens`."""
    top_tokens: tuple[str, ...] = ()
    """The text of the token that the model found likeliest at each position, as the tokenizer
    decodes it by itself; same length as `tokens`, or empty where it was not recorded."""
    top_probabilities: NDArray[np.float32] = field(default_factory=_none_recorded)
    """Its probability; same length as `top_tokens`."""

    def __post_init__(self) -> None:
        if len(self.losses) != len(self.tokens):
            raise ValueError(f"{len(self.losses)} losses of {len(self.tokens)} tokens")
        tops = {len(self.top_tokens), len(self.top_probabilities)}
        if tops not in ({0}, {len(self.tokens)}):
            raise ValueError(
                f"{len(self.top_tokens)} likeliest tokens and {len(self.top_probabilities)} "
                f"probabilities of {len(self.tokens)} tokens"
            )


@dataclass(frozen=True)
class SampleOutcome:
    """What a variant did with one sample of a task."""

    gold: str
    """The right answer: a choice's index, or the text that is wanted."""
    choice: str | None
    """The answer: a choice's index, None where the best choices tie; or the text to be judged."""
    correct: bool | None
    """None for a metric that is not a hit or a miss."""
    log_likelihoods: tuple[float, ...] = ()
    """Nats, one a choice, summed over its tokens; empty where the model generates."""
    tied: bool = False
    """Several choices share the best value exactly."""


@dataclass(frozen=True)
class SampleText:
    """What one sample of a task puts to every variant: for the report."""

    prompt: str
    """What the model reads before it answers; only the end of a long one, behind an ellipsis.
    Empty where the choices are whole texts."""
    choices: tuple[str, ...] = ()
    """What it could answer, in the task's order, a long one shortened; empty where it writes."""


@dataclass(frozen=True)
class Score:
    """One metric of one variant, and the per-unit sums and counts behind it.

    A unit is what is paired between variants: a document, or a window of a stream.
    For `kind == "perplexity"` the value is exp(Σ sums / Σ counts), sums in nats, counts in
    tokens; for `kind == "mean"` it is Σ sums / Σ counts.
    """

    metric: str
    """'perplexity', or 'perplexity/NAME' where the suite names several corpora."""
    kind: MetricKind
    value: float
    stderr: float | None
    """Standard error of `value` (delta method, clustered), None where one unit gives none."""
    unit: str
    """'ppl/token'."""
    higher_is_better: bool
    unit_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """Same length as `unit_ids`; equal to it where nothing is clustered."""
    sums: Float64s
    counts: Float64s
    extra: Mapping[str, float] = field(default_factory=dict)
    """Other readings of the same forward pass: bits_per_byte, word_perplexity, n_tokens, n_bytes,
    n_words, n_documents, tokens_per_second."""
    comparison: Mapping[str, str] = field(default_factory=dict)
    """What two scores must share to be compared, by name: data, protocol, tokenizer, ..."""
    token_losses: tuple[TokenLosses, ...] = ()
    outcomes: tuple[SampleOutcome, ...] = ()
    """Of a task: one for each unit, in their order; else empty."""
    sample_texts: tuple[SampleText, ...] = ()
    """Of a task: one for each unit, in their order; empty where nobody recorded them."""
    modules: tuple[ModuleSurvival, ...] = ()
    """Of survival: what became of each module's change, in the model's order; else empty."""
    answers: str = ""
    """Digest of the outcomes, where those were left out: of a baseline that came from a file."""

    def __post_init__(self) -> None:
        lengths = {len(self.unit_ids), len(self.clusters), len(self.sums), len(self.counts)}
        lengths.update(len(part) for part in (self.outcomes, self.sample_texts) if part)
        if len(lengths) != 1:
            raise ValueError(
                f"{self.metric}: unequal lengths of per-unit fields: {sorted(lengths)}"
            )
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric}: {self.value} is not finite")


@dataclass(frozen=True)
class Sample:
    """A text that a variant generated from a fixed prompt, greedily."""

    prompt: str
    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Repeat:
    """The same variant measured once more, under another condition that should not matter."""

    kind: RepeatKind
    """"aa": the same weights, scored in other batches; "seed": trained with another seed."""
    label: str
    """'batches of 1,024 tokens, longest last', 'seed 1'."""
    scores: Mapping[str, Score]
