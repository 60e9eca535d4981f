"""Size against quality: the variants that no other one beats in both bytes and bits per byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records import RunRecord, Score
from evalkit.report.facts import metrics_of, primary_metric
from evalkit.report.recommendation import SAME_SIZE
from evalkit.statistics.pareto import pareto_front


@dataclass(frozen=True)
class TradeOff:
    """Bytes on the disk and bits per byte of every variant that has both."""

    metric: str
    """The perplexity that the bits per byte are of."""
    points: Mapping[str, tuple[float, float]]
    """(bytes, bits per byte) by variant, in the run's order."""
    front: tuple[str, ...]
    """Those that no other equals or beats in both and beats in one, by rising bytes.

    Bytes that are apart by less than `SAME_SIZE` count as equal.
    """


def trade_off(run: RunRecord) -> TradeOff | None:
    """Size against quality; None with fewer than two variants that have both measures."""
    metric = perplexity_of(run)
    if metric is None:
        return None
    points = {}
    for variant in run.variants:
        disk, bits = variant.scores.get("disk"), bits_per_byte(variant.scores.get(metric))
        if disk is not None and bits is not None:
            points[variant.name] = (disk.value, bits)
    front = pareto_front(points, same=SAME_SIZE)
    return TradeOff(metric, points, front) if len(points) > 1 else None


def perplexity_of(run: RunRecord) -> str | None:
    """The primary metric where it is a perplexity with bits per byte, else the first that is."""
    primary = primary_metric(run)
    ordered = [primary, *metrics_of(run)] if primary else []
    scored = (
        metric
        for metric in ordered
        if any(bits_per_byte(v.scores.get(metric)) is not None for v in run.variants)
    )
    return next(scored, None)


def bits_per_byte(score: Score | None) -> float | None:
    """A perplexity's other reading, which compares across tokenizers; None where there is none."""
    if score is None or score.kind != "perplexity":
        return None
    return score.extra.get("bits_per_byte")
