"""The suite's rules: what each part may be, what refers to what, and how errors are told."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from evalkit.errors import SuiteError
from evalkit.paths import Attach, Dequantize, Load, Merge, Quantize
from evalkit.records import Budget
from evalkit.suite import (
    AdapterSpec,
    DataSpec,
    LoraSpec,
    ModelSpec,
    PerplexitySpec,
    TrainingSpec,
    load_suite,
    suite_from_json,
)
from evalkit.suite.fields import Optimizer, Scheduler

BASE = """\
name: small
model: some/model
data:
  train: train.jsonl
  test: {dataset: test.jsonl}
adapters:
  mine: {on: nf4, data: train, training: {steps: 3}}
variants: [fp16, nf4, nf4+adapter, merged-4bit]
metrics:
  perplexity: {on: test}
gates: []
"""


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads BASE, or another text, with `--set` arguments."""

    def _load(*overrides, text=BASE):
        path = tmp_path / "suite.yaml"
        path.write_text(text, encoding="utf-8")
        return load_suite(path, overrides=overrides)

    return _load


@pytest.fixture
def problems(load):
    """Returns a function that gives a wrong suite's problems as 'where: what'."""

    def _problems(*overrides, text=BASE):
        with pytest.raises(SuiteError) as error:
            load(*overrides, text=text)
        assert all(problem.place for problem in error.value.problems)
        return [f"{problem.where}: {problem.what}" for problem in error.value.problems]

    return _problems


def test_a_suite_becomes_paths_gates_and_specs(load):
    suite = load(
        "gates=[{metric: perplexity, variant: nf4, against: fp16, max_increase: 10%}]",
        "model.dtype=bf16",
    )
    assert suite.model == ModelSpec(source="some/model", dtype="bf16")
    assert [variant.name for variant in suite.variants] == [
        "fp16", "nf4", "nf4+adapter", "merged-4bit",
    ]  # fmt: skip
    nf4 = Quantize("nf4", double_quant=True, compute_dtype="bf16")
    assert suite.variants[3].path == (Load("bf16"), nf4, Attach("mine"), Merge())
    assert suite.adapters["mine"].on_path == (Load("bf16"), nf4)
    assert suite.adapters["mine"].lora == LoraSpec()
    assert suite.adapters["mine"].method == "lora"
    assert suite.gates[0].max_increase == Budget(0.1, "relative")
    assert dict(suite.metrics.perplexity) == {"perplexity": PerplexitySpec(on="test")}


def test_models_are_frozen():
    with pytest.raises(ValidationError):
        LoraSpec().r = 3  # type: ignore[misc]


# --- names and numbers


def test_yaml_1_2_keys_and_scalars_mean_what_they_say(load):
    suite = load(
        "model={source: 123/456, revision: 12345678}",
        "data.test={dataset: x/y, config: no, revision: 0012, split: on}",
        "adapters.mine.training.learning_rate=2e-4",
    )
    assert suite.model.revision == "12345678"
    assert suite.data["test"].revision == "0012"
    assert (suite.data["test"].config, suite.data["test"].split) == ("no", "on")
    assert suite.adapters["mine"].training.learning_rate == 2e-4


def test_digits_with_an_e_are_a_revision_too(load):
    assert load("model={source: a/b, revision: 1e10}").model.revision == "1e10"
    assert load("model={source: a/b, revision: 0x1F}").model.revision == "0x1F"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("name=two words", "name: 'two words' is no name"),
        ("name=../up", "name: '../up' is no name"),
        ("name=[a]", "name: must be text, not a list"),
        ("name=null", "name: missing"),
        ("model.dtype=fp15", "model.dtype: cannot be 'fp15' (did you mean 'fp16'?)"),
        ("model.source=''", "model.source: must not be empty"),
        ('model.source="a\\0b"', "model.source: has characters that are not text"),
        ('model.source="\\ud800"', "model.source: has characters that are not text"),
        ("model.trust_remote_code=yes", "model.trust_remote_code: must be true or false, not yes"),
        ("model=[a]", "model: must be a mapping of keys, not a list"),
        ("model.gpus=2", "model.gpus: spreads the model: say also how, as in 'device_map: auto'"),
        ("model.device_map=atuo", "model.device_map: cannot be 'atuo' (did you mean 'auto'?)"),
        ("requires.memory=lots", "requires.memory: 'lots' is no amount of memory"),
        ("requires.memory=true", "requires.memory: must be a whole number, not true"),
        ("requires.device=gpu", "requires.device: cannot be 'gpu'"),
        ("data.a.b=x", "data.a.dataset: missing"),
        ("data={a.b: x}", "data.a.b: 'a.b' is no name"),
        ("data=[x]", "data: must be a mapping of keys, not a list"),
        ("data.test.limit=0", "data.test.limit: must be at least 1, not 0"),
        ("data.test.limit=3.5", "data.test.limit: must be a whole number, not 3.5"),
        ("data.test.splt=x", "data.test.splt: unknown key (did you mean 'split'?)"),
        ("data.test.prompt=p", "data.test: prompt and completion go together"),
        ("data.test={dataset: x, prompt: p, completion: c, messages: m}", "goes without prompt"),
        ("metrics.samples.prompts=[]", "metrics.samples.prompts: must not be empty"),
        ("metrics.samples.prompts=hello", "metrics.samples.prompts: must be a list, not hello"),
        ("metrics.perplexity=null", "metrics: nothing is measured"),
        ("metrics=null", "metrics: nothing is measured"),
        ("variants=[]", "variants: must be a list of at least one variant"),
        ("variants=fp16", "variants: must be a list of at least one variant"),
        ("gates=x", "gates: must be a list of gates, not x"),
        ("place=x", "place: unknown key (allowed: name, description, model"),
    ],
)
def test_bad_values(problems, override, problem):
    assert any(problem in found for found in problems(override)), problems(override)


def test_unknown_keys_name_the_nearest_and_all_allowed(problems):
    text = BASE.replace("model:", "mdoel:").replace("data: train,", "data: train, extra: 1,")
    assert "mdoel: unknown key (did you mean 'model'?) (allowed: name, description, model" in (
        "\n".join(problems(text=text))
    )
    assert any("extends" in found for found in problems("extend=x.yaml"))


def test_memory(load):
    assert load("requires.memory=24GB").requires.memory == 24 * 10**9
    assert load("requires.memory=1.5 GiB").requires.memory == 3 * 2**29
    assert load("requires.memory=1024").requires.memory == 1024


# --- all at once, with file and line


def test_every_mistake_is_reported_in_the_files_order_with_its_line(load, tmp_path):
    text = """\
name: small
model: {source: some/model, dtype: fp15}
data: {test: test.jsonl}
adapters:
  mine:
    on: nf5
    data: tset
    training: {steps: three}
variants:
  - fp16
  - fp16
  - merged: [{quantise: nf4}, merge]
  - odd:
      - attach: mine
      - dequantize: fp16
metrics:
  perplexity: {on: tets}
gates:
  - {metric: perplexity, variant: fp61, max: 3}
"""
    with pytest.raises(SuiteError) as error:
        load("requires.memory=lots", text=text)
    file = tmp_path / "suite.yaml"
    assert [(p.place, p.where) for p in error.value.problems] == [
        (f"{file}:2", "model.dtype"),
        (f"{file}:6", "adapters.mine.on"),
        (f"{file}:7", "adapters.mine.data"),
        (f"{file}:8", "adapters.mine.training.steps"),
        (f"{file}:11", "variants.1"),
        (f"{file}:12", "variants.2.merged.0"),
        (f"{file}:15", "variants.3.odd.1"),
        (f"{file}:17", "metrics.perplexity.on"),
        (f"{file}:19", "gates.0.variant"),
        ("--set requires.memory=lots", "requires.memory"),
    ]
    assert str(error.value.problems[5]) == (
        f"{file}:12: variants.2.merged.0: unknown step 'quantise' (did you mean 'quantize'?) "
        "(allowed: load, quantize, dequantize, attach, merge)"
    )


# --- variants


@pytest.mark.parametrize(
    ("variants", "problem"),
    [
        ("[fp16, fp16]", "variants.1: there is a variant named 'fp16' already"),
        ("[fp16, fp16: [load: bf16]]", "variants.1: there is a variant named 'fp16' already"),
        ("[merged-4bits]", "unknown preset 'merged-4bits' (did you mean 'merged-4bit'?)"),
        ("[nf4+yours]", "variants.0: unknown preset 'nf4+yours'"),
        ("[{a: [merge]}]", "variants.0.a.0: merge with nothing attached"),
        ("[{a: [load: fp16, merge]}]", "variants.0.a.1: merge with nothing attached"),
        ("[{a: [dequantize]}]", "variants.0.a.0: dequantize of weights that are not quantised"),
        ("[{a: []}]", "variants.0.a: a path needs at least one step"),
        ("[{a: 3}]", "variants.0.a: unknown preset '3'"),
        ("[{a: {load: fp16}}]", "variants.0.a: must be a preset's name or a list of steps"),
        ("[{a: [attach: yours]}]", "variants.0.a.0: unknown adapter 'yours' (allowed: mine)"),
        ("[{a: nf4, b: nf4}]", "variants.0: must be a preset's name, or one name with its path"),
        ("[null]", "variants.0: must be a preset's name, or one name with its path"),
        ("[{a/b: nf4}]", "variants.0.a/b: 'a/b' is no name"),
    ],
)
def test_bad_variants(problems, variants, problem):
    assert any(found.startswith(problem) or problem in found for found in problems(
        f"variants={variants}"
    ))  # fmt: skip


@pytest.mark.parametrize("variants", ["variants=[]", "variants=fp16", "variants.0=fp16"])
def test_without_variants_nothing_is_said_of_what_refers_to_them(problems, variants):
    gates = "gates=[{metric: perplexity, variant: nf4, against: fp16, max_increase: 1%}]"
    divergence = "metrics.divergence={on: test, reference: fp16}"
    (found,) = problems(variants, gates, divergence)
    assert found == "variants: must be a list of at least one variant"


def test_a_variant_may_rename_a_preset_and_number_its_modules(load):
    suite = load("variants=[{deployed: nf4}, {'4': [quantize: {type: nf4, skip_modules: [7]}]}]")
    assert [variant.name for variant in suite.variants] == ["deployed", "4"]
    assert suite.variants[1].path[1].skip_modules == ("7",)


# --- adapters


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        ("{data: train, training: {steps: 1}}", "adapters.mine.on: missing"),
        ("{on: nf4, training: {steps: 1}}", "adapters.mine.data: missing"),
        ("{on: nf4, data: train}", "adapters.mine.training: missing"),
        ("{lora: {r: 8}}", "adapters.mine: give either 'from', or 'on', 'data' and 'training'"),
        ("{on: nf4, data: tain, training: {steps: 1}}", "(did you mean 'train'?)"),
        ("{on: nf4, data: train, training: {}}", "training: give either steps or epochs"),
        ("{on: nf4, data: train, training: {steps: 1, epochs: 1}}", "either steps or epochs"),
        ("{on: nf4+adapter, data: train, training: {steps: 1}}", "weights with nothing attached"),
        ("{on: [attach: mine], data: train, training: {steps: 1}}", "adapters.mine.on.0: an adap"),
        ("{on: [dequantize], data: train, training: {steps: 1}}", "adapters.mine.on.0: dequantize"),
        ("{on: nf4, data: train, training: {steps: 1, method: full}}", "needs 16- or 32-bit"),
        ("{on: fp16, data: train, lora: {r: 1}, training: {steps: 1, method: full}}", "goes with"),
        ("{on: nf4, data: train, training: {steps: 1}, revision: x}", "goes with 'from'"),
        ("{from: a/b, data: train}", "adapters.mine.data: goes without 'from'"),
        ("{from_: a/b}", "adapters.mine.from_: unknown key (did you mean 'from'?)"),
        ("{on_path: nf4}", "adapters.mine.on_path: unknown key"),
        ("{on: nf4, data: train, training: {steps: 1, completion_only: true}}", "has neither"),
        ("{on: nf4, data: train, training: {steps: 1, warmup: 1.5}}", "warmup: must be a share"),
        ("{on: nf4, data: train, training: {steps: 1, optimizer: adamw}}", "optimizer: cannot be"),
        ("{on: nf4, data: train, training: {steps: 1, seed: -1}}", "seed: must be at least 0"),
        ("{on: nf4, data: train, training: {steps: 1, learning_rate: .inf}}", "more than 0"),
        ("{on: nf4, data: train, lora: {target_modules: all}, training: {steps: 1}}", "all-linea"),
        ("{on: nf4, data: train, lora: {target_modules: []}, training: {steps: 1}}", "all-linear"),
        ("{on: nf4, data: train, lora: {dropout: 1}, training: {steps: 1}}", "less than 1"),
        ("{on: nf4, data: train, lora: {flavour: qalora}, training: {steps: 1}}", "'qa-lora'?"),
        ("{on: nf4, data: train, lora: {flavour: qa-lora}, training: {steps: 1}}", "'on: group4'"),
        ("{on: fp16, data: train, lora: {init: loftq}, training: {steps: 1}}", "as in 'on: nf4'"),
        (
            "{on: group4, data: train, lora: {flavour: qa-lora, use_dora: true}, "
            "training: {steps: 1}}",
            "lora.use_dora: goes without 'flavour: qa-lora'",
        ),
        (
            "{on: group4, data: train, lora: {flavour: qa-lora, init: pissa}, "
            "training: {steps: 1}}",
            "lora.init: goes without 'flavour: qa-lora'",
        ),
        (
            "{on: nf4, data: train, lora: {use_dora: true, init: pissa}, training: {steps: 1}}",
            "lora.init: cannot be pissa with use_dora",
        ),
    ],
)
def test_bad_adapters(problems, adapter, problem):
    text = BASE.replace("{on: nf4, data: train, training: {steps: 3}}", adapter)
    if "learning_rate: .inf" in adapter:
        problem = "learning_rate: must be a finite number"
    assert any(problem in found for found in problems(text=text)), problems(text=text)


def test_adapters_from_elsewhere_and_whole_models(load):
    suite = load("adapters.there={from: org/adapter, revision: 00ff}", "variants=[nf4+there]")
    assert suite.adapters["there"].from_ == "org/adapter"
    assert suite.adapters["there"].revision == "00ff"
    assert suite.adapters["there"].lora is None
    whole = "adapters={w: {on: fp16, data: train, training: {method: full, epochs: 0.5}}}"
    suite = load(whole, "variants=[{w: [attach: w]}]")
    assert suite.adapters["w"].method == "full"
    assert suite.adapters["w"].lora is None


@pytest.mark.parametrize(
    ("on", "lora", "kind"),
    [
        ("group4", "{flavour: qa-lora}", "qa-lora"),
        ("[quantize: {type: group4, group_size: 32}]", "{flavour: qa-lora}", "qa-lora"),
        ("nf4", "{init: loftq}", "loftq"),
        ("nf4", "{init: pissa}", "pissa"),
        ("nf4", "{r: 4}", "lora"),
    ],
)
def test_paths_know_what_an_adapter_is(load, problems, on, lora, kind):
    adapter = f"adapters={{a: {{on: {on}, data: train, lora: {lora}, training: {{steps: 1}}}}}}"
    assert load(adapter, "variants=[fp16]").adapters["a"].method == kind
    merging = "variants=[{v: [quantize: group4, attach: a, merge]}]"
    if kind == "qa-lora":
        load(adapter, merging)
        (found,) = problems(adapter, "variants=[nf4+a]")
        assert "'a' is a QA-LoRA adapter" in found
    else:
        (found,) = problems(adapter, merging)
        assert found.startswith("variants.0.v.2: 'a' cannot be merged into group4 weights")


def test_what_a_ready_made_adapter_is_shows_when_it_is_attached(load):
    ready = "adapters={a: {from: ./a}}"
    load(ready, "variants=[{v: [quantize: group4, attach: a, merge]}, nf4+a]")


def test_target_modules_may_be_a_list(load):
    suite = load("adapters.mine.lora.target_modules=[q_proj, v_proj]")
    assert suite.adapters["mine"].lora.target_modules == ("q_proj", "v_proj")


def test_several_adapters_are_picked_by_name(load, problems):
    second = "adapters.other={from: ./other}"
    assert load(second, "variants=[nf4+other]").variants[0].path[-1] == Attach("other")
    (found,) = problems(second, "variants=[nf4+adapter]")
    assert "use one of 'nf4+mine', 'nf4+other'" in found


# --- metrics


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["metrics.perplexity.on=tets"], "perplexity.on: unknown data 'tets' (did you mean 'test'"),
        (["metrics.perplexity.protocol=stram"], "cannot be 'stram' (did you mean 'stream'?)"),
        (["metrics.perplexity.stride=5"], "stride: goes with 'protocol: stream'"),
        (
            ["metrics.perplexity={on: test, protocol: stream, max_length: 8, stride: 9}"],
            "stride: must be at most max_length, 8",
        ),
        (["metrics.perplexity={on: test, protocol: chunks, max_length: 5}"], "even number from 4"),
        (["metrics.perplexity.max_length=1"], "max_length: must be at least 2"),
        (["metrics.perplexity.score_on=completion"], "has neither prompt and completion nor mess"),
        (
            ["metrics.perplexity={on: test, protocol: stream}", "data.test.cluster=c"],
            "stream joins all documents, and cluster of data 'test' goes with documents only",
        ),
        (
            ["metrics.perplexity={on: test, protocol: chunks}", "data.test.messages=m",
             "metrics.perplexity.score_on=completion"],
            "completion goes with 'protocol: documents'",
        ),
        (["metrics.perplexity={a b: {on: test}}"], "perplexity.a b: 'a b' is no name"),
        (["metrics.perplexity={a: {on: tets}, b: {on: test}}"], "metrics.perplexity.a.on: unknown"),
        (["metrics.perplexity.on=null"], "metrics.perplexity.on: missing"),
        (["metrics.perplexity=test"], "metrics.perplexity: must be a mapping of keys, not test"),
    ],
)  # fmt: skip
def test_bad_metrics(problems, overrides, problem):
    assert any(problem in found for found in problems(*overrides)), problems(*overrides)


def test_several_corpora_have_full_names(load):
    suite = load(
        "metrics.perplexity={in: {on: train}, out: {on: test, protocol: stream}}",
        "gates=[{metric: perplexity/out, variant: nf4, max: 30}]",
    )
    assert list(suite.metrics.perplexity) == ["perplexity/in", "perplexity/out"]
    assert suite.metrics.perplexity["perplexity/out"].stride == 512
    assert suite.gates[0].maximum == 30


# --- gates


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ("{variant: nf4, max: 3}", "gates.0.metric: missing"),
        ("{metric: perplexty, variant: nf4, max: 3}", "(did you mean 'perplexity'?)"),
        ("{metric: bits_per_byte, variant: nf4, max: 3}", "same losses as perplexity: gate that"),
        ("{metric: perplexity, variant: nf5, max: 3}", "gates.0.variant: unknown variant 'nf5'"),
        ("{metric: perplexity, variant: nf4, against: x, max_increase: 1%}", "unknown variant 'x'"),
        ("{metric: perplexity, variant: nf4, against: nf4, max_increase: 1%}", "variant itself"),
        ("{metric: perplexity, variant: nf4, against: fp16}", "exactly one of max_increase, max_"),
        ("{metric: perplexity, variant: nf4, min: 1, max: 3}", "not min and max"),
        ("{metric: perplexity, variant: nf4, max_increase: 1%}", "max_increase needs 'against'"),
        ("{metric: perplexity, variant: nf4, against: fp16, max: 3}", "goes without 'max'"),
        ("{metric: perplexity, variant: nf4, against: fp16, max_increase: 1pp}", "no percentage"),
        ("{metric: perplexity, variant: nf4, against: fp16, max_decrease: 1%}", "use max_increase"),
        ("{metric: perplexity, variant: nf4, against: fp16, max_increase: -100%}", "than -100%"),
        ("{metric: perplexity, variant: nf4, against: fp16, max_increase: 1 %%}", "is no budget"),
        ("{metric: perplexity, variant: nf4, against: fp16, max_increase: .nan}", "is no budget"),
        ("{metric: perplexity, variant: nf4, against: fp16, max_increase: true}", "is no budget"),
        ("{metric: perplexity, variant: nf4, max: .inf}", "gates.0.max: must be a finite number"),
        ("{metric: perplexity, variant: nf4, max: 3, expect: fail}", "allowed: regressed"),
        ("{metric: perplexity, variant: nf4, max: 3, inconclusive: ok}", "allowed: fail, warn"),
        ("{metric: perplexity, variant: nf4, maximum: 3}", "gates.0.maximum: unknown key"),
        ("perplexity", "gates.0: must be a mapping of keys, not perplexity"),
    ],
)
def test_bad_gates(problems, gate, problem):
    found = problems(f"gates=[{gate}]")
    assert any(problem in one for one in found), found


@pytest.mark.parametrize(
    ("written", "budget"),
    [
        ("1%", Budget(0.01, "relative")),
        ("0.5 %", Budget(0.005, "relative")),
        ("-2%", Budget(-0.02, "relative")),
        ("0", Budget(0.0, "absolute")),
        ("0.25", Budget(0.25, "absolute")),
        ("1e-1%", Budget(0.001, "relative")),
    ],
)
def test_budgets(load, written, budget):
    gate = f"{{metric: perplexity, variant: nf4, against: fp16, max_increase: {written}}}"
    assert load(f"gates=[{gate}]").gates[0].max_increase == budget


def test_gates_know_their_line(load, tmp_path):
    text = BASE.replace("gates: []", "gates:\n  - {metric: perplexity, variant: nf4, max: 3}")
    assert load(text=text).gates[0].place == f"{tmp_path / 'suite.yaml'}:12"


# --- JSON


def test_json_gives_the_same_suite_back(load):
    suite = load(
        "variants=[fp16, nf4, {x: [quantize: fp4, dequantize: bf16, attach: mine, merge]}]",
        "metrics.samples={prompts: [a, b]}",
        "metrics.perplexity={a: {on: test}, b: {on: train, protocol: chunks}}",
        "requires={memory: 2GB, device: cpu}",
        "adapters.there={from: ./there}",
        "gates=[{metric: perplexity/a, variant: nf4, against: fp16, max_increase: 0.7%}]",
    )
    written = json.loads(json.dumps(suite.to_json()))
    again = suite_from_json(written, place="kept.yaml")
    assert again.to_json() == suite.to_json()
    assert again.variants == suite.variants
    assert again.adapters == suite.adapters
    assert again.metrics == suite.metrics
    assert again.gates[0].max_increase == suite.gates[0].max_increase
    assert again.place == "kept.yaml"
    assert suite.variants[2].path[2] == Dequantize("bf16")


def test_wrong_json_names_its_place(load):
    written = load().to_json() | {"variants": []}
    with pytest.raises(SuiteError, match=r"^kept\.yaml: variants: must be a list"):
        suite_from_json(written, place="kept.yaml")


# --- models on their own


def test_parts_can_be_built_without_a_suite():
    adapter = AdapterSpec(on="nf4", data="train", training=TrainingSpec(steps=3))
    assert adapter.on_path == (Load("fp16"), Quantize("nf4", True, "fp16"))
    assert adapter.lora == LoraSpec()
    assert AdapterSpec(from_="./folder").from_ == "./folder"
    assert DataSpec(dataset="x.jsonl", limit=0).limit == 0
    assert PerplexitySpec(on="anything").protocol == "documents"


def test_optimizers_and_schedulers_are_known_to_transformers():
    arguments = pytest.importorskip("transformers.training_args")
    trainer = pytest.importorskip("transformers.trainer_utils")
    known = {optimizer.value for optimizer in arguments.OptimizerNames}
    assert set(Optimizer.__args__) <= known
    assert set(Scheduler.__args__) <= {scheduler.value for scheduler in trainer.SchedulerType}


# --- the suites that ship

SUITES = Path(__file__).parents[2] / "suites"


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_that_ships_loads_and_round_trips(path):
    suite = load_suite(path)
    assert suite.name == path.stem
    assert suite.gates
    again = suite_from_json(json.loads(json.dumps(suite.to_json())), place=suite.place)
    assert again.to_json() == suite.to_json()
    assert all(gate.place.startswith(str(SUITES)) for gate in suite.gates)


def test_the_suites_are_there():
    assert {path.stem for path in SUITES.glob("*.yaml")} >= {
        "quickstart", "guanaco", "guanaco-smoke", "guanaco-published", "lora-16bit", "qa-lora",
    }  # fmt: skip


def test_the_published_adapter_is_scored_as_the_trained_one_is():
    trained, published = (load_suite(SUITES / f"guanaco{part}.yaml") for part in ("", "-published"))
    adapter = published.adapters["guanaco"]
    assert adapter.from_ == "kaitchup/Llama-2-7B-oasstguanaco-adapter"
    assert (adapter.on_path, adapter.data, adapter.lora, adapter.training) == (None,) * 4
    assert "train" not in published.data
    for field in ("model", "variants", "metrics", "gates", "tasks"):
        assert getattr(published, field) == getattr(trained, field), field


def test_the_smoke_suite_takes_local_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = load_suite(
        SUITES / "guanaco-smoke.yaml",
        overrides=[
            "data.train=train.jsonl",
            "data.test=test.jsonl",
            "adapters.guanaco.training.steps=30",
            "data.test.limit=24",
        ],
    )
    assert suite.requires is None
    assert suite.metrics.samples is None
    assert suite.data["test"] == DataSpec(
        dataset=str(tmp_path / "test.jsonl"), cluster="conversation", limit=24
    )
    training = suite.adapters["guanaco"].training
    assert (training.steps, training.batch_size, training.save_steps) == (30, 1, None)
    assert suite.adapters["guanaco"].lora == LoraSpec(r=16, alpha=32)


def test_the_full_size_suite_names_the_smaller_one():
    suite = load_suite(SUITES / "guanaco.yaml")
    assert suite.requires.memory == 24 * 10**9
    assert (SUITES.parent / suite.requires.instead).is_file()


def test_a_path_may_be_a_string() -> None:
    path = Path(__file__).resolve().parents[2] / "suites" / "quickstart.yaml"
    assert load_suite(str(path)) == load_suite(path)
