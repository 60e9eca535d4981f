"""What each variant costs, beside its bits per byte: rows for every form of the report."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.records import COSTS, JobRecord, RunRecord, VariantRecord
from evalkit.report.facts import job_status
from evalkit.report.trade_off import bits_per_byte, perplexity_of, trade_off
from evalkit.report.words import bytes_words, count_words, figure, metric_words, percent

READ_ONCE = "read off once, on a machine that may do other work: moves from run to run"
"""What an asterisk at a figure means."""
ON_THE_FRONT = "on the front: no other variant is both smaller on disk and better in bits/byte"


@dataclass(frozen=True)
class CostRow:
    """One variant; a measure that is not there is empty."""

    name: str
    on_front: bool
    bits_per_byte: str
    disk: str
    bits_per_weight: str
    memory: str
    peak_memory: str
    parameters: str
    trainable: str
    """'4.88 M' of the adapters on the path; '' without one."""
    trainable_share: str
    load_seconds: str
    scoring_speed: str
    decode_speed: str


@dataclass(frozen=True)
class CostTable:
    """The costs of all scored variants, in the suite's order."""

    rows: tuple[CostRow, ...]
    bits_of: str
    """'perplexity on wiki': what bits per byte are of; '' where there are none."""
    has_front: bool
    training: tuple[tuple[str, str], ...]
    """Each adapter and the peak memory of its training."""


def cost_table(run: RunRecord) -> CostTable | None:
    """Everything that was measured of what variants cost; None where nothing was."""
    if not any(metric in COSTS for variant in run.variants for metric in variant.scores):
        return None
    found = trade_off(run)
    metric = perplexity_of(run)
    scored = [variant for variant in run.variants if job_status(variant) == "scored"]
    front = found.front if found else ()
    return CostTable(
        rows=tuple(_row(variant, metric, on_front=variant.name in front) for variant in scored),
        bits_of=metric_words(metric) if metric else "",
        has_front=found is not None,
        training=tuple(_training(job) for job in run.adapters if _peak(job)),
    )


def disk_words(variant: VariantRecord) -> str:
    """'92.2 MB on disk', or '' where that was not measured."""
    score = variant.scores.get("disk")
    return f"{bytes_words(round(score.value))} on disk" if score is not None else ""


def _row(variant: VariantRecord, metric: str | None, *, on_front: bool) -> CostRow:
    bits = bits_per_byte(variant.scores.get(metric)) if metric else None
    extra = variant.scores["disk"].extra if "disk" in variant.scores else {}
    weight, has_adapter = extra.get("bits_per_weight"), bool(extra.get("trainable_share"))
    return CostRow(
        name=variant.name,
        on_front=on_front,
        bits_per_byte=figure(bits) if bits is not None else "",
        disk=_bytes(variant, "disk"),
        bits_per_weight=f"{weight:.1f} bits/weight" if weight is not None else "",
        memory=_bytes(variant, "memory"),
        peak_memory=_bytes(variant, "peak_memory"),
        parameters=count_words(extra["parameters"]) if "parameters" in extra else "",
        trainable=count_words(extra["trainable_parameters"]) if has_adapter else "",
        trainable_share=percent(extra["trainable_share"]) if has_adapter else "",
        load_seconds=_number(variant, "load_seconds"),
        scoring_speed=_number(variant, "scoring_speed"),
        decode_speed=_number(variant, "decode_speed"),
    )


def _bytes(variant: VariantRecord, metric: str) -> str:
    score = variant.scores.get(metric)
    return bytes_words(round(score.value)) if score is not None else ""


def _number(variant: VariantRecord, metric: str) -> str:
    """Three digits: more would say more than one reading can."""
    score = variant.scores.get(metric)
    if score is None:
        return ""
    return f"{score.value:,.0f}" if score.value >= 100 else f"{score.value:.3g}"


def _training(job: JobRecord) -> tuple[str, str]:
    where = "on the device" if job.facts.get("peak_device_bytes") else "of the process"
    return job.name.removeprefix("train "), f"{bytes_words(_peak(job))} {where}"


def _peak(job: JobRecord) -> int:
    peaks = (job.facts.get(key) for key in ("peak_device_bytes", "peak_resident_bytes"))
    return next((peak for peak in peaks if isinstance(peak, int) and peak > 0), 0)
