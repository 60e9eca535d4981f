"""Keys: what can move a number moves its key, and nothing else does."""

import dataclasses

import pytest

from evalkit.machine import Machine
from evalkit.plan import make_plan
from evalkit.plan_keys import TRAINING_PACKAGES, Environment, recipe_key
from evalkit.records import Corpus, Document
from evalkit.sources import Sources, WeightsSource
from evalkit.suite import suite_from_json

SUITE = {
    "name": "keys",
    "model": "./model",
    "data": {"train": "train.jsonl", "test": "test.jsonl"},
    "adapters": {
        "tuned": {
            "on": "nf4",
            "data": "train",
            "lora": {"r": 8},
            "training": {"steps": 10, "seed": 0},
        }
    },
    "variants": ["fp16", "nf4", "nf4+adapter", "merged-4bit"],
    "metrics": {
        "perplexity": {"on": "test", "max_length": 64},
        "divergence": {"on": "test", "reference": "fp16", "max_length": 64},
    },
    "gates": [],
}


def changed(**paths):
    """The suite with leaves changed: data__test__limit=3."""
    import copy

    suite = copy.deepcopy(SUITE)
    for dotted, value in paths.items():
        *parents, leaf = dotted.split("__")
        here = suite
        for parent in parents:
            here = here[parent]
        here[leaf] = value
    return suite


def sources(tmp_path, weights="w", test="t", train="r"):
    def corpus(name, digest):
        return Corpus(name, (Document(id="1", text="x"),), origin="test", digest=digest)

    return Sources(
        weights=WeightsSource("folder", tmp_path, None, "x", weights, "safetensors float32"),
        corpora={"train": corpus("train", train), "test": corpus("test", test)},
        adapters={},
    )


def environment(name="cpu", bf16=True, threads=2, **versions):
    machine = Machine("cpu", name, "", 1, bf16, 2, threads)
    return Environment(machine, {**dict.fromkeys(TRAINING_PACKAGES, "1"), **versions})


def plan(tmp_path, suite=None, where=None, environment_=None):
    loaded = suite_from_json(suite or SUITE, place="keys.yaml")
    return make_plan(loaded, where or sources(tmp_path), environment_ or environment())


def keys(made, adapter="a"):
    digests = made.adapter_digests({"tuned": adapter})
    return {job.variant.name: made.reuse_keys(job, digests) for job in made.scoring}


def test_every_number_has_its_own_key(tmp_path):
    by_variant = keys(plan(tmp_path))
    found = [key for by_metric in by_variant.values() for key in by_metric.values()]
    # Perplexity and costs of four, divergence of all but the reference, survival of one.
    assert len(found) == len(set(found)) == 12
    having = {
        name: [variant for variant, by_metric in by_variant.items() if name in by_metric]
        for name in ("survival", "divergence")
    }
    assert having == {
        "survival": ["merged-4bit"],
        "divergence": ["nf4", "nf4+adapter", "merged-4bit"],
    }


def test_a_package_is_in_the_keys_of_the_paths_that_it_computes(tmp_path):
    suite = changed(variants=["fp16", "torchao-int8", "nf4+adapter", "merged-4bit"])
    before, after = (
        keys(plan(tmp_path, suite, environment_=environment(torchao=version)))
        for version in ("0.18.0", "0.19.0")
    )
    moved = {name for name, by_metric in before.items() if by_metric != after[name]}
    assert moved == {"torchao-int8"}


def test_gguf_is_in_the_keys_where_it_expands_the_base(tmp_path):
    def found(version, kind):
        planned = plan(tmp_path, environment_=environment(gguf=version))
        weights = dataclasses.replace(planned.sources.weights, kind=kind)
        sources = dataclasses.replace(planned.sources, weights=weights)
        spec = planned.suite.adapters["tuned"]
        recipe = recipe_key(spec, planned.suite, sources, planned.environment)
        return recipe, keys(dataclasses.replace(planned, sources=sources))

    assert found("0.19.0", "folder") == found("0.20.0", "folder")
    before, after = found("0.19.0", "gguf"), found("0.20.0", "gguf")
    assert before[0] != after[0]
    assert all(before[1][name] != after[1][name] for name in before[1])


def test_divergence_is_keyed_by_what_its_reference_is_and_not_by_its_name(tmp_path):
    def of_nf4(suite, adapter="a"):
        return keys(plan(tmp_path, suite), adapter)["nf4"]["divergence"]

    before = of_nf4(changed())
    renamed = changed(
        variants=[{"base": [{"load": "fp16"}]}, "nf4", "nf4+adapter", "merged-4bit"],
        metrics__divergence__reference="base",
    )
    assert of_nf4(renamed) == before
    other = changed(metrics__divergence__reference="nf4+adapter")
    assert of_nf4(other) != before
    assert of_nf4(other, "b") != of_nf4(other, "a")
    assert of_nf4(changed(metrics__divergence__tokens=64)) != before


def test_names_and_order_are_in_no_key(tmp_path):
    suite = changed(
        name="other",
        description="words",
        variants=["merged-4bit", {"mine": [{"quantize": "nf4"}]}, "fp16", "nf4+adapter"],
    )
    first, second = keys(plan(tmp_path)), keys(plan(tmp_path, suite))
    assert second["mine"] == first["nf4"]
    assert second["merged-4bit"] == first["merged-4bit"]


@pytest.mark.parametrize(
    "suite",
    [
        changed(metrics__perplexity={"on": "test", "max_length": 32}),
        changed(metrics__perplexity={"on": "test", "max_length": 64, "protocol": "stream"}),
        changed(metrics__perplexity={"on": "test", "max_length": 64, "tokens": 100}),
        changed(data__test={"dataset": "test.jsonl", "max_tokens_per_document": 7}),
        changed(model={"source": "./model", "dtype": "fp32"}),
        changed(model={"source": "./model", "device_map": "auto"}),
    ],
)
def test_what_can_move_a_score_moves_its_key(tmp_path, suite):
    assert keys(plan(tmp_path, suite))["nf4"] != keys(plan(tmp_path))["nf4"]


@pytest.mark.parametrize(
    ("where", "surroundings"),
    [
        ({"weights": "other"}, {}),
        ({"test": "other"}, {}),
        ({}, {"name": "another cpu"}),
        ({}, {"bf16": False}),
        ({}, {"threads": 1}),
        ({}, {"torch": "2"}),
        ({}, {"bitsandbytes": "2"}),
    ],
)
def test_weights_data_device_and_versions_are_in_the_key(tmp_path, where, surroundings):
    other = plan(tmp_path, None, sources(tmp_path, **where), environment(**surroundings))
    assert keys(other)["nf4"] != keys(plan(tmp_path))["nf4"]


def test_a_trainer_version_moves_what_is_trained_not_what_is_scored(tmp_path):
    first, second = plan(tmp_path), plan(tmp_path, environment_=environment(trl="2"))
    assert keys(first) == keys(second)
    assert first.training[0].recipe_key != second.training[0].recipe_key


def test_an_adapter_is_keyed_by_its_content(tmp_path):
    first, second = keys(plan(tmp_path), "a"), keys(plan(tmp_path), "b")
    assert first["nf4"] == second["nf4"]
    assert first["nf4+adapter"] != second["nf4+adapter"]


def test_without_the_adapter_there_is_no_key(tmp_path):
    made = plan(tmp_path)
    job = next(job for job in made.scoring if job.variant.name == "merged-4bit")
    with pytest.raises(KeyError):
        made.reuse_keys(job, {})


@pytest.mark.parametrize(
    "suite",
    [
        changed(adapters__tuned__lora={"r": 16}),
        changed(adapters__tuned__lora={"r": 8, "use_dora": True}),
        changed(adapters__tuned__training={"steps": 11, "seed": 0}),
        changed(adapters__tuned__training={"steps": 10, "seed": 1}),
        changed(adapters__tuned__on="fp4"),
    ],
)
def test_every_field_of_a_recipe_is_in_its_key(tmp_path, suite):
    first, second = plan(tmp_path), plan(tmp_path, suite)
    assert first.training[0].recipe_key != second.training[0].recipe_key


def test_training_data_is_in_the_recipe_and_test_data_is_not(tmp_path):
    recipe = plan(tmp_path).training[0].recipe_key
    assert plan(tmp_path, None, sources(tmp_path, train="x")).training[0].recipe_key != recipe
    assert plan(tmp_path, None, sources(tmp_path, test="x")).training[0].recipe_key == recipe


def test_an_adapter_that_no_variant_attaches_is_not_trained(tmp_path):
    assert plan(tmp_path, changed(variants=["fp16", "nf4"])).training == ()


def test_a_plan_is_plain_data(tmp_path):
    made = plan(tmp_path)
    assert dataclasses.is_dataclass(made)
    assert [job.name for job in made.training] == ["train tuned"]
    assert [job.name for job in made.scoring][2] == "score nf4+adapter"
