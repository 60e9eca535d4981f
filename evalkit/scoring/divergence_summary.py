"""Numbers of a divergence from what each token gave: means, percentiles, ratios. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evalkit.records import Float64s, Score
from evalkit.records.divergence import Divergence, Estimate
from evalkit.scoring.layout import Layout
from evalkit.scoring.token_pairs import TokenPairs
from evalkit.statistics.clusters import paired_ratio, ratio_standard_error

KL_PERCENTILES = (100, 99.9, 99, 95, 90, 50, 10, 5, 1, 0)
DELTA_P_PERCENTILES = (100, 99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1, 0)
_NAMES = {100: "max", 50: "median", 0: "min"}


def summarise(
    layout: Layout, pairs: Sequence[TokenPairs], metric: str, comparison: Mapping[str, str]
) -> tuple[Score, Divergence]:
    """Sums tokens up to units, and says everything about them.

    Args:
        layout: what was scored.
        pairs: one for each of its windows.
        metric: the score's name.
        comparison: what two divergences must share to be compared.
    """
    units = _Units(layout)
    kl, bound, same, ours, theirs = (
        np.concatenate([getattr(pair, name) for pair in pairs])
        for name in ("kl", "bound", "same_top", "losses", "reference_losses")
    )
    delta_p = np.exp(-ours) - np.exp(-theirs)
    divergence = Divergence(
        n_tokens=len(kl),
        kl=units.mean(kl),
        kl_percentiles=percentiles(kl, KL_PERCENTILES),
        kl_error_bound=float(bound.mean()),
        same_top=units.mean(same),
        delta_p=units.mean(delta_p),
        delta_p_rms=_transformed(units.mean(delta_p**2), math.sqrt, lambda rms: 0.5 / rms),
        delta_p_percentiles=percentiles(delta_p, DELTA_P_PERCENTILES),
        perplexity=_exp(units.mean(ours)),
        perplexity_reference=_exp(units.mean(theirs)),
        ln_ratio=units.mean(ours - theirs),
        ratio=_exp(units.mean(ours - theirs)),
        difference=units.difference(ours, theirs),
        correlation=_correlation(ours, theirs),
    )
    return units.score(kl, divergence, metric, comparison), divergence


def percentiles(values: Float64s, shares: Sequence[float]) -> dict[str, float]:
    """Percentiles by name; between two values linearly, as llama.cpp and numpy have it."""
    found = np.percentile(values, shares)
    return {
        _NAMES.get(share, f"{share:g}"): float(value)  # type: ignore[call-overload]
        for share, value in zip(shares, found, strict=True)
    }


class _Units:
    """Sums tokens within documents or windows."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        lengths = [len(window.targets) for window in layout.windows]
        units = np.array([window.unit for window in layout.windows])
        self._unit = np.repeat(units, lengths)
        self.counts = self.sums(np.ones(len(self._unit)))

    def sums(self, values: Float64s) -> Float64s:
        found = np.bincount(self._unit, weights=values, minlength=len(self._layout.unit_ids))
        return found.astype(np.float64)

    def mean(self, values: Float64s) -> Estimate:
        clusters = self._layout.clusters
        stderr = ratio_standard_error(self.sums(values), self.counts, clusters)
        return Estimate(float(values.mean()), stderr)

    def difference(self, ours: Float64s, theirs: Float64s) -> Estimate:
        """Of the two perplexities."""
        seen = paired_ratio(
            self.sums(ours),
            self.counts,
            self.sums(theirs),
            self.counts,
            self._layout.clusters,
            scale="exp_difference",
            bootstrap=None,
        )
        return Estimate(seen.effect, seen.stderr)

    def score(
        self, kl: Float64s, divergence: Divergence, metric: str, comparison: Mapping[str, str]
    ) -> Score:
        return Score(
            metric=metric,
            kind="mean",
            value=divergence.kl.value,
            stderr=divergence.kl.stderr,
            unit="nats/token",
            higher_is_better=False,
            unit_ids=self._layout.unit_ids,
            clusters=self._layout.clusters,
            sums=self.sums(kl),
            counts=self.counts,
            extra=divergence.readings(),
            comparison=comparison,
        )


def _exp(mean: Estimate) -> Estimate:
    return _transformed(mean, math.exp, lambda value: value)


def _transformed(
    mean: Estimate, function: Callable[[float], float], slope: Callable[[float], float]
) -> Estimate:
    """A function of a mean, its standard error linearised; `slope` is told the function's value."""
    value = function(mean.value)
    if mean.stderr is None:
        return Estimate(value, None)
    return Estimate(value, mean.stderr * slope(value) if mean.stderr else 0.0)


def _correlation(ours: Float64s, theirs: Float64s) -> float | None:
    if ours.std() == 0 or theirs.std() == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])
