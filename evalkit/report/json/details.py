"""Parts of a variant's JSON that take working out: survival by layer, checks, samples."""

from __future__ import annotations

from evalkit.records import SURVIVAL, JsonObject, RunRecord, VariantRecord
from evalkit.records.integrity import ModuleSurvival, Survival
from evalkit.report.checks import findings_of
from evalkit.report.samples_view import first_difference, reference_sample


def survival_json(variant: VariantRecord) -> JsonObject | None:
    """What a merge kept, whole and in parts; None where it was not measured."""
    score = variant.scores.get(SURVIVAL)
    if score is None:
        return None
    survival = Survival(score.modules)
    readings = ("mean", "relative_error", "relative_size", "changed_share")
    return {
        "total": float(score.value),
        **{name: score.extra.get(name) for name in readings},
        "by_layer": _parts(survival.by_layer()),
        "by_kind": _parts(survival.by_kind()),
    }


def checks_json(run: RunRecord, variant: VariantRecord) -> list[JsonObject]:
    """What each check of a variant found."""
    return [
        {"check": finding.check, "ok": finding.ok, "message": finding.message}
        for finding in findings_of(run, variant)
    ]


def samples_json(run: RunRecord, variant: VariantRecord) -> list[JsonObject]:
    """What a variant wrote, and where it leaves the reference."""
    answer: list[JsonObject] = []
    for sample in variant.samples:
        found = reference_sample(run, sample.prompt)
        differs = None
        if found is not None and found[0] != variant.name:
            differs = first_difference(sample, found[1])
        answer.append({"prompt": sample.prompt, "text": sample.text, "first_difference": differs})
    return answer


def _parts(parts: dict[str, ModuleSurvival]) -> dict[str, float | None]:
    return {name: part.survival for name, part in parts.items()}
