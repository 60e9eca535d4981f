"""What merges left of their adapters, in words."""

from __future__ import annotations

from evalkit.records import SURVIVAL, RunRecord, Score
from evalkit.report.words import joined, percent

GONE = 0.5
"""A merge that keeps less than this share of its adapter has lost it."""
_SHOWN = 1e-5


def survival_notes(run: RunRecord) -> list[str]:
    """One sentence on all merged variants; none where no merge was measured."""
    measured = [(v.name, v.scores[SURVIVAL]) for v in run.variants if SURVIVAL in v.scores]
    if not measured:
        return []
    parts = [f"{name} {percent(score.value)}{_codes(score)}" for name, score in measured]
    return [f"Kept of the adapter in the merged weights (survival): {joined(parts)}."]


def lost_adapter(score: Score | None) -> str:
    """'keeps 1.0 % of the adapter and ', where a merge lost it; else nothing."""
    if score is None or score.value >= GONE:
        return ""
    return f"keeps {percent(score.value)} of the adapter and "


def _codes(score: Score) -> str:
    changed = score.extra.get("changed_share")
    if changed is None:
        return ""
    if changed == 0:
        return " (none of its codes changed)"
    share = f"{changed * 100:.2g} %" if changed >= _SHOWN else f"under {_SHOWN * 100:g} %"
    return f" ({share} of its codes changed)"
