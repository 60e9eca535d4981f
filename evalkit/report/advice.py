"""The one variant to ship, why, and the command that writes it: made from records alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records import SURVIVAL, RunRecord, VariantRecord
from evalkit.report.costs import disk_words
from evalkit.report.facts import (
    needs_adapter,
    primary_metric,
    reference_of,
    standing,
    storage_bits,
)
from evalkit.report.recommendation import SAME_SIZE, able_to_ship, smallest
from evalkit.report.trade_off import bits_per_byte
from evalkit.report.words import clean, figure, joined, metric_words, percent, score_figure


@dataclass(frozen=True)
class Advice:
    """What to ship."""

    variant: str | None
    """None: no variant passes all its gates."""
    reasons: tuple[str, ...]
    """Plain text, at least one; names in it are untrusted."""
    command: str | None
    """For a shell, its names quoted; None where there is nothing to write, or no way to."""

    @property
    def words(self) -> str:
        """'Recommended: fp16-merged-nf4 – passes its gates; 92.2 MB on disk, …'."""
        told = f"{'; '.join(self.reasons)}."
        words = told if self.variant is None else f"Recommended: {self.variant} – {told}"
        return clean(words).replace("\n", " ")


def advice(run: RunRecord) -> Advice:
    """The smallest variant that passes its gates, by the rules of `evalkit.report.recommendation`.

    In a run with a gate that is not ok, a variant that no gate judges is no answer.
    """
    all_ok = all(verdict.ok for verdict in run.verdicts)
    metric = primary_metric(run)
    able = able_to_ship(run) if run.verdicts else []
    if not all_ok:
        able = [variant for variant in able if standing(run, variant.name) == "passes"]
    if metric is None or not able:
        return Advice(None, (_why_none(run),), None)
    chosen = smallest(able, metric)
    best = chosen[0]
    reasons = [
        _standing(run, best),
        _size(best, chosen[1:], n_able=len(able)),
        _kept(best),
        _quality(run, best),
        "" if all_ok else "other gates of the run are not ok",
    ]
    command = _export_command(run, best) if _is_exportable(run, best) else None
    if command is None:
        reasons.append("it cannot be exported: end its path with `merge`")
    return Advice(best.name, tuple(filter(None, reasons)), command)


def _why_none(run: RunRecord) -> str:
    if not run.verdicts:
        return "No gate was judged, so nothing says which variant may be shipped"
    if any(standing(run, variant.name) == "passes" for variant in run.variants):
        return "No variant that passes its gates gains from its adapter"
    return "No variant passes all its gates"


def _standing(run: RunRecord, variant: VariantRecord) -> str:
    if standing(run, variant.name) == "passes":
        return "passes its gates"
    return "has no gate of its own, and others are measured against it"


def _size(best: VariantRecord, equals: list[VariantRecord], *, n_able: int) -> str:
    size = disk_words(best) or f"{storage_bits(best.path)} bits a weight"
    if n_able == 1:
        return f"{size}, and nothing else may be shipped"
    if not equals:
        return f"{size}, the smallest of those that may be shipped"
    names = joined([variant.name for variant in equals])
    within = f", within {SAME_SIZE * 100:g} %," if "disk" in best.scores else ""
    handier = not needs_adapter(best.path) and needs_adapter(equals[0].path)
    why = "needs no adapter beside it" if handier else "scores better"
    return f"{size}, as small as {names}{within} and {why}"


def _kept(variant: VariantRecord) -> str:
    score = variant.scores.get(SURVIVAL)
    return f"keeps {percent(score.value)} of the adapter" if score is not None else ""


def _quality(run: RunRecord, variant: VariantRecord) -> str:
    """'bits/byte 1.020 against 1.074 of fp16'."""
    metric = primary_metric(run)
    reference = reference_of(run, metric) if metric else None
    if metric is None or reference is None or reference.name == variant.name:
        return ""
    score, other = variant.scores[metric], reference.scores[metric]
    bits, others = bits_per_byte(score), bits_per_byte(other)
    if bits is not None and others is not None:
        return f"bits/byte {figure(bits)} against {figure(others)} of {reference.name}"
    value, against = (score_figure(each.value, each.unit) for each in (score, other))
    return f"{metric_words(metric)} {value} against {against} of {reference.name}"


def _is_exportable(run: RunRecord, variant: VariantRecord) -> bool:
    """Whether one folder can hold it.

    An adapter on top must not need group4 weights; several become one, if each is plain LoRA.
    """
    on_top: list[str] = []
    for step in variant.path:
        if "attach" in step:
            on_top.append(str(step["attach"]))
        elif "merge" in step:
            on_top.clear()
    shapes = [_lora(run, name) for name in on_top]
    if any(shape.get("flavour") == "qa-lora" for shape in shapes):
        return False
    return len(shapes) < 2 or not any(
        shape.get("use_dora") or shape.get("bias", "none") != "none" for shape in shapes
    )


def _lora(run: RunRecord, adapter: str) -> Mapping[str, object]:
    """What the suite says of an adapter's shape; nothing of one from elsewhere."""
    found: object = run.suite_json
    for key in ("adapters", adapter, "lora"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _export_command(run: RunRecord, variant: VariantRecord) -> str:
    folder = re.sub(r"[^\w.+-]+", "-", variant.name).strip(".-") or "model"
    named, of_run = [variant.name, f"./{folder}"], ["--run", run.id]
    # A name that starts with a dash would be read as an option.
    words = [*of_run, "--", *named] if variant.name.startswith("-") else [*named, *of_run]
    return f"evalkit export {shlex.join(words)}"
