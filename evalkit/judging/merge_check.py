"""Finds a merge that changed nothing though its adapter changed the score: from scores, pure."""

from __future__ import annotations

import numpy as np

from evalkit.records import Score
from evalkit.records.integrity import Finding, Survival
from evalkit.statistics.clusters import paired_ratio

MERGE = "merge"
"""The check's name."""
KEPT_SHARE = 0.1
"""A merge that keeps less than this of what the adapter changed has changed nothing."""
SEEN_CHANGE = 2e-3
"""Nats per token under which an adapter is not seen in a score: four times what another batching
may move perplexity in bfloat16."""


def check_merge(
    variant: str,
    survival: Survival | None,
    *,
    base: Score,
    attached: Score,
    merged: Score,
    attached_base: Score | None = None,
) -> Finding | None:
    """Looks for a merge that changed nothing though the adapter changed the score.

    Args:
        variant: the merged variant's name.
        survival: its, where it was measured.
        base: a perplexity of the merged variant's path without the adapter.
        attached: with the adapter on top.
        merged: of the variant, on the same units as the others.
        attached_base: what the adapter was put on for `attached`; None: `base`.

    Returns:
        None where the adapter did not change the score enough to tell.
    """
    share = kept_share(base=base, attached=attached, merged=merged, attached_base=attached_base)
    if share is None:
        return None
    weights = ""
    if survival is not None and survival.total is not None:
        weights = f", and {survival.total * 100:.1f} % of the adapter is in the weights"
    message = (
        f"{variant} keeps {share * 100:.0f} % of what the adapter changed in "
        f"{merged.metric}{weights}"
    )
    if np.array_equal(base.sums, merged.sums):
        message = f"{variant} scores exactly as without the adapter: the merge changed nothing"
    return Finding(MERGE, share >= KEPT_SHARE, message)


def kept_share(
    *, base: Score, attached: Score, merged: Score, attached_base: Score | None = None
) -> float | None:
    """The share of an adapter's effect on a score that a merge kept, nats over nats.

    Args:
        base: as for `check_merge`.
        attached: likewise.
        merged: likewise.
        attached_base: likewise.

    Returns:
        None where the adapter did not change the score enough to tell.
    """
    change, stderr = _effect(attached, attached_base or base)
    if not change or abs(change) < max(SEEN_CHANGE, 2 * stderr):
        return None
    return _effect(merged, base)[0] / change


def _effect(score: Score, reference: Score) -> tuple[float, float]:
    """Difference of two scores and its standard error: nats per token of perplexities."""
    if not len(score.sums):
        return score.value - reference.value, 0.0
    seen = paired_ratio(
        score.sums,
        score.counts,
        reference.sums,
        reference.counts,
        score.clusters,
        bootstrap=None,
    )
    return seen.effect, seen.stderr or 0.0
