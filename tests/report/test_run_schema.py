"""The published JSON Schema: current, valid, and true of what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from evalkit.records import Repeat, SampleOutcome, Score
from evalkit.report.json.run import run_json
from evalkit.report.json.schema import run_schema, run_schema_text

PUBLISHED = Path(__file__).parents[2] / "docs" / "run.schema.json"

# Schema 1 as it was first published. Names are added here, never taken away.
PROMISED = {
    "": "schema run suite started seconds exit_code sentence variants adapters verdicts arguments "
    "provenance place",
    "VariantJson": "path parent edge status reused_from error seconds metrics survival facts "
    "repeats edge_effects cost survival_detail checks samples",
    "SurvivalJson": "total mean relative_error relative_size changed_share by_layer by_kind",
    "CheckJson": "check ok message",
    "SampleJson": "prompt text first_difference",
    "MetricJson": "value stderr unit higher_is_better n_units n_clusters comparison n_documents "
    "n_tokens n_bytes n_words bits_per_byte word_perplexity tokens_per_second outcomes",
    "VerdictJson": "metric variant against verdict expect ok warned effect low high budget "
    "budget_unit direction min max bootstrap_low bootstrap_high p_value p_adjusted n_units "
    "n_clusters effective_clusters message place inconclusive gained lost mcnemar_p noise_floor "
    "training_spread n_seeds",
    "AdapterJson": "status reused_from error seconds facts",
}


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def task_score():
    outcomes = (
        SampleOutcome("0", "0", True, (-1.0, -2.0)),
        SampleOutcome("1", None, False, (-1.0, -1.0), tied=True),
        SampleOutcome("1", "0", False, (-1.0, -2.0)),
    )
    return Score(
        "task/acc", "mean", 1 / 3, 0.3, "share", True, ("a", "b", "c"), ("a", "b", "c"),
        np.array([1.0, 0.0, 0.0]), np.ones(3), extra={"ties": 1.0}, outcomes=outcomes,
    )  # fmt: skip


def test_the_published_schema_is_current():
    text = PUBLISHED.read_text(encoding="utf-8")
    assert text == run_schema_text(), "run: python docs/generate_run_schema.py"


def test_a_run_is_valid(made_up, validator):
    validator.validate(run_json(made_up.run()))


def test_a_run_with_all_that_can_be_measured_is_valid(made_up, validator):
    validator.validate(run_json(made_up.detailed()))


def test_a_run_with_tasks_repeats_and_flips_is_valid(made_up, validator):
    first, *rest = made_up.run().variants
    repeat = Repeat("seed", "seed 1", first.scores)
    scores = {**first.scores, "task/acc": task_score()}
    verdict = replace(
        made_up.run().verdicts[0], gained=3, lost=5, mcnemar_p=0.7, noise_floor=0.001,
        training_spread=0.01, n_seeds=3,
    )  # fmt: skip
    run = made_up.run(
        variants=(replace(first, scores=scores, repeats=(repeat,)), *rest), verdicts=(verdict,)
    )
    answer = run_json(run)
    validator.validate(answer)
    assert answer["verdicts"][0]["gained"] == 3
    assert answer["verdicts"][0]["training_spread"] == 0.01
    assert answer["variants"]["fp16"]["repeats"] == [
        {"kind": "seed", "label": "seed 1", "metrics": {"perplexity": 14.59}}
    ]
    task = answer["variants"]["fp16"]["metrics"]["task/acc"]
    assert task["outcomes"] == {"samples": 3, "correct": 1, "tied": 1}
    assert task["ties"] == 1.0


def test_a_run_that_came_to_nothing_is_valid(made_up, hostile_run, validator):
    first, *rest = made_up.run().variants
    variants = (replace(first, scores={}, job=None), *rest)
    validator.validate(
        run_json(made_up.run(variants=variants, verdicts=(), seconds=None, exit_code=None))
    )
    validator.validate(run_json(hostile_run))


def test_the_schema_refuses_what_is_no_run(made_up, validator):
    good = run_json(made_up.run())
    for broken in (
        {**good, "schema": 2},
        {key: value for key, value in good.items() if key != "verdicts"},
        {**good, "verdicts": [{**good["verdicts"][0], "verdict": "FINE"}]},
        {**good, "exit_code": "0"},
    ):
        assert not validator.is_valid(broken)


def test_readers_must_expect_new_fields(made_up, validator):
    answer = run_json(made_up.run())
    answer["added_later"] = 1
    answer["verdicts"][0]["added_later"] = 1
    validator.validate(answer)


@pytest.mark.parametrize("part", PROMISED)
def test_no_field_was_taken_away(part):
    schema = run_schema()
    node = schema["$defs"][part] if part else schema
    assert set(PROMISED[part].split()) <= set(node["properties"])
