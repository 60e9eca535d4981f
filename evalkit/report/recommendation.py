"""Which variants the records allow to ship: gates decide, size and quality choose among them."""

from __future__ import annotations

from evalkit.records import RunRecord, VariantRecord
from evalkit.report.facts import (
    carries_adapter,
    change,
    needs_adapter,
    primary_metric,
    standing,
    storage_bits,
    twin_without_adapter,
)

SAME_SIZE = 0.02
"""Two variants within this share of each other's bytes are equally small: files differ by the bytes
of a scale or a header, which nobody ships a worse model for."""
_FAR_BEHIND = 0.10


def recommended(run: RunRecord) -> list[VariantRecord]:
    """The smallest of the variants that the records allow to ship, handiest first.

    Size is what was measured on the disk, within 2 %; where it was not measured for all of them, it
    is the bits of a weight.
    """
    metric = primary_metric(run)
    return [] if metric is None else smallest(able_to_ship(run), metric)


def smallest(able: list[VariantRecord], metric: str) -> list[VariantRecord]:
    """The smallest of variants that all have the metric.

    Those without an adapter beside them come first, then the metric decides.
    """
    if not able:
        return []
    if all("disk" in variant.scores for variant in able):
        least = min(variant.scores["disk"].value for variant in able) * (1 + SAME_SIZE)
        small = [variant for variant in able if variant.scores["disk"].value <= least]
    else:
        fewest = min(storage_bits(variant.path) for variant in able)
        small = [variant for variant in able if storage_bits(variant.path) == fewest]
    return sorted(small, key=lambda variant: (needs_adapter(variant.path), _rank(variant, metric)))


def able_to_ship(run: RunRecord) -> list[VariantRecord]:
    """The variants that the records allow to ship, in the run's order.

    A variant qualifies with a score and without a verdict other than PASS or IMPROVED, and if it
    has such a verdict or is the reference of one. An adapter that makes its base worse is left out,
    and so is what scores over 10 % worse than another of the same bits.
    """
    metric = primary_metric(run)
    if metric is None:
        return []
    references = {verdict.gate.against for verdict in run.verdicts}
    able = [
        variant
        for variant in run.variants
        if metric in variant.scores
        and (
            standing(run, variant.name) == "passes"
            or (standing(run, variant.name) == "not judged" and variant.name in references)
        )
    ]
    able = [v for v in able if not carries_adapter(v.path) or adapter_helps(run, v)]
    adapted = [variant for variant in able if carries_adapter(variant.path)]
    able = adapted or able
    return [variant for variant in able if not _far_behind(variant, able, metric)]


def _far_behind(variant: VariantRecord, others: list[VariantRecord], metric: str) -> bool:
    score, bits = variant.scores[metric], storage_bits(variant.path)
    rivals = (other for other in others if storage_bits(other.path) == bits)
    differences = [change(score, other.scores[metric]) for other in rivals]
    worse = [-d if score.higher_is_better else d for d in differences if d is not None]
    return max(worse, default=0.0) > _FAR_BEHIND


def _rank(variant: VariantRecord, metric: str) -> float:
    """Smaller is better."""
    score = variant.scores[metric]
    return -score.value if score.higher_is_better else score.value


def adapter_helps(run: RunRecord, variant: VariantRecord) -> bool:
    """False only where a twin without the adapter was scored and is at least as good."""
    metric = primary_metric(run)
    twin = twin_without_adapter(run, variant)
    if metric is None or twin is None or metric not in twin.scores:
        return True
    score = variant.scores[metric]
    difference = change(score, twin.scores[metric])
    if difference is None:
        return True
    return difference > 0 if score.higher_is_better else difference < 0
