"""Ratio estimators over clusters: totals, linearised influence, bootstrap draws. Pure numpy.

A table of totals has one row a cluster and two columns a side: its sum s_c and its count n_c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Scale = Literal["difference", "exp_difference", "relative"]
_CELLS = 2_000_000
"""Numbers in a table of draws that is kept: 16 MB."""
_FEW_KINDS = 8


@dataclass(frozen=True)
class Bootstrap:
    """How the cluster bootstrap draws: seeded, so that judging again says the same."""

    resamples: int = 2000
    seed: int = 0


def cluster_totals(columns: Sequence[Float64s], clusters: Sequence[str]) -> Float64s:
    """Sum each column within clusters, in the order of their names.

    Clusters in which nothing was counted carry no information and would inflate their number;
    they are left out.

    Args:
        columns: sums and counts in turn, each of shape (units,).
        clusters: the cluster of each unit.

    Returns:
        Totals of shape (G, columns).

    Raises:
        ValueError: unequal lengths, values that are not finite, a negative count, a sum with no
            count, or a side on which nothing was counted.
    """
    if {len(column) for column in columns} != {len(clusters)}:
        lengths = [len(column) for column in columns]
        raise ValueError(f"columns of {lengths} units, and {len(clusters)} clusters named")
    table = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    sums, counts = table[:, 0::2], table[:, 1::2]
    if not np.isfinite(table).all() or (counts < 0).any():
        raise ValueError("sums and counts must be finite, and counts not negative")
    if ((counts == 0) & (sums != 0)).any():
        raise ValueError("a unit has a sum and no count")
    if (counts.sum(axis=0) <= 0).any():
        raise ValueError("nothing was counted")
    _, which = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
    totals = np.zeros((int(which.max()) + 1, table.shape[1]))
    np.add.at(totals, which, table)
    return totals[(totals[:, 1::2] > 0).any(axis=1)]


def ratios(totals: Float64s) -> Float64s:
    """Σs/Σn of each side; totals of shape (..., 2·sides) give (..., sides)."""
    result: Float64s = totals[..., 0::2] / totals[..., 1::2]
    return result


def influence(totals: Float64s, side: int) -> Float64s:
    """What each cluster moves a side's ratio by, shape (G,).

    (s_c − R n_c)/(Σn − n_c): R less the ratio without the cluster, the jackknife's influence value.
    Not finite where one cluster holds all of a side's count, for nothing is left without it.
    """
    sums, counts = totals[:, 2 * side], totals[:, 2 * side + 1]
    residuals = sums - sums.sum() / counts.sum() * counts
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Float64s = residuals / (counts.sum() - counts)
    return result


def effect(both: Float64s, scale: Scale) -> Float64s:
    """The effect of A against B, from ratios of shape (..., 2)."""
    a, b = both[..., 0], both[..., 1]
    result: Float64s
    if scale == "difference":
        result = a - b
    elif scale == "exp_difference":
        result = np.exp(a) - np.exp(b)
    else:
        result = a / b - 1.0
    return result


def gradient(both: Float64s, scale: Scale) -> tuple[float, float]:
    """The effect's derivatives by the ratio of A and by that of B, at ratios of shape (2,)."""
    a, b = float(both[0]), float(both[1])
    if scale == "difference":
        return 1.0, -1.0
    if scale == "exp_difference":
        return math.exp(a), -math.exp(b)
    return 1.0 / b, -a / b**2


def as_perplexity(nats: float) -> float:
    """Exp of nats per token; infinite where no float holds it, as an end of few clusters may be."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def as_fraction(nats: float) -> float:
    """What nats per token do to a perplexity, 0.06 for +6 %; infinite likewise."""
    try:
        return math.expm1(nats)
    except OverflowError:
        return math.inf


def resampled_totals(totals: Float64s, bootstrap: Bootstrap) -> Float64s:
    """Grand totals over G clusters drawn with replacement: shape (resamples, columns).

    All columns of a cluster are drawn together, so pairs stay pairs. A draw in which a side
    counted nothing has no ratio and is left out.
    """
    generator, size = np.random.default_rng(bootstrap.seed), len(totals)
    kinds, members = np.unique(totals, axis=0, return_counts=True)
    drawn: Float64s
    if len(kinds) * _FEW_KINDS <= size:
        drawn = generator.multinomial(size, members / size, bootstrap.resamples) @ kinds
    elif size * bootstrap.resamples <= _CELLS:
        drawn = _draws(size, bootstrap) @ totals
    else:
        picks = (_times_drawn(generator, size) for _ in range(bootstrap.resamples))
        drawn = np.stack([times @ totals for times in picks])
    return drawn[(drawn[:, 1::2] > 0).all(axis=1)]


@lru_cache(maxsize=2)
def _draws(size: int, bootstrap: Bootstrap) -> Float64s:
    """How often each cluster is drawn, shape (resamples, size): the same for gates of one data."""
    generator = np.random.default_rng(bootstrap.seed)
    return np.stack([_times_drawn(generator, size) for _ in range(bootstrap.resamples)])


def _times_drawn(generator: np.random.Generator, size: int) -> Float64s:
    times = np.bincount(generator.integers(0, size, size), minlength=size)
    return times.astype(np.float64)
