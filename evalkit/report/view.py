"""Turns a run's records into the rows that a page shows: words and positions, no markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evalkit.records import DIVERGENCE, SURVIVAL, RunRecord, Score, VariantRecord, Verdict
from evalkit.report import facts as records
from evalkit.report.noise_notes import floor_of_gate
from evalkit.report.strips import Strip, strip, strip_domains
from evalkit.report.words import (
    bytes_words,
    cost_figure,
    counted,
    effect_words,
    figure,
    interval_words,
    metric_words,
    percent,
    rule_words,
    score_figure,
    score_stderr,
)

Tone = Literal["good", "bad", "warn", "plain"]
_TONES: dict[records.Standing, Tone] = {
    "passes": "good",
    "known loss": "bad",
    "not settled": "warn",
    "fails": "bad",
    "not judged": "plain",
    "failed": "bad",
}


@dataclass(frozen=True)
class GateRow:
    """One gate and what it came to."""

    variant: str
    rule: str
    verdict: str
    tone: Tone
    ok: bool
    remark: str
    effect: str
    interval: str
    strip: Strip | None
    p_adjusted: str
    size: str
    message: str
    place: str


@dataclass(frozen=True)
class MetricRow:
    """One variant's value of one metric."""

    name: str
    path: str
    stored: str
    tone: Tone
    standing: str
    value: str
    stderr: str
    change: str
    mark: str
    bits_per_byte: str
    tokens: str
    speed: str
    problem: str


@dataclass(frozen=True)
class MetricTable:
    """A metric of all variants."""

    metric: str
    title: str
    unit: str
    direction: str
    reference: str
    measured: str
    rows: tuple[MetricRow, ...]
    is_task: bool = False
    """Of an lm-eval task: then `tokens` of a row are its samples and ties."""


def gate_rows(run: RunRecord) -> list[GateRow]:
    """The gates, those that need attention first."""
    domains = strip_domains(run.verdicts)
    return [
        GateRow(
            variant=verdict.gate.variant,
            rule=rule_words(verdict.gate),
            verdict=verdict.verdict,
            tone=verdict_tone(verdict),
            ok=verdict.ok,
            remark=remark(verdict),
            effect=shown_effect(run, verdict),
            interval=interval_words(verdict, signed=verdict.gate.against is not None, precise=True),
            strip=strip(verdict, domains),
            p_adjusted=deciding_p(verdict),
            size=size_words(run, verdict),
            message=more_words(verdict),
            place=verdict.gate.place,
        )
        for verdict in records.worst_first(run.verdicts)
    ]


def standing_tone(standing: records.Standing) -> Tone:
    """How what a variant's gates came to is coloured."""
    return _TONES[standing]


def verdict_tone(verdict: Verdict) -> Tone:
    """How a verdict is coloured: a loss stays a loss, expected or not."""
    if verdict.warned or verdict.verdict == "INCONCLUSIVE":
        return "warn"
    return "good" if verdict.ok and verdict.verdict != "REGRESSED" else "bad"


def remark(verdict: Verdict) -> str:
    """What the verdict's name does not say: 'as expected: ok', 'not ok', 'warns only'."""
    if verdict.gate.expect == "regressed" and verdict.verdict == "REGRESSED":
        return "as expected: ok"
    if verdict.warned:
        return "warns only"
    return "" if verdict.ok else "not ok"


def shown_effect(run: RunRecord, verdict: Verdict) -> str:
    """The effect with its sign, or the value itself where the gate is an absolute limit."""
    if verdict.gate.against is not None:
        return effect_words(verdict, precise=True)
    score = records.score_of(run, verdict.gate.variant, verdict.gate.metric)
    value = score.value if score is not None else verdict.effect
    if value is not None and verdict.gate.metric == SURVIVAL:
        return percent(value)
    return "" if value is None else cost_figure(verdict.gate.metric, value) or figure(value)


def size_words(run: RunRecord, verdict: Verdict) -> str:
    """'42 documents in 40 clusters; noise floor 0.05 %'."""
    if not verdict.n_units:  # measured, not sampled
        return ""
    score = records.score_of(run, verdict.gate.variant, verdict.gate.metric)
    units = counted(verdict.n_units, records.unit_noun(score))
    if verdict.n_clusters is not None and verdict.n_clusters != verdict.n_units:
        units = f"{units} in {counted(verdict.n_clusters, 'cluster')}"
    return "; ".join(filter(None, (units, floor_of_gate(verdict))))


def deciding_p(verdict: Verdict) -> str:
    """The p-value that made a REGRESSED; empty for other verdicts, or where the message has it."""
    if "p <" in verdict.message or "p =" in verdict.message:
        return ""
    p_value = verdict.p_value if verdict.p_adjusted is None else verdict.p_adjusted
    return p_words(p_value) if verdict.verdict == "REGRESSED" and p_value is not None else ""


def more_words(verdict: Verdict) -> str:
    """A verdict's message without the effect and the budget, which have columns of their own."""
    gate = verdict.gate
    if verdict.effect is None or not verdict.message.startswith(
        f"{gate.metric} of {gate.variant} is "
    ):
        return verdict.message
    return verdict.message.partition("; ")[2]


def p_words(p_value: float) -> str:
    """'p < 0.001', 'p = 0.24'."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def metric_table(run: RunRecord, metric: str) -> MetricTable:
    """All variants under one metric, in the suite's order."""
    reference = records.reference_of(run, metric)
    best, worst = records.best_and_worst(run, metric)
    score = next(v.scores[metric] for v in run.variants if metric in v.scores)
    marks = {**dict.fromkeys(worst, "worst"), **dict.fromkeys(best, "best")}
    return MetricTable(
        metric=metric,
        title=metric_words(metric),
        unit=score.unit,
        direction="higher is better" if score.higher_is_better else "lower is better",
        reference=reference.name if reference else "",
        measured=measured_words(score),
        rows=tuple(
            _metric_row(run, variant, metric, reference, marks.get(variant.name, ""))
            for variant in run.variants
        ),
        is_task=records.is_task(score),
    )


def measured_words(score: Score) -> str:
    """'42 documents, 21,504 tokens'; '200 samples'."""
    size = counted(len(score.unit_ids), records.unit_noun(score))
    if records.is_task(score):
        return size
    return f"{size}, {counted(records.scored_tokens(score), 'token')}"


def change_words(score: Score, reference: Score | None) -> str:
    """'+29.3 %' against a reference; says where two scores cannot be compared."""
    if reference is None:
        return ""
    difference = records.change(score, reference)
    if difference is None:
        return "not comparable"
    if score.kind == "perplexity":
        return percent(difference, signed=True)
    return f"{difference * 100:+.2f} pp".replace("-", "\N{MINUS SIGN}")


def stored_words(variant: VariantRecord, *, with_bytes: bool = True) -> str:
    """'4-bit', '4-bit + adapter'; with the bytes where the job counted them."""
    words = f"{records.storage_bits(variant.path)}-bit"
    if records.needs_adapter(variant.path):
        words += " + adapter"
    counted_bytes = variant.job.facts.get("weight_bytes") if variant.job else None
    if with_bytes and isinstance(counted_bytes, int) and counted_bytes > 0:
        words += f", {bytes_words(counted_bytes)}"
    return words


def _size_words(score: Score) -> str:
    """'21,504' tokens; '200' samples of a task, '200, 3 ties'."""
    if not records.is_task(score):
        return f"{records.scored_tokens(score):,}"
    ties = int(score.extra.get("n_ties", 0))
    return f"{len(score.unit_ids):,}" + (f", {counted(ties, 'tie')}" if ties else "")


def _metric_row(
    run: RunRecord, variant: VariantRecord, metric: str, reference: VariantRecord | None, mark: str
) -> MetricRow:
    score = variant.scores.get(metric)
    standing = records.standing(run, variant.name)
    is_reference = reference is not None and variant.name == reference.name
    # Nothing diverges from itself: the reference has no such score, and that is no failure.
    instead = "reference" if is_reference and metric == DIVERGENCE else ""
    compared = reference.scores.get(metric) if reference and not is_reference else None
    bits = score.extra.get("bits_per_byte") if score else None
    speed = score.extra.get("tokens_per_second") if score else None
    stderr = score.stderr if score else None
    error = variant.job.error if variant.job and variant.job.error else ""
    return MetricRow(
        name=variant.name,
        path=records.path_words(variant.path),
        stored=stored_words(variant),
        tone=standing_tone(standing),
        standing=standing,
        value=score_figure(score.value, score.unit) if score else instead,
        stderr=(
            "" if score is None or stderr is None else score_stderr(stderr, score.value, score.unit)
        ),
        change="reference" if is_reference else change_words(score, compared) if score else "",
        mark=mark,
        bits_per_byte=figure(bits) if bits is not None else "",
        tokens=_size_words(score) if score else "",
        speed=f"{speed:,.0f}" if speed else "",
        problem="" if score or (instead and not error) else error or "not scored",
    )


def group_rows(run: RunRecord) -> list[tuple[str, list[str]]]:
    """Metrics of groups' single tasks: each with the value of every variant, in their order."""
    return [
        (metric, [_short_value(variant.scores.get(metric)) for variant in run.variants])
        for metric in records.metrics_of(run)
        if metric.count("/") > 1
    ]


def _short_value(score: Score | None) -> str:
    return score_figure(score.value, score.unit) if score is not None else "–"
