"""Variants by metrics in one table: every value, and its difference to every other variant's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.records import COSTS, DIVERGENCE, SURVIVAL, RunRecord, Score, VariantRecord
from evalkit.report import facts
from evalkit.report.recommendation import SAME_SIZE
from evalkit.report.view import Tone, change_words, standing_tone, stored_words
from evalkit.report.words import (
    bytes_words,
    counted,
    figure,
    metric_words,
    percent,
    score_figure,
    score_stderr,
)

SHOWN_COSTS = ("disk", "peak_memory", "scoring_speed")
"""Costs with a column beside quality; the others have a table of their own."""


@dataclass(frozen=True)
class Cell:
    """One variant's value in one column; texts are empty where there is none."""

    value: str
    stderr: str
    order: float | None
    """What the column is sorted by; None comes last."""
    mark: str
    """'best', 'worst', or ''."""
    remark: str = ""
    """'3 ties' of a task whose best choices tie exactly: none of them is a hit."""


@dataclass(frozen=True)
class Column:
    """One measure of all variants."""

    title: str
    unit: str
    higher_is_better: bool
    cells: tuple[Cell, ...]
    """In the order of the run's variants."""
    changes: tuple[tuple[str, ...], ...]
    """`changes[r][v]`: variant v against variant r, in words; '' where there is no telling."""
    is_timed: bool = False
    """Read off a clock once."""


@dataclass(frozen=True)
class Row:
    """What stands at the head of a variant's row."""

    name: str
    path: str
    stored: str
    standing: str
    tone: Tone
    problem: str


@dataclass(frozen=True)
class VariantTable:
    """All variants by all that was measured of them."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    reference: int
    """The row that differences are against until the reader picks another."""
    measured: tuple[str, ...]
    """How large each sample was: 'perplexity: 42 documents, 7,976 tokens'."""


def variant_table(run: RunRecord, measured: Sequence[tuple[str, str]] = ()) -> VariantTable | None:
    """The table; None where no variant has a score.

    Args:
        run: the run.
        measured: of each metric its title and the size of its sample, in words.
    """
    metrics = facts.shown_metrics(run)
    columns: list[Column] = []
    for metric in metrics:
        columns.append(_metric_column(run, metric))
        if metric == facts.primary_metric(run):
            columns += _bits_column(run, metric)
    present = {metric for variant in run.variants for metric in variant.scores}
    if SURVIVAL in present:
        columns.append(_metric_column(run, SURVIVAL))
    columns += [_metric_column(run, cost) for cost in SHOWN_COSTS if cost in present]
    if not columns:
        return None
    primary = facts.primary_metric(run)
    reference = facts.reference_of(run, primary) if primary else None
    names = [variant.name for variant in run.variants]
    return VariantTable(
        rows=tuple(_row(run, variant) for variant in run.variants),
        columns=tuple(columns),
        reference=names.index(reference.name) if reference else 0,
        measured=tuple(f"{title}: {size}" for title, size in measured),
    )


def _row(run: RunRecord, variant: VariantRecord) -> Row:
    standing = facts.standing(run, variant.name)
    error = variant.job.error if variant.job and variant.job.error else ""
    return Row(
        name=variant.name,
        path=facts.path_words(variant.path),
        stored=stored_words(variant, with_bytes="disk" not in variant.scores),
        standing=standing,
        tone=standing_tone(standing),
        problem=error or ("" if variant.scores else "not scored"),
    )


def _metric_column(run: RunRecord, metric: str) -> Column:
    scores = [variant.scores.get(metric) for variant in run.variants]
    first = next(score for score in scores if score is not None)
    marks = _marks(run, metric, scores)
    instead = facts.divergence_reference(run) if metric == DIVERGENCE else None
    cost = COSTS.get(metric)
    return Column(
        title="kept of the adapter" if metric == SURVIVAL else _title(metric),
        unit="" if metric == SURVIVAL or first.unit == "bytes" else first.unit,
        higher_is_better=first.higher_is_better,
        cells=tuple(
            _cell(metric, score, marks.get(variant.name, ""))
            if score is not None
            else Cell("reference" if variant.name == instead else "", "", None, "")
            for variant, score in zip(run.variants, scores, strict=True)
        ),
        changes=tuple(tuple(_change(metric, one, other) for one in scores) for other in scores),
        is_timed=cost.is_timed if cost else False,
    )


def _title(metric: str) -> str:
    short = {"disk": "on disk", "peak_memory": "peak memory", "scoring_speed": "scoring"}
    return short.get(metric) or ("KL" if metric == DIVERGENCE else metric_words(metric))


def _cell(metric: str, score: Score, mark: str) -> Cell:
    if metric == SURVIVAL:
        value = percent(score.value)
    elif score.unit == "bytes":
        value = bytes_words(round(score.value))
    elif metric in COSTS:
        value = f"{score.value:,.0f}" if score.value >= 100 else f"{score.value:.3g}"
    else:
        value = score_figure(score.value, score.unit)
    stderr = score_stderr(score.stderr, score.value, score.unit) if score.stderr is not None else ""
    ties = int(score.extra.get("n_ties", 0))
    return Cell(value, stderr, score.value, mark, counted(ties, "tie") if ties else "")


def _bits_column(run: RunRecord, metric: str) -> list[Column]:
    """Bits per byte of the primary perplexity: what compares across tokenizers."""
    bits = [
        score.extra.get("bits_per_byte") if (score := variant.scores.get(metric)) else None
        for variant in run.variants
    ]
    if all(value is None for value in bits):
        return []
    cells = tuple(
        Cell(figure(value), "", value, "") if value is not None else Cell("", "", None, "")
        for value in bits
    )
    scores = [variant.scores.get(metric) for variant in run.variants]
    changes = tuple(
        tuple(
            percent(one / other - 1, signed=True)
            if one is not None and other and mine and theirs and facts.comparable(mine, theirs)
            else ""
            for one, mine in zip(bits, scores, strict=True)
        )
        for other, theirs in zip(bits, scores, strict=True)
    )
    return [Column("bits/byte", "", False, cells, changes)]


def _change(metric: str, one: Score | None, other: Score | None) -> str:
    """What a score is against another; '' where a score is missing, or is a difference itself."""
    if one is None or other is None or metric == DIVERGENCE:
        return ""
    if metric in COSTS:
        return percent(one.value / other.value - 1, signed=True) if other.value else ""
    return change_words(one, other)


def _marks(run: RunRecord, metric: str, scores: Sequence[Score | None]) -> dict[str, str]:
    if metric in COSTS and COSTS[metric].is_timed:
        return {}  # the machine's mood decides
    best, worst = facts.best_and_worst(run, metric)
    if metric in COSTS:
        best, worst = _as_large(scores, best, run), _as_large(scores, worst, run)
    known = [score for score in scores if score is not None]
    # Of a handful a mark helps; where every other value is one, it is noise.
    if len(known) < 3 or len(best) + len(worst) > len(known) / 2 + 1:
        return {}
    return {**dict.fromkeys(worst, "worst"), **dict.fromkeys(best, "best")}


def _as_large(scores: Sequence[Score | None], names: set[str], run: RunRecord) -> set[str]:
    """The variants whose bytes are as good as equal to those of the named ones."""
    values = dict(zip((variant.name for variant in run.variants), scores, strict=True))
    sizes = [score.value for name in names if (score := values[name]) is not None]
    return {
        name
        for name, score in values.items()
        if score is not None and any(abs(score.value / size - 1) < SAME_SIZE for size in sizes)
    }
