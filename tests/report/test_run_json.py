"""The JSON of a run: its fields are a promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np

from evalkit.report.json.run import run_json


def test_the_promised_fields(made_up):
    answer = run_json(made_up.run())
    assert answer["schema"] == 1
    assert answer["run"] == "20261121-224455-a3f1"
    assert answer["suite"] == "quickstart"
    assert answer["exit_code"] == 0
    nf4 = answer["variants"]["nf4"]
    assert nf4["path"] == [{"load": "fp16"}, {"quantize": "nf4"}]
    assert nf4["status"] == "scored"
    assert nf4["reused_from"] is None
    assert nf4["survival"] is None
    value = nf4["metrics"]["perplexity"]
    assert value["value"] == 18.86
    assert value["stderr"] == 18.86 * 0.034
    assert value["unit"] == "ppl/token"
    assert value["n_documents"] == 42
    assert isinstance(value["n_tokens"], int)
    assert {"bits_per_byte", "word_perplexity"} <= set(value)


def test_a_verdict_holds_what_was_asked_and_what_was_seen(made_up):
    verdict = run_json(made_up.run())["verdicts"][2]
    assert verdict["verdict"] == "REGRESSED"
    assert verdict["expect"] == "regressed"
    assert verdict["ok"] is True
    assert (verdict["metric"], verdict["variant"], verdict["against"]) == (
        "perplexity", "merged-4bit", "nf4+adapter",
    )  # fmt: skip
    assert (verdict["low"], verdict["effect"], verdict["high"]) == (0.62, 0.667, 0.72)
    assert (verdict["budget"], verdict["budget_unit"]) == (0.01, "relative")


def test_it_survives_json_strictly(made_up, hostile_run):
    for run in (made_up.run(), hostile_run):
        text = json.dumps(run_json(run), allow_nan=False, ensure_ascii=False)
        assert json.loads(text.encode("utf-8")) == run_json(run)


def test_numpy_and_what_is_not_finite(made_up):
    provenance = {"a": np.float32(1.5), "b": np.arange(3), "c": math.nan, "d": (1, {"e": "\ud800"})}
    answer = run_json(made_up.run(provenance=provenance))["provenance"]
    assert answer == {"a": 1.5, "b": [0, 1, 2], "c": None, "d": [1, {"e": "?"}]}


def test_status_of_what_was_not_scored(made_up):
    first, second, third, *rest = made_up.run().variants
    variants = (
        replace(first, job=replace(first.job, status="reused", reused_from="earlier")),
        replace(second, scores={}, job=replace(second.job, status="failed", error="no memory")),
        replace(third, scores={}, job=None),
        *rest,
    )
    answer = run_json(made_up.run(variants=variants))["variants"]
    assert answer["fp16"]["status"] == "scored"
    assert answer["fp16"]["reused_from"] == "earlier"
    assert (answer["nf4"]["status"], answer["nf4"]["error"]) == ("failed", "no memory")
    assert answer["nf4"]["metrics"] == {}
    assert answer["nf4+adapter"]["status"] == "missing"
