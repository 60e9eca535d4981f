"""How far predictions moved from the reference's: what llama.cpp prints, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records import DIVERGENCE, JobRecord, RunRecord, Score
from evalkit.report import facts
from evalkit.report.view import measured_words
from evalkit.report.words import (
    MINUS,
    bytes_words,
    first_line,
    nats_figure,
    nats_stderr,
    power_figure,
)

KL_PERCENTILES = ("max", "99.9", "99", "95", "90", "median", "10", "5", "1", "min")
DELTA_P_PERCENTILES = (
    "max", "99.9", "99", "95", "90", "75", "median", "25", "10", "5", "1", "0.1", "min",
)  # fmt: skip
_NONE = "–"


@dataclass(frozen=True)
class DivergenceRow:
    """One variant in short. Every figure may be '–'."""

    name: str
    mean: str
    """Mean KL, nats per token."""
    stderr: str
    """Its standard error; empty without one."""
    median: str
    high: str
    """The 99th percentile of KL."""
    highest: str
    same_top: str
    delta_p_rms: str
    ratio: str
    """Of the perplexities."""
    problem: str = ""


@dataclass(frozen=True)
class Figures:
    """One reading of every variant that was measured."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class DivergenceView:
    """Every variant against the reference."""

    reference: str
    measured: str
    error_bound: str
    """The largest of the variants'; empty where nothing was rounded."""
    written: str
    """What the reference's log-probabilities took; empty in lockstep."""
    rows: tuple[DivergenceRow, ...]
    """In the suite's order, without the reference."""
    names: tuple[str, ...]
    """Of the variants that were measured: the columns of `groups`."""
    groups: tuple[tuple[str, tuple[Figures, ...]], ...]
    """All readings, by topic."""


def divergence_view(run: RunRecord) -> DivergenceView | None:
    """What was measured of the divergence; None where nothing was."""
    scores = {v.name: v.scores[DIVERGENCE] for v in run.variants if DIVERGENCE in v.scores}
    if not scores:
        return None
    reference = facts.divergence_reference(run) or "the reference"
    rows = [_row(v.name, scores.get(v.name), v.job) for v in run.variants if v.name != reference]
    bound = max(score.extra.get("kl_error_bound", 0.0) for score in scores.values())
    written = [job.facts.get("written_bytes") for job in run.references]
    sizes = [size for size in written if isinstance(size, int) and size > 0]
    return DivergenceView(
        reference=reference,
        measured=measured_words(next(iter(scores.values()))),
        error_bound=power_figure(bound, 1) if bound > 0 else "",
        written=bytes_words(sizes[0]) if sizes else "",
        rows=tuple(rows),
        names=tuple(scores),
        groups=_groups([score.extra for score in scores.values()]),
    )


def divergence_notes(run: RunRecord) -> list[str]:
    """Why there is nothing to compare with, where the reference's job failed."""
    return [
        f"Divergence was not measured: {job.name}: {first_line(job.error)}."
        for job in run.references
        if job.error
    ]


# ----------------------------------------------------------------------------- tables


def _row(name: str, score: Score | None, job: JobRecord | None) -> DivergenceRow:
    if score is None:
        error = job.error if job is not None and job.error else "not measured"
        return DivergenceRow(name, _NONE, "", _NONE, _NONE, _NONE, _NONE, _NONE, _NONE, error)
    extra = score.extra
    return DivergenceRow(
        name=name,
        mean=nats_figure(score.value),
        stderr="" if score.stderr is None else nats_stderr(score.stderr, score.value),
        median=_nats(extra.get("kl_median")),
        high=_nats(extra.get("kl_99")),
        highest=_nats(extra.get("kl_max")),
        same_top=_estimate(extra, "same_top", 100, 2, " %"),
        delta_p_rms=_estimate(extra, "delta_p_rms", 100, 2, " %"),
        ratio=_estimate(extra, "ratio", 1, 4, ""),
    )


def _groups(
    readings: list[Mapping[str, float]],
) -> tuple[tuple[str, tuple[Figures, ...]], ...]:
    """Everything that `llama-perplexity --kl-divergence` prints, in its order."""

    def estimates(label: str, name: str, factor: float, decimals: int, suffix: str) -> Figures:
        shown = (_estimate(extra, name, factor, decimals, suffix) for extra in readings)
        return Figures(label, tuple(shown))

    perplexity = (
        estimates("PPL of the variant", "perplexity", 1, 3, ""),
        estimates("PPL of the reference", "perplexity_reference", 1, 3, ""),
        Figures(
            "correlation of ln PPL",
            tuple(_fixed(extra.get("correlation"), 100, 2, " %") for extra in readings),
        ),
        estimates("ln PPL ratio", "ln_ratio", 1, 4, ""),
        estimates("PPL ratio", "ratio", 1, 4, ""),
        estimates("PPL difference", "difference", 1, 3, ""),
    )
    kl = (
        Figures("mean", tuple(_mean(extra) for extra in readings)),
        *_percentiles("kl", KL_PERCENTILES, readings),
        Figures("can be off by", tuple(_nats(extra.get("kl_error_bound")) for extra in readings)),
    )
    delta_p = (
        estimates("mean", "delta_p", 100, 3, " %"),
        estimates("root mean square", "delta_p_rms", 100, 3, " %"),
        *_percentiles("delta_p", DELTA_P_PERCENTILES, readings),
        estimates("same top token", "same_top", 100, 2, " %"),
    )
    return (
        ("Perplexity", perplexity),
        ("KL divergence, nats/token", kl),
        ("Δp of the token that came", delta_p),
    )


def _percentiles(
    metric: str, names: tuple[str, ...], readings: list[Mapping[str, float]]
) -> list[Figures]:
    def shown(extra: Mapping[str, float], name: str) -> str:
        value = extra.get(f"{metric}_{name}")
        return _nats(value) if metric == "kl" else _fixed(value, 100, 2, " %")

    return [
        Figures(
            {"max": "maximum", "min": "minimum"}.get(
                name, name if name == "median" else f"{name} %"
            ),
            tuple(shown(extra, name) for extra in readings),
        )
        for name in names
    ]


# ----------------------------------------------------------------------------- figures


def _mean(extra: Mapping[str, float]) -> str:
    value, stderr = extra.get("kl"), extra.get("kl_stderr")
    if value is None or stderr is None:
        return _nats(value)
    return f"{nats_figure(value)} ± {nats_stderr(stderr, value)}"


def _nats(value: float | None) -> str:
    return _NONE if value is None else nats_figure(value)


def _estimate(
    extra: Mapping[str, float], name: str, factor: float, decimals: int, suffix: str
) -> str:
    """'91.23 ± 0.41 %', '1.0312 ± 0.0021'."""
    value, stderr = extra.get(name), extra.get(f"{name}_stderr")
    if value is None:
        return _NONE
    error = "" if stderr is None else f" ± {stderr * factor:,.{decimals}f}"
    return f"{_fixed(value, factor, decimals, '')}{error}{suffix}"


def _fixed(value: float | None, factor: float, decimals: int, suffix: str) -> str:
    if value is None:
        return _NONE
    text = f"{value * factor:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return f"{text}{suffix}".replace("-", MINUS)
