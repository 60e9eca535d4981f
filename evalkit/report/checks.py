"""What checks of each variant found: those of its job, and of its merge, which scores tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evalkit.records import SURVIVAL, RunRecord, Score, VariantRecord
from evalkit.records.integrity import Finding, Survival
from evalkit.report import facts
from evalkit.report.leakage_notes import leakage_finding
from evalkit.report.words import joined, metric_words, percent


@dataclass(frozen=True)
class CheckRow:
    """One variant's findings, in the columns of the table."""

    name: str
    cells: tuple[tuple[Finding, ...], ...]
    """Of each check in order; empty where the variant was not checked for it."""


@dataclass(frozen=True)
class CheckTable:
    """Every check of every variant."""

    checks: tuple[str, ...]
    shared: tuple[str, ...]
    """Of each check: the message, where it is ok and the same in every variant; else empty."""
    rows: tuple[CheckRow, ...]
    failed: int
    """Findings that are not ok."""


def check_table(run: RunRecord) -> CheckTable | None:
    """The table of checks; None where nothing was checked."""
    found = {variant.name: findings_of(run, variant) for variant in run.variants}
    names = tuple(dict.fromkeys(finding.check for each in found.values() for finding in each))
    if not names:
        return None
    rows = tuple(
        CheckRow(name, tuple(tuple(f for f in each if f.check == check) for check in names))
        for name, each in found.items()
        if each
    )
    every = [finding for each in found.values() for finding in each]
    shared = tuple(_shared([f for f in every if f.check == check]) for check in names)
    failed = sum(not finding.ok for finding in every)
    return CheckTable(names, shared, rows, failed)


def _shared(findings: list[Finding]) -> str:
    messages = {finding.message for finding in findings}
    return messages.pop() if len(messages) == 1 and all(f.ok for f in findings) else ""


def findings_of(run: RunRecord, variant: VariantRecord) -> list[Finding]:
    """What the variant's job recorded, then what was seen of its training data and its merge."""
    recorded = variant.job.facts.get("checks", ()) if variant.job else ()
    found = [
        Finding(str(item["check"]), item["ok"] is True, str(item.get("message", "")))
        for item in (recorded if isinstance(recorded, list | tuple) else ())
        if isinstance(item, Mapping) and {"check", "ok"} <= item.keys()
    ]
    leakage, merge = leakage_finding(run, variant), _merge(run, variant)
    found += [] if leakage is None else [leakage]
    return found if merge is None else [*found, merge.finding]


def merge_notes(run: RunRecord) -> list[str]:
    """One sentence on all merges that left the score as it was without the adapter."""
    undone = [merge for v in run.variants if (merge := _merge(run, v)) and not merge.finding.ok]
    if not undone:
        return []
    expected = [merge for merge in undone if merge.is_expected]
    all_expected = len(expected) == len(undone)
    parts = [
        f"{merge.variant} keeps {percent(merge.share)}"
        + (" (as its gate expects)" if merge.is_expected and not all_expected else "")
        for merge in undone
    ]
    gates = "its gate expects" if len(undone) == 1 else "their gates expect"
    return [
        f"Of what the adapter changed in {metric_words(undone[0].metric)}, {joined(parts)}: "
        f"{'the merge' if len(undone) == 1 else 'the merges'} undid it"
        f"{f', as {gates}' if all_expected else ''}."
    ]


# ----------------------------------------------------------------------------- merges


@dataclass(frozen=True)
class _Merge:
    variant: str
    metric: str
    share: float
    """Of what the adapter changed in the score."""
    finding: Finding
    is_expected: bool


def _merge(run: RunRecord, variant: VariantRecord) -> _Merge | None:
    """What a merged variant's perplexity says of its merge; None where there is no telling."""
    from evalkit.judging.merge_check import check_merge, kept_share  # it brings scipy along

    metric = facts.primary_perplexity(run)
    merged = variant.scores.get(metric) if metric else None
    base = _bare_score(run, variant, metric) if metric else None
    if metric is None or merged is None or base is None or not _is_merged(variant):
        return None
    for attached, attached_base in _attached(run, variant, metric):
        if not all(facts.comparable(merged, one) for one in (base, attached, attached_base)):
            continue
        scores = {"base": base, "attached": attached, "merged": merged}
        share = kept_share(**scores, attached_base=attached_base)
        kept = variant.scores.get(SURVIVAL)
        survival = Survival(kept.modules) if kept and kept.modules else None
        finding = check_merge(variant.name, survival, **scores, attached_base=attached_base)
        if share is None or finding is None:
            return None
        return _Merge(variant.name, metric, share, finding, _is_expected(run, variant.name))
    return None


def _is_merged(variant: VariantRecord) -> bool:
    """Whether every adapter on the path is merged."""
    return facts.carries_adapter(variant.path) and not facts.needs_adapter(variant.path)


def _attached(run: RunRecord, variant: VariantRecord, metric: str) -> Iterator[tuple[Score, Score]]:
    """Scores with the same adapters on top, not merged, each with that of its base alone.

    What the variant's gates compare it with comes first, then what has the variant's own base.
    """
    against = [v.gate.against for v in run.verdicts if v.gate.variant == variant.name]
    twin = _bare(run, variant)

    def rank(other: VariantRecord) -> tuple[bool, bool]:
        own = _bare(run, other)
        return other.name not in against, own is None or own is not twin

    others = [
        other
        for other in run.variants
        if _adapters(other) == _adapters(variant) and "merge" not in facts.verbs(other.path)
    ]
    for other in sorted(others, key=rank):
        score, base = other.scores.get(metric), _bare_score(run, other, metric)
        if score is not None and base is not None:
            yield score, base


def _bare_score(run: RunRecord, variant: VariantRecord, metric: str) -> Score | None:
    twin = _bare(run, variant)
    return None if twin is None else twin.scores.get(metric)


def _bare(run: RunRecord, variant: VariantRecord) -> VariantRecord | None:
    """What the adapter was put on: the path without it, or the same values in other storage.

    `quantize X, dequantize` holds the values of `quantize X`, in more bits.
    """
    path = [step for step in variant.path if not {"attach", "merge"} & set(step)]
    if facts.verbs(path)[-2:] == ["quantize", "dequantize"]:
        same_values = next((v for v in run.variants if list(v.path) == path[:-1]), None)
        return facts.twin_without_adapter(run, variant) or same_values
    return facts.twin_without_adapter(run, variant)


def _adapters(variant: VariantRecord) -> list[str]:
    return [str(step["attach"]) for step in variant.path if "attach" in step]


def _is_expected(run: RunRecord, name: str) -> bool:
    return any(
        v.gate.variant == name and v.gate.expect == "regressed" and v.verdict == "REGRESSED"
        for v in run.verdicts
    )
