"""Populations whose true effect is known, and documents drawn from them: for calibration.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from evalkit.records import RunRecord, Score

EFFECT_SPREAD = 0.05  # nats per token, between clusters
TAILS = ("normal", "t3", "exponential", "log-normal")
BY_LENGTH = ("spread grows", "spread shrinks", "long ones skewed", "mean grows")
Pair = tuple[Score, Score]


def tail_draws(generator: np.random.Generator, tail: str, size: int) -> np.ndarray:
    """Draws with mean 0 and variance 1; skewness 0, 0, 2 and 6.2, losses on the long side."""
    if tail == "normal":
        return generator.normal(0.0, 1.0, size)
    if tail == "t3":
        return generator.standard_t(3, size) / math.sqrt(3)
    if tail == "exponential":
        return generator.exponential(1.0, size) - 1.0
    if tail == "exponential, gains long":
        return 1.0 - generator.exponential(1.0, size)
    lognormal = np.exp(generator.normal(0.0, 1.0, size))
    return (lognormal - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def score(
    sums: np.ndarray, counts: np.ndarray, clusters: tuple[str, ...], kind: str = "perplexity"
) -> Score:
    mean = sums.sum() / counts.sum()
    return Score(
        metric="m",
        kind=kind,
        value=math.exp(mean) if kind == "perplexity" else mean,
        stderr=None,
        unit="",
        higher_is_better=kind == "mean",
        unit_ids=tuple(f"d{i}" for i in range(len(sums))),
        clusters=clusters,
        sums=sums,
        counts=counts,
    )


def pair(
    generator: np.random.Generator,
    *,
    clusters: int,
    unevenness: float,
    tail: str,
    effect: float,
    documents: int = 1,
    by_length: str = "no",
) -> Pair:
    """A variant and its reference: `effect` nats per token apart in truth.

    A cluster's token count is log-normal with `unevenness` as the logarithm's deviation. Its effect
    has mean `effect` at every length, or over all tokens where the mean is what grows: the ratio's
    true value.
    """
    size = np.maximum(1.0, np.round(150 * np.exp(generator.normal(0.0, unevenness, clusters))))
    counts = np.repeat(size, documents)
    names = tuple(f"c{i // documents}" for i in range(clusters * documents))
    spread = _of_length(
        generator, by_length, tail_draws(generator, tail, clusters), size, unevenness
    )
    shift = np.repeat(effect + EFFECT_SPREAD * spread, documents)
    noise = generator.normal(0.0, 0.2, len(counts)) / np.sqrt(counts)
    reference = counts * generator.normal(2.5, 0.4, len(counts))
    variant = reference + counts * (shift + noise)
    return score(variant, counts, names), score(reference, counts, names)


def _of_length(
    generator: np.random.Generator,
    how: str,
    draws: np.ndarray,
    size: np.ndarray,
    unevenness: float,
) -> np.ndarray:
    """Draws of mean 0 and variance 1 as they depend on length (`BY_LENGTH`)."""
    length = size / 150
    if how == "spread grows":
        return draws * np.sqrt(length)
    if how == "spread shrinks":
        return draws / np.sqrt(length)
    if how == "long ones skewed":
        return np.where(length > 1, draws, generator.normal(0.0, 1.0, len(draws)))
    if how == "mean grows":
        return draws + np.log(length) - unevenness**2  # E[n log n]/E[n] of a log-normal n
    return draws


def hits(
    generator: np.random.Generator,
    *,
    clusters: int,
    samples: int,
    flipping: float,
    effect: float,
    together: float,
    level: float = 0.6,
) -> Pair:
    """Two variants' hits on `samples` questions a cluster.

    A share `flipping` of all questions flips, `effect` of it net (below zero: lost). `together` is
    the correlation of flips within a cluster: its rates of loss and of gain are beta-distributed.
    """
    lose = _rates(generator, (flipping - effect) / 2, together, clusters)
    gain = _rates(generator, (flipping + effect) / 2, together, clusters)
    where = np.repeat(np.arange(clusters), samples)
    draw = generator.random(len(where))
    lost, gained = draw < lose[where], draw > 1 - gain[where]
    neither = (generator.random(len(where)) < level).astype(float)
    names = tuple(f"c{i}" for i in where)
    ones = np.ones(len(where))
    variant = np.where(lost, 0.0, np.where(gained, 1.0, neither))
    reference = np.where(lost, 1.0, np.where(gained, 0.0, neither))
    return score(variant, ones, names, "mean"), score(reference, ones, names, "mean")


def accuracies(
    generator: np.random.Generator, *, clusters: int, samples: int, level: float, together: float
) -> Score:
    """Hits at a true share of `level`, correlated within clusters."""
    where = np.repeat(np.arange(clusters), samples)
    rate = _rates(generator, level, together, clusters)[where]
    sums = (generator.random(len(where)) < rate).astype(float)
    return score(sums, np.ones(len(where)), tuple(f"c{i}" for i in where), "mean")


def _rates(
    generator: np.random.Generator, mean: float, together: float, clusters: int
) -> np.ndarray:
    if together == 0 or mean <= 0:
        return np.full(clusters, max(mean, 0.0))
    more = (1 - together) / together
    return generator.beta(mean * more, (1 - mean) * more, clusters)


@dataclass(frozen=True)
class Measured:
    """A population made of the clusters of a real run, one variant against its parent."""

    name: str
    names: np.ndarray
    """The cluster of each document, as an index."""
    sums: np.ndarray
    """The variant's, moved so that the true effect is zero; shape (documents,)."""
    reference: np.ndarray
    counts: np.ndarray

    def skewness(self) -> float:
        """Of the clusters' influence."""
        moved = np.bincount(self.names, self.sums - self.reference)
        return float((moved**3).mean() / (moved**2).mean() ** 1.5)

    def draw(self, generator: np.random.Generator, clusters: int, effect: float) -> Pair:
        """Draw whole clusters with replacement."""
        members = [np.flatnonzero(self.names == i) for i in range(self.names.max() + 1)]
        picked = [members[i] for i in generator.integers(0, len(members), clusters)]
        rows = np.concatenate(picked)
        names = tuple(f"c{i}" for i, part in enumerate(picked) for _ in part)
        counts = self.counts[rows]
        variant = self.sums[rows] + effect * counts
        return score(variant, counts, names), score(self.reference[rows], counts, names)


def measured(run: RunRecord) -> list[Measured]:
    """Every variant of a run with its parent, where both have a perplexity."""
    scores = {v.name: v.scores["perplexity"] for v in run.variants if "perplexity" in v.scores}
    populations = []
    for variant in run.variants:
        if variant.name not in scores or variant.parent not in scores:
            continue
        a, b = scores[variant.name], scores[variant.parent]
        names = np.unique(np.array(a.clusters), return_inverse=True)[1]
        sums = a.sums - (a.sums.sum() - b.sums.sum()) / b.counts.sum() * b.counts
        title = f"{variant.name} − {variant.parent}"
        populations.append(Measured(title, names, sums, b.sums, b.counts))
    return populations


def plain_student(variant: Score, reference: Score) -> tuple[float, float]:
    """The 95 % interval that takes no notice of skewness or unevenness: Student's on G − 1."""
    names = np.unique(np.array(variant.clusters), return_inverse=True)[1]
    moved = np.bincount(names, variant.sums - reference.sums)
    counts = np.bincount(names, reference.counts)
    effect, size = moved.sum() / counts.sum(), len(counts)
    residuals = (moved - effect * counts) / counts.sum()
    stderr = math.sqrt(size / (size - 1) * (residuals @ residuals))
    margin = special.stdtrit(size - 1, 0.975) * stderr
    return effect - margin, effect + margin


def studentised_bootstrap(
    generator: np.random.Generator, variant: Score, reference: Score, resamples: int = 400
) -> tuple[float, float]:
    """The bootstrap-t interval over clusters of one document: for comparison, evalkit has none."""
    moved, counts = variant.sums - reference.sums, reference.counts
    size, effect = len(moved), moved.sum() / counts.sum()
    times = np.stack(
        [np.bincount(generator.integers(0, size, size), minlength=size) for _ in range(resamples)]
    )
    effects = times @ moved / (times @ counts)
    squares = times @ moved**2 - 2 * effects * (times @ (moved * counts))
    errors = np.sqrt(squares + effects**2 * (times @ counts**2)) / (times @ counts)
    low, high = np.quantile((effects - effect) / errors, [0.025, 0.975])
    stderr = math.sqrt(np.sum((moved - effect * counts) ** 2)) / counts.sum()
    return effect - high * stderr, effect - low * stderr


def halls_transformation(variant: Score, reference: Score) -> tuple[float, float]:
    """Hall's (1992) interval with the sample's skewness as it is: for comparison."""
    moved, counts = variant.sums - reference.sums, reference.counts
    size, effect = len(moved), moved.sum() / counts.sum()
    residuals = (moved - effect * counts) / counts.sum()
    squares = float(residuals @ residuals)
    skewness = float((residuals**3).sum()) / squares**1.5
    quantile = special.stdtrit(size - 1, 0.975)
    stderr = math.sqrt(size / (size - 1) * squares)

    def back(value: float) -> float:
        return 3 / skewness * (np.cbrt(1 + skewness * (value - skewness / 6)) - 1)

    return effect - back(quantile) * stderr, effect - back(-quantile) * stderr
