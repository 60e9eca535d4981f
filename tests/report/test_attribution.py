"""What each edge of the variant graph did."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evalkit.report.attribution import edge_effects
from evalkit.report.json.run import run_json


def test_each_edge_says_what_its_steps_did(made_up):
    effects = {effect.variant: effect for effect in edge_effects(made_up.run(), "perplexity")}
    assert "fp16" not in effects
    assert set(effects) >= {"nf4", "nf4+adapter", "merged-4bit", "fp16-merged-nf4"}
    merge = effects["merged-4bit"]
    assert (merge.parent, merge.steps) == ("nf4+adapter", "merge")
    assert merge.measured.effect == pytest.approx(18.57 / 11.14 - 1, rel=1e-6)
    assert merge.measured.low < merge.measured.effect < merge.measured.high
    change, interval = merge.words
    assert change == "+66.7 %"
    assert " to " in interval


def test_effects_add_up_along_a_path(made_up):
    run = made_up.run()
    effects = {effect.variant: effect.measured.effect for effect in edge_effects(run, "perplexity")}
    path = ("nf4", "nf4+adapter", "merged-4bit")
    nats = sum(math.log1p(effects[name]) for name in path)
    values = {v.name: v.scores["perplexity"].value for v in run.variants}
    assert math.exp(nats) == pytest.approx(values["merged-4bit"] / values["fp16"], rel=1e-9)


def test_what_cannot_be_compared_has_no_effect(made_up):
    run = made_up.run()
    fp16, nf4, *rest = run.variants
    score = nf4.scores["perplexity"]
    other = replace(score, comparison={**score.comparison, "tokenizer": "another"})
    nf4 = replace(nf4, scores={"perplexity": other})
    found = edge_effects(replace(run, variants=(fp16, nf4, *rest)), "perplexity")
    assert not {"nf4", "nf4+adapter"} & {effect.variant for effect in found}
    assert "merged-4bit" in {effect.variant for effect in found}


def test_the_json_has_them(made_up):
    told = run_json(made_up.run())["variants"]
    assert told["fp16"]["edge_effects"] == {}
    edge = told["merged-4bit"]["edge_effects"]["perplexity"]
    assert edge["effect"] == pytest.approx(18.57 / 11.14 - 1, rel=1e-6)
    assert edge["low"] < edge["effect"] < edge["high"]
    assert edge["unit"] == "relative"
