"""Training's noise: a gate tested over several seeds, or with the spread between them. Pure.

An adapter that is trained again with another seed is another adapter. Where the suite names several
seeds, the effect is the mean over them of the paired effects (the same seed on both sides where
both attach it), and its variance is that of the documents plus that between seeds over their
number. Where one seed ships and others were only drawn to see the spread, the effect is that of the
one, and the whole variance between seeds is added.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from evalkit.records import Gate, Repeat, RunRecord, Score

if TYPE_CHECKING:
    from evalkit.judging.budgets import BudgetTest
    from evalkit.statistics.ratios import Bootstrap

Sides = tuple[Score, Score | None]
"""A gate's variant and what it is compared with, None for an absolute limit."""
MakeTest = Callable[[Score, Score | None, "Bootstrap | None"], "BudgetTest"]


def averaged_variants(run: RunRecord) -> frozenset[str]:
    """The variants with an adapter that the run's suite trains with several seeds."""
    adapters = run.suite_json.get("adapters", {})
    several = {
        name
        for name, spec in adapters.items()
        if len((spec.get("training") or {}).get("seeds") or ()) > 1
    }
    return frozenset(
        variant.name
        for variant in run.variants
        if any(step.get("attach") in several for step in variant.path)
    )


def seed_draws(
    gate: Gate, ships: Sides, repeats: Mapping[str, Sequence[Repeat]]
) -> tuple[Sides, ...]:
    """The gate's two sides once for each training seed, what ships first; that alone without any.

    Sides are paired by the seed. A side with no draws of its own stays what it is.

    Args:
        gate: names the metric and the variants.
        ships: the sides as the run scored them.
        repeats: by variant.
    """
    score, reference = ships
    ours = _seeded(repeats.get(gate.variant, ()), gate.metric)
    theirs = _seeded(repeats.get(gate.against or "", ()), gate.metric) if reference else {}
    if not theirs:
        return (ships, *((drawn, reference) for drawn in ours.values()))
    if not ours:
        return (ships, *((score, drawn) for drawn in theirs.values()))
    common = [label for label in ours if label in theirs]
    if common:
        return (ships, *((ours[label], theirs[label]) for label in common))
    return (ships, *zip(ours.values(), theirs.values(), strict=False))


def _seeded(repeats: Sequence[Repeat], metric: str) -> dict[str, Score]:
    return {
        repeat.label: repeat.scores[metric]
        for repeat in repeats
        if repeat.kind == "seed" and metric in repeat.scores
    }


def test_over_seeds(
    make: MakeTest, draws: Sequence[Sides], *, averaged: bool, bootstrap: Bootstrap | None
) -> BudgetTest:
    """The gate's test with the variance between training seeds in its interval.

    Args:
        make: the gate's test of two scores.
        draws: of `seed_draws`.
        averaged: the effect is the mean over the draws; else that of the first alone.
        bootstrap: how the cross-check draws documents; it knows nothing of seeds.
    """
    from evalkit.statistics.comparisons import with_training_spread

    score, reference = draws[0]
    ships = make(score, reference, bootstrap)
    if len(draws) < 2 or (ships.comparison.exact and not averaged):
        return ships
    drawn = [make(a, b, None) for a, b in draws]
    effects = [test.comparison.effect for test in drawn]
    mean = make(*_mean_sides(draws), bootstrap) if averaged else ships
    if mean.comparison.exact:
        return ships
    spread, over = statistics.stdev(effects), len(draws) if averaged else 1
    comparison = with_training_spread(
        mean.comparison, spread=spread, n_seeds=len(draws), averaged=over
    )
    whole = comparison.stderr**2 if comparison.stderr else 0.0
    return replace(
        mean,
        comparison=comparison,
        flips=ships.flips,
        training_spread=statistics.stdev(test.show(test.comparison.effect) for test in drawn),
        n_seeds=len(draws),
        training_share=spread**2 / over / whole if whole else 0.0,
    )


def _mean_sides(draws: Sequence[Sides]) -> Sides:
    references = [reference for _, reference in draws if reference is not None]
    return _mean([score for score, _ in draws]), _mean(references) if references else None


def _mean(scores: Sequence[Score]) -> Score:
    """One score whose units hold the mean of the draws': its effects are the means of theirs."""
    first = scores[0]
    if all(score is first for score in scores):
        return first
    sums = np.mean([score.sums for score in scores], axis=0)
    counts = np.mean([score.counts for score in scores], axis=0)
    mean = float(sums.sum() / counts.sum())
    value = math.exp(mean) if first.kind == "perplexity" else mean
    return replace(first, sums=sums, counts=counts, value=value, token_losses=(), outcomes=())
