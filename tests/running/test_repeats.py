"""Repeats in a plan: which there are, what they are called, and the keys of their numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evalkit.errors import UsageError
from evalkit.machine import Machine
from evalkit.plan import SAMPLES, Plan, make_plan
from evalkit.plan_keys import TRAINING_PACKAGES, Environment
from evalkit.records import Corpus, Document
from evalkit.running.repeats import (
    Noise,
    family_key,
    gated_variants,
    other_batches,
    repeat_keys,
    several_seeds,
    with_repeats,
)
from evalkit.sources import Sources, WeightsSource
from evalkit.suite import PerplexitySpec, suite_from_json

SUITE: dict[str, Any] = {
    "name": "repeats",
    "model": "./model",
    "data": {"train": "train.jsonl", "test": "test.jsonl"},
    "adapters": {
        "tuned": {"on": "nf4", "data": "train", "training": {"steps": 10}},
        "ready": {"from": "./ready"},
    },
    "variants": [
        "fp16",
        "nf4",
        "nf4+tuned",
        {"merged": [{"quantize": "nf4"}, {"attach": "tuned"}, "merge"]},
        "nf4+ready",
    ],
    "metrics": {
        "perplexity": {"on": "test", "max_length": 64},
        "samples": {"prompts": ["Once"], "max_new_tokens": 4},
    },
    "gates": [
        {"metric": "perplexity", "variant": "nf4+tuned", "against": "nf4", "max_increase": "1%"}
    ],
}


def planned(
    *, training: dict[str, Any] | None = None, noise: Noise | None = None, **changes: Any
) -> Plan:
    suite = copy.deepcopy(SUITE) | changes
    if training and "tuned" in suite["adapters"]:
        suite["adapters"]["tuned"]["training"] |= training

    def corpus(name: str) -> Corpus:
        return Corpus(name, (Document(id="1", text="x"),), origin="test", digest=name)

    sources = Sources(
        weights=WeightsSource("folder", Path(), None, "x", "w", "safetensors float32"),
        corpora={"train": corpus("train"), "test": corpus("test")},
        adapters={},
    )
    machine = Machine("cpu", "cpu", "", 1, True, 2, 2)
    versions = dict.fromkeys((*TRAINING_PACKAGES, "lm_eval", "lm-eval"), "1")
    plan = make_plan(
        suite_from_json(suite, place="s.yaml"), sources, Environment(machine, versions)
    )
    return with_repeats(plan, noise)


def names(plan: Plan) -> list[str]:
    return [repeat.name for repeat in plan.repeats]


def test_nothing_is_repeated_unless_it_is_asked_for() -> None:
    for training in ({}, {"seed": 4}, {"seeds": [4]}):
        plan = planned(training=training)
        assert (plan.repeats, plan.retraining) == ((), ())


def test_seeds_of_the_suite_train_and_score_everything_that_attaches_the_adapter() -> None:
    plan = planned(training={"seeds": [3, 5, 8]})
    assert [job.name for job in plan.training] == ["train tuned"]
    assert [job.name for job in plan.retraining] == ["train tuned (seed 5)", "train tuned (seed 8)"]
    assert names(plan) == [
        "score nf4+tuned (seed 5)",
        "score nf4+tuned (seed 8)",
        "score merged (seed 5)",
        "score merged (seed 8)",
    ]
    assert {repeat.kind for repeat in plan.repeats} == {"seed"}
    assert several_seeds(plan.suite) == {"tuned": (5, 8)}


def test_aa_train_draws_two_more_seeds_and_scores_what_gates_name() -> None:
    plan = planned(training={"seed": 2**32 - 1}, noise="train")
    assert [job.name for job in plan.retraining] == ["train tuned (seed 0)", "train tuned (seed 1)"]
    assert names(plan) == ["score nf4+tuned (seed 0)", "score nf4+tuned (seed 1)"]
    ungated = planned(noise="train", gates=[])
    assert "score merged (seed 1)" in names(ungated)


def test_aa_train_leaves_an_adapter_with_seeds_of_its_own_alone() -> None:
    seeds = {"seeds": [0, 1]}
    assert planned(training=seeds, noise="train").repeats == planned(training=seeds).repeats


def test_aa_scores_the_first_variant_that_a_gate_names() -> None:
    (repeat,) = planned(noise="score").repeats
    assert (repeat.name, repeat.kind) == ("score nf4+tuned (A/A)", "aa")
    assert repeat.label == "batches of 1,024 tokens, longest last"
    (first,) = planned(noise="score", gates=[]).repeats
    assert first.job.variant.name == "fp16"


def test_what_cannot_be_repeated_is_refused() -> None:
    without = [v for v in SUITE["variants"] if v in ("fp16", "nf4")]
    with pytest.raises(UsageError, match="trains no adapter"):
        planned(noise="train", variants=without, gates=[])
    only_samples = {"samples": SUITE["metrics"]["samples"]}
    with pytest.raises(UsageError, match="nothing that could be scored twice"):
        planned(noise="score", metrics=only_samples, gates=[])


def test_a_baseline_is_no_variant() -> None:
    gate = {**SUITE["gates"][0], "against": "baseline"}
    assert gated_variants(planned(gates=[gate]).suite) == ["nf4+tuned"]


# ----------------------------------------------------------------------------- keys


def test_a_seed_is_trained_once_whatever_else_the_suite_draws() -> None:
    def recipes(plan: Plan) -> dict[int, str]:
        jobs = (*plan.training, *plan.retraining)
        return {job.spec.training.seed: job.recipe_key for job in jobs if job.spec.training}

    three = recipes(planned(training={"seeds": [0, 1, 2]}))
    assert len(set(three.values())) == 3
    assert three[0] == recipes(planned())[0]
    assert three[1] == recipes(planned(training={"seed": 1}))[1]
    assert three[2] == recipes(planned(training={"seeds": [2, 7]}))[2]
    assert three[1] == recipes(planned(noise="train"))[1]


def test_a_draw_has_the_key_that_its_adapter_has_as_a_variant_of_its_own() -> None:
    plan = planned(training={"seeds": [0, 1]})
    repeat = next(repeat for repeat in plan.repeats if repeat.job.variant.name == "merged")
    own = plan.reuse_keys(repeat.job, {"tuned": "content"})
    keys = repeat_keys(plan, repeat, {"tuned": "content"})
    assert keys == {"perplexity": own["perplexity"]}
    assert SAMPLES in own
    assert repeat_keys(plan, repeat, {"tuned": "other"}) != keys


def test_an_aa_score_never_takes_the_place_of_the_first() -> None:
    plan = planned(noise="score")
    keys = repeat_keys(plan, plan.repeats[0], {"tuned": "content"})
    own = plan.reuse_keys(plan.repeats[0].job, {"tuned": "content"})
    assert set(keys) == {"perplexity"}
    assert keys["perplexity"] != own["perplexity"]


def test_a_family_is_a_recipe_but_for_its_seed() -> None:
    def family(**changes: Any) -> str:
        plan = planned(**changes)
        return family_key(plan, plan.training[0])

    plan = planned(training={"seeds": [0, 1, 2]})
    families = {family_key(plan, job) for job in (*plan.training, *plan.retraining)}
    assert families == {family()} == {family(training={"seed": 9})}
    assert family(training={"steps": 11}) != family()
    assert family() != planned().training[0].recipe_key


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "other"}, True),
        ({"training": {"steps": 11}}, True),
        ({"metrics": {"perplexity": {"on": "test", "max_length": 32}}}, False),
        ({"metrics": {"perplexity": {"on": "train", "max_length": 64}}}, False),
        ({"model": {"source": "./model", "dtype": "fp32"}}, False),
    ],
)
def test_a_floor_holds_for_the_measure_and_the_dtype(changes: dict[str, Any], same: bool) -> None:
    def key(plan: Plan, variant: str) -> str:
        job = next(job for job in plan.scoring if job.variant.name == variant)
        return plan.floor_keys(job)["perplexity"]

    assert (key(planned(**changes), "nf4") == key(planned(), "nf4")) == same


def test_a_floor_holds_for_every_variant_computed_alike() -> None:
    plan = planned(variants=[*SUITE["variants"], {"precise": [{"load": "fp32"}]}])
    keys = {job.variant.name: plan.floor_keys(job)["perplexity"] for job in plan.scoring}
    assert keys.pop("precise") not in keys.values()
    assert len(set(keys.values())) == 1


@pytest.mark.parametrize(
    ("batch", "length", "other"),
    [(4096, 1024, 1024), (4096, 512, 1024), (512, 512, 2048), (2, 1024, 8), (1100, 1024, 275)],
)
def test_other_batches_differ_in_what_they_hold(batch: int, length: int, other: int) -> None:
    spec = PerplexitySpec(on="test", max_length=length, batch_tokens=batch)
    changed = other_batches(spec)
    assert changed.batch_tokens == other
    assert changed.model_copy(update={"batch_tokens": batch}) == spec
