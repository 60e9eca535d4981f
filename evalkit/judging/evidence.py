"""From a run's record to the evidence that its gates are judged by. Pure."""

from __future__ import annotations

from evalkit.judging.gates import Evidence
from evalkit.judging.noise import floors_of
from evalkit.judging.training_spread import averaged_variants
from evalkit.records import Baseline, RunRecord


def evidence_of(
    record: RunRecord, *, baseline: Baseline | None = None, promote: str = ""
) -> Evidence:
    """Everything that a run knows of its gates.

    Args:
        record: a run as the store has it.
        baseline: what gates with `against: baseline` are judged by.
        promote: the command that promotes this run, for gates that find no baseline.
    """
    trained = {job.name.removeprefix("train ") for job in record.adapters}
    return Evidence(
        scores={variant.name: variant.scores for variant in record.variants},
        errors={
            variant.name: variant.job.error
            for variant in record.variants
            if variant.job is not None and variant.job.error is not None
        },
        trained={
            variant.name
            for variant in record.variants
            if any(step.get("attach") in trained for step in variant.path)
        },
        repeats={variant.name: variant.repeats for variant in record.variants},
        averaged=averaged_variants(record),
        floors=floors_of(record),
        baseline=baseline,
        promote=promote,
    )
