"""The JSON of a run, field by field: what `run_json` fills in and what the JSON Schema says.

Version 1. Fields are added, never renamed, removed or given another meaning: a reader must ignore
what it does not know. Numbers that are not finite are null.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ConfigDict, Field

from evalkit.records import BudgetUnit, JobStatus, JsonObject, RepeatKind, VerdictName
from evalkit.report.json.schema_parts import CheckJson, SampleJson, SurvivalJson
from evalkit.report.json.schema_parts import Part as _Part
from evalkit.report.json.schema_steps import EdgeJson, RecommendationJson

SCHEMA = 1


class OutcomesJson(_Part):
    """What became of a task's samples."""

    samples: int
    """How many there were."""
    correct: int
    """How many were right; a sample whose best choices tie exactly is not."""
    tied: int
    """How many had several best choices, exactly equal."""


class MetricJson(_Part):
    """One metric of one variant. Other readings of the same pass may stand beside these."""

    model_config = ConfigDict(extra="allow")

    value: float
    stderr: float | None
    """Standard error of the value, clustered; null where one unit gives none."""
    unit: str
    """'ppl/token', for example."""
    higher_is_better: bool
    n_units: int
    """What variants are paired by: documents, windows or samples."""
    n_clusters: int
    """Groups of units that are independent of each other."""
    n_documents: int | None = None
    n_tokens: int | None = None
    """Tokens that were scored."""
    n_bytes: int | None = None
    """UTF-8 bytes of what was scored."""
    n_words: int | None = None
    n_samples: int | None = None
    """Of a task."""
    n_ties: int | None = None
    """Samples of a task whose best choices tie exactly: none of them is a hit."""
    lm_eval: float | None = None
    """What lm-eval itself reads for a task's metric: other than `value` where choices tie."""
    bits_per_byte: float | None = None
    """Of a perplexity: comparable across tokenizers."""
    word_perplexity: float | None = None
    tokens_per_second: float | None = None
    outcomes: OutcomesJson | None = None
    """Of a task whose samples are kept; null else."""
    comparison: dict[str, str]
    """What two values must share to be compared, by name."""


class RepeatJson(_Part):
    """The same variant measured once more, under a condition that should not matter."""

    kind: RepeatKind
    """`aa`: the same weights in other batches; `seed`: trained with another seed."""
    label: str
    metrics: dict[str, float]
    """The value of each metric."""


class VariantJson(_Part):
    """One variant: its path, what became of it, and everything measured on it."""

    path: list[JsonObject]
    """Normalised steps, each a mapping of one verb to its argument."""
    parent: str | None
    """The nearest ancestor that was scored."""
    edge: str
    """What the steps since the parent do, in words."""
    edge_effects: dict[str, EdgeJson]
    """What those steps did, by metric; of what the parent was scored on too. `divergence`: how
    much further from the reference, which itself has none. Bytes are exact; what is timed has no
    effect here."""
    status: Literal["scored", "failed", "cancelled", "missing"]
    """`missing`: its job never ended."""
    reused_from: str | None
    """The run that computed it, where nothing that it depends on has changed since."""
    error: str | None
    seconds: float | None
    metrics: dict[str, MetricJson]
    """By name: `perplexity`, `perplexity/CORPUS`, `TASK/acc`."""
    repeats: list[RepeatJson]
    survival: float | None
    """The share of the adapter that the path kept; null: not measured."""
    survival_detail: SurvivalJson | None
    """The same in parts; null: not measured."""
    checks: list[CheckJson]
    """What checks of the weights and of the merge found."""
    samples: list[SampleJson]
    """What it wrote after the suite's prompts."""
    cost: dict[str, float]
    """What the variant costs, by name: `disk`, `memory` and `peak_memory` in bytes, `load_seconds`,
    `scoring_speed` and `decode_speed` in tokens a second; `parameters`, `trainable_parameters` and
    `bits_per_weight` of its weights. Empty: not measured."""
    facts: JsonObject
    """What the job recorded about itself: dtype, bytes, times, notes. Not part of the promise."""


class AdapterJson(_Part):
    """The job that trained an adapter."""

    status: JobStatus
    reused_from: str | None
    error: str | None
    seconds: float
    facts: JsonObject
    """What the job recorded about itself. Not part of the promise."""


class VerdictJson(_Part):
    """A gate and what it came to.

    Effects and bounds are fractions of the reference (0.06 = +6 %) where `budget_unit` is
    `relative`, fractions of one for `points`, and in the metric's unit for `absolute`.
    """

    metric: str
    variant: str
    against: str | None
    """The variant that it is compared with, or `baseline`; null for an absolute limit."""
    verdict: VerdictName
    expect: Literal["regressed"] | None
    """`regressed`: the suite documents a known loss."""
    inconclusive: Literal["fail", "warn"]
    """What the gate makes of a result that decides nothing."""
    ok: bool
    warned: bool
    """Ok, and not to be overlooked."""
    effect: float | None
    low: float | None
    """Lower end of the unadjusted two-sided 95 % interval."""
    high: float | None
    budget: float | None
    """The most that is allowed, in the `direction`; null for an absolute limit."""
    budget_unit: BudgetUnit | None
    direction: Literal["increase", "decrease"] | None
    min: float | None
    """An absolute limit."""
    max: float | None
    """An absolute limit."""
    bootstrap_low: float | None
    """The cluster bootstrap's interval: a cross-check, which decides nothing."""
    bootstrap_high: float | None
    p_value: float | None
    """One-sided, of the hypothesis that the effect is not past the budget."""
    p_adjusted: float | None
    """After Holm's adjustment over the gates without `expect`; null for those with it."""
    n_units: int | None
    n_clusters: int | None
    effective_clusters: float | None
    """How many even clusters these are worth."""
    gained: int | None
    """Samples that the reference had wrong and the variant has right."""
    lost: int | None
    mcnemar_p: float | None
    """Exact, two-sided, on `gained` and `lost`; it decides nothing."""
    noise_floor: float | None
    """What scoring the same weights twice may move."""
    training_spread: float | None
    """Standard deviation of the effect between training seeds; null: not in the interval."""
    n_seeds: int | None
    """Seeds behind `training_spread`."""
    message: str
    """Why, and what would settle it or put it right."""
    place: str
    """`file:line` of the gate."""


class BaselineJson(_Part):
    """The promoted run that this one was compared with."""

    name: str
    suite: str
    run: str
    promoted: str
    """ISO 8601, UTC."""
    forced: bool
    """Promoted though a gate of its run was not ok."""
    place: str
    """The file that it was read from; empty: the store's own."""
    digest: str | None = None
    """SHA-256 of that file."""
    relaxed: list[str]
    """Gates that promise less than the baseline's did."""
    sources: list[str] | None = None
    """Code, weights and data that are not the baseline's; null in runs of older versions."""
    differs: list[str]
    """Libraries and devices that are not the baseline's."""


class RunJson(_Part):
    """A run of a suite, as `evalkit run --json FILE` writes it."""

    version: Literal[1] = Field(serialization_alias="schema")
    """The version of this format."""
    run: str
    """The run's id in the store."""
    suite: str
    place: str
    """The suite's file, as it was given."""
    started: str
    """ISO 8601, UTC."""
    seconds: float | None
    """null: the run has not ended."""
    exit_code: int | None
    """0 every gate is ok, 1 one is not, 2 to 4 a job failed, 130 interrupted; null: not ended."""
    sentence: str
    """The verdict in one sentence."""
    variants: dict[str, VariantJson]
    """By name, in the suite's order."""
    adapters: dict[str, AdapterJson]
    """Adapters that were trained, by name."""
    recommendation: RecommendationJson
    pareto_front: list[str]
    """Variants that no other beats in both bytes on the disk and bits per byte, the smallest first;
    empty where fewer than two have both."""
    verdicts: list[VerdictJson]
    """In the suite's order of gates."""
    baseline: BaselineJson | None
    """What gates with `against: baseline` were judged by; null: there was none."""
    arguments: JsonObject
    """The command line: what was given and what was left at its default."""
    provenance: JsonObject
    """Where it ran: git revision, packages, device, digests. Not part of the promise."""


def run_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `run_json`'s answer."""
    schema = RunJson.model_json_schema(by_alias=True, mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:evalkit:run:{SCHEMA}",
        **_without_titles(schema),
        "title": "evalkit run",
    }


def run_schema_text() -> str:
    """The schema as `docs/run.schema.json` holds it and `evalkit report --schema` prints it."""
    return json.dumps(run_schema(), indent=2, ensure_ascii=False) + "\n"


def _without_titles(node: Any) -> Any:
    """The schema without the titles that pydantic makes out of the names of fields."""
    if isinstance(node, dict):
        return {
            key: _without_titles(value)
            for key, value in node.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_without_titles(item) for item in node] if isinstance(node, list) else node
