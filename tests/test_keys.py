"""Keys over every field of a suite: what can move a number moves its key, and nothing else does.

The fields are read from the models themselves. One that is new and stands in neither of the two
lists below fails: whoever adds it says which it is.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalkit.machine import Machine
from evalkit.paths import Attach, Dequantize, Load, Quantize
from evalkit.plan import Plan, make_plan
from evalkit.plan_keys import SOME_PACKAGES, TASK_PACKAGES, TRAINING_PACKAGES, Environment
from evalkit.records import Gate
from evalkit.sources import resolve
from evalkit.suite import Suite, load_suite
from evalkit.suite.fields import Spec

PATH = [
    {"load": "fp16"}, {"quantize": {"type": "nf4", "double_quant": True}},
    {"dequantize": "fp16"}, {"attach": "ready"},
]  # fmt: skip
GROUPED = [{"quantize": {"type": "group4", "group_size": 64}}]
SUITE = {
    "name": "keys",
    "model": {"source": "own/model"},
    "data": {
        "train": {"dataset": "train.jsonl", "text": "text"},
        "chats": {"dataset": "own/chats", "split": "train"},
        "test": {"dataset": "test.jsonl", "prompt": "prompt", "completion": "completion"},
    },
    "adapters": {
        "tuned": {
            "on": "nf4",
            "data": "train",
            "lora": {"r": 8},
            "training": {"steps": 10, "batch_size": 2, "max_length": 32},
        },
        "ready": {"from": "own/adapter"},
    },
    "variants": [
        "fp16", {"on": ["load", {"attach": "tuned"}]}, {"path": PATH}, {"grouped": GROUPED},
    ],
    "metrics": {
        "perplexity": {
            "main": {"on": "test", "max_length": 64},
            "chats": {"on": "chats"},
            "stream": {"on": "chats", "protocol": "stream", "max_length": 64, "stride": 32},
        },
        "divergence": {"on": "test", "reference": "fp16", "max_length": 64},
        "samples": {"prompts": ["Once"], "max_new_tokens": 8},
    },
    "tasks": [{"task": "pick", "include_path": "defs", "data": "samples.jsonl"}],
    "gates": [{"metric": "perplexity/main", "variant": "fp16", "max": 100}],
}  # fmt: skip
SUITE["variants"][1] = {"on": [{"load": "fp16"}, {"attach": "tuned"}]}

MAIN = "metrics.perplexity.main"
MOVES: dict[str, list[dict[str, object]]] = {
    "model.source": [{"model.source": "own/other"}],
    "model.revision": [{"model.revision": "second"}],
    "model.dtype": [{"model.dtype": "fp32"}],
    "model.device_map": [{"model.device_map": "auto"}],
    "model.gpus": [{"model.device_map": "auto", "model.gpus": 2}],
    "data.*.dataset": [{"data.test.dataset": "other.jsonl"}, {"data.train.dataset": "test.jsonl"}],
    "data.*.config": [{"data.chats.config": "second"}],
    "data.*.revision": [{"data.chats.revision": "second"}],
    "data.*.split": [{"data.chats.split": "test"}],
    "data.*.text": [{"data.train.text": "prompt"}],
    "data.*.prompt": [{"data.test.prompt": "text"}],
    "data.*.completion": [{"data.test.completion": "text"}],
    "data.*.messages": [{"data.train.messages": "messages"}],
    "data.*.cluster": [{"data.test.cluster": "prompt"}],
    "data.*.limit": [{"data.test.limit": 1}, {"data.train.limit": 1}],
    "data.*.max_tokens_per_document": [{"data.test.max_tokens_per_document": 7}],
    "adapters.*.on": [{"adapters.tuned.on": "fp4"}],
    "adapters.*.data": [{"adapters.tuned.data": "test"}],
    "adapters.*.from": [{"adapters.ready.from": "own/adapter2"}],
    "adapters.*.revision": [{"adapters.ready.revision": "second"}],
    "adapters.*.lora.r": [{"adapters.tuned.lora.r": 4}],
    "adapters.*.lora.alpha": [{"adapters.tuned.lora.alpha": 8}],
    "adapters.*.lora.dropout": [{"adapters.tuned.lora.dropout": 0.1}],
    "adapters.*.lora.target_modules": [{"adapters.tuned.lora.target_modules": ["q_proj"]}],
    "adapters.*.lora.bias": [{"adapters.tuned.lora.bias": "all"}],
    "adapters.*.lora.use_rslora": [{"adapters.tuned.lora.use_rslora": True}],
    "adapters.*.lora.use_dora": [{"adapters.tuned.lora.use_dora": True}],
    "adapters.*.lora.flavour": [
        {
            "adapters.tuned.lora.flavour": "qa-lora",
            "adapters.tuned.on": "group4",
            "variants.1.on": [{"quantize": "group4"}, {"attach": "tuned"}],
        }
    ],
    "adapters.*.lora.init": [{"adapters.tuned.lora.init": "pissa"}],
    "adapters.*.training.method": [
        {
            "adapters.tuned.training.method": "full",
            "adapters.tuned.on": "fp16",
            "adapters.tuned.lora": None,
        }
    ],
    "adapters.*.training.steps": [{"adapters.tuned.training.steps": 11}],
    "adapters.*.training.epochs": [
        {"adapters.tuned.training.steps": None, "adapters.tuned.training.epochs": 1}
    ],
    "adapters.*.training.batch_size": [{"adapters.tuned.training.batch_size": 3}],
    "adapters.*.training.gradient_accumulation": [
        {"adapters.tuned.training.gradient_accumulation": 2}
    ],
    "adapters.*.training.gradient_checkpointing": [
        {"adapters.tuned.training.gradient_checkpointing": True}
    ],
    "adapters.*.training.learning_rate": [{"adapters.tuned.training.learning_rate": 1e-3}],
    "adapters.*.training.max_length": [{"adapters.tuned.training.max_length": 16}],
    "adapters.*.training.optimizer": [{"adapters.tuned.training.optimizer": "sgd"}],
    "adapters.*.training.scheduler": [{"adapters.tuned.training.scheduler": "cosine"}],
    "adapters.*.training.warmup": [{"adapters.tuned.training.warmup": 0.1}],
    "adapters.*.training.weight_decay": [{"adapters.tuned.training.weight_decay": 0.1}],
    "adapters.*.training.max_grad_norm": [{"adapters.tuned.training.max_grad_norm": 0.0}],
    "adapters.*.training.packing": [{"adapters.tuned.training.packing": True}],
    "adapters.*.training.completion_only": [
        {
            "adapters.tuned.training.completion_only": True,
            "data.train.prompt": "prompt",
            "data.train.completion": "completion",
        }
    ],
    "adapters.*.training.seed": [{"adapters.tuned.training.seed": 1}],
    "variants.load.dtype": [{"variants.2.path.0.load": "bf16"}],
    "variants.quantize.type": [{"variants.2.path.1.quantize.type": "fp4"}],
    "variants.quantize.double_quant": [{"variants.2.path.1.quantize.double_quant": False}],
    "variants.quantize.compute_dtype": [{"variants.2.path.1.quantize.compute_dtype": "fp32"}],
    "variants.quantize.skip_modules": [{"variants.2.path.1.quantize.skip_modules": ["q_proj"]}],
    "variants.quantize.group_size": [{"variants.3.grouped.0.quantize.group_size": 32}],
    "variants.quantize.optimize": [{"variants.3.grouped.0.quantize.optimize": "hqq"}],
    "variants.dequantize.dtype": [{"variants.2.path.2.dequantize": "fp32"}],
    "variants.attach.adapter": [{"variants.1.on.1.attach": "ready"}],
    "metrics.perplexity.*.on": [{f"{MAIN}.on": "chats"}],
    "metrics.perplexity.*.protocol": [{f"{MAIN}.protocol": "chunks"}],
    "metrics.perplexity.*.max_length": [{f"{MAIN}.max_length": 32}],
    "metrics.perplexity.*.stride": [{"metrics.perplexity.stream.stride": 16}],
    "metrics.perplexity.*.tokens": [{f"{MAIN}.tokens": 100}],
    "metrics.perplexity.*.score_on": [{f"{MAIN}.score_on": "completion"}],
    "metrics.perplexity.*.batch_tokens": [{f"{MAIN}.batch_tokens": 128}],
    "metrics.divergence.on": [{"metrics.divergence.on": "chats"}],
    "metrics.divergence.reference": [{"metrics.divergence.reference": "grouped"}],
    "metrics.divergence.tokens": [{"metrics.divergence.tokens": 64}],
    "metrics.divergence.protocol": [{"metrics.divergence.protocol": "chunks"}],
    "metrics.divergence.max_length": [{"metrics.divergence.max_length": 32}],
    "metrics.divergence.score_on": [{"metrics.divergence.score_on": "completion"}],
    "metrics.divergence.batch_tokens": [{"metrics.divergence.batch_tokens": 128}],
    "metrics.divergence.lockstep": [{"metrics.divergence.lockstep": True}],
    "metrics.samples.prompts": [{"metrics.samples.prompts": ["Twice"]}],
    "metrics.samples.max_new_tokens": [{"metrics.samples.max_new_tokens": 9}],
    "tasks.task": [{"tasks.0.task": "choose", "tasks.0.name": "pick"}],
    "tasks.include_path": [{"tasks.0.include_path": "defs2"}],
    "tasks.data": [
        {"tasks.0.data": "samples2.jsonl"},
        {"tasks.0.data": {"train": "samples2.jsonl", "validation": "samples.jsonl"}},
    ],
    "tasks.num_fewshot": [{"tasks.0.num_fewshot": 1}],
    "tasks.limit": [{"tasks.0.limit": 1}],
    "tasks.seed": [{"tasks.0.seed": 1}],
    "tasks.chat_template": [{"tasks.0.chat_template": True}],
    "tasks.system": [{"tasks.0.system": "Be brief."}],
    "tasks.cluster": [{"tasks.0.cluster": "question"}],
    "tasks.batch_size": [{"tasks.0.batch_size": 4}],
    "tasks.max_length": [{"tasks.0.max_length": 32}],
}
"""Changes, each of which must move a key: of a score, or of a recipe."""

IRRELEVANT: dict[str, tuple[str, dict[str, object]]] = {
    "name": ("names reports and baselines", {"name": "other"}),
    "description": ("for people", {"description": "words"}),
    "model.trust_remote_code": (
        "a wish: the command line decides, and what it says is in the key",
        {"model.trust_remote_code": True},
    ),
    "requires.device": ("refuses machines, changes nothing on them", {"requires.device": "cpu"}),
    "requires.memory": ("the same", {"requires.memory": "1GB"}),
    "requires.instead": ("the same", {"requires.instead": "small.yaml"}),
    "adapters.*.training.save_steps": (
        "a training that goes on gives the same adapter",
        {"adapters.tuned.training.save_steps": 5},
    ),
    "adapters.*.training.seeds": (
        "the first is the seed that ships; the others have keys of their own",
        {"adapters.tuned.training.seeds": [0, 1, 2]},
    ),
    "variants.name": ("a name", {"variants.3": {"renamed": GROUPED}}),
    "metrics.perplexity.*.token_losses": (
        "what is kept beside the number; one that keeps too little is computed again",
        {f"{MAIN}.token_losses": 3},
    ),
    "metrics.reload_check": ("checks, and measures nothing", {"metrics.reload_check": False}),
    "metrics.leakage": ("says how to warn, and measures nothing", {"metrics.leakage": "ignore"}),
    "metrics.footprint": ("costs have a key of their own", {"metrics.footprint": False}),
    "tasks.name": ("a name", {"tasks.0.name": "renamed"}),
    "tasks.place": ("where it is written", {}),
    "text": ("comments and all: what it means is read", {}),
    "place": ("where the suite is", {}),
    **{
        f"gates.{field}": ("judges numbers, moves none", {"gates": change})
        for field, change in {
            "metric": [{"metric": "survival", "variant": "on", "min": 0.1}],
            "variant": [{"metric": "perplexity/main", "variant": "on", "max": 100}],
            "against": [
                {
                    "metric": "perplexity/main",
                    "variant": "on",
                    "against": "fp16",
                    "max_increase": "1%",
                }
            ],
            "max_increase": [
                {
                    "metric": "perplexity/main",
                    "variant": "on",
                    "against": "fp16",
                    "max_increase": "2%",
                }
            ],
            "max_decrease": [
                {"metric": "pick/acc", "variant": "on", "against": "fp16", "max_decrease": "2pp"}
            ],
            "minimum": [{"metric": "pick/acc", "variant": "on", "min": 0.1}],
            "maximum": [{"metric": "perplexity/main", "variant": "fp16", "max": 7}],
            "expect": [
                {
                    "metric": "perplexity/main",
                    "variant": "fp16",
                    "max": 7,
                    "expect": "regressed",
                }
            ],
            "inconclusive": [
                {
                    "metric": "perplexity/main",
                    "variant": "fp16",
                    "max": 7,
                    "inconclusive": "warn",
                }
            ],
            "place": [],
        }.items()
    },
}
"""Fields that move no number, each with the reason, and a change that must move no key."""

# ----------------------------------------------------------------------------- every field


def fields_of(model: type[Spec], prefix: str = "") -> Iterator[str]:
    """The dotted names of a model's fields, with those of the models in them."""
    for name, info in model.model_fields.items():
        dotted = f"{prefix}{info.alias or name}"
        below = list(specs_in(info.annotation))
        special = SPECIAL.get(dotted)
        if special is not None:
            yield from (f"{dotted}.{field}" for field in special)
        elif below:
            star = ".*" if typing.get_origin(info.annotation) is dict else ""
            for spec in below:
                yield from fields_of(spec, f"{dotted}{star}.")
        else:
            yield dotted


def specs_in(annotation: object) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for part in typing.get_args(annotation):
        yield from specs_in(part)


def names(record: type) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


SPECIAL = {
    "gates": names(Gate),
    "variants": [
        "name",
        *(f"load.{name}" for name in names(Load)),
        *(f"quantize.{name}" for name in names(Quantize)),
        *(f"dequantize.{name}" for name in names(Dequantize)),
        *(f"attach.{name}" for name in names(Attach)),
    ],
}
"""What is no model: gates are records, and a variant is a path of steps."""


def test_every_field_moves_a_key_or_has_a_reason_not_to():
    there = set(fields_of(Suite))
    assert len(there) > 90
    assert there - MOVES.keys() - IRRELEVANT.keys() == set(), "say of each whether it moves numbers"
    assert (MOVES.keys() | IRRELEVANT.keys()) - there == set(), "these fields are gone"
    assert MOVES.keys() & IRRELEVANT.keys() == set()


# ----------------------------------------------------------------------------- the suite's files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Everything that the suite points at, in bytes: nothing of it is loaded."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("model", "other"):
        for revision in ("first", "second"):
            write_model(folder / "hub" / "own" / name / revision, f"{name} {revision}")
    for name in ("adapter", "adapter2"):
        for revision in ("first", "second"):
            at = folder / "hub" / "own" / name / revision
            at.mkdir(parents=True)
            (at / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
            (at / "adapter_model.safetensors").write_text(f"{name} {revision}")
    for name in ("train", "test", "other"):
        rows = [
            {
                "text": f"{name} {n}",
                "prompt": f"{name} asks {n}",
                "completion": f"{name} says {n}",
                "messages": [{"role": "user", "content": f"{name} {n}"}],
            }
            for n in range(3)
        ]
        write_rows(folder / f"{name}.jsonl", rows)
    for name in ("samples", "samples2"):
        rows = [{"question": f"{name} {n}", "choices": ["a", "b"], "label": 0} for n in range(3)]
        write_rows(folder / f"{name}.jsonl", rows)
    for name, text in (("defs", "question"), ("defs2", "Q: {{question}}")):
        (folder / name).mkdir()
        for task in ("pick", "choose"):
            (folder / name / f"{task}.yaml").write_text(
                f"task: {task}\ndataset_path: json\nvalidation_split: validation\n"
                f"fewshot_split: train\noutput_type: multiple_choice\ndoc_to_text: '{text}'\n"
                "doc_to_target: label\ndoc_to_choice: choices\nmetric_list: [{metric: acc}]\n"
            )
    return folder


def write_model(folder, content):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"dtype": "float32"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """The files' folder, with a hub that has them too."""

    def download(repo_id, revision, patterns):
        return files / "hub" / repo_id / (revision or "first")

    def load_hub(spec, cache):
        told = f"{spec.dataset} {spec.config} {spec.revision} {spec.split}"
        return [{"text": f"{told} {n}"} for n in range(3)]

    monkeypatch.setattr("evalkit.sources.download", download)
    monkeypatch.setattr("evalkit.corpora.loading._load_hub", load_hub)
    monkeypatch.chdir(files)
    return files


def environment(**versions: str) -> Environment:
    machine = Machine("cpu", "cpu", "", 1, True, 2, 2)
    packages = (*TRAINING_PACKAGES, *TASK_PACKAGES, *SOME_PACKAGES)
    return Environment(machine, {**dict.fromkeys(packages, "1"), **versions})


def changed(changes: dict[str, object]) -> dict[str, object]:
    """The suite with leaves set; None deletes one."""
    suite = copy.deepcopy(SUITE)
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        here: object = suite
        for parent in parents:
            here = here[int(parent)] if isinstance(here, list) else here.setdefault(parent, {})
        if value is None:
            here.pop(leaf, None)
        else:
            here[int(leaf) if isinstance(here, list) else leaf] = value
    return suite


def planned(suite: object, *, cache: Path, where: Environment | None = None) -> Plan:
    if not isinstance(suite, Suite):
        file = Path("keys.yaml")
        file.write_text(json.dumps(suite))
        suite = load_suite(file)
    return make_plan(suite, resolve(suite, cache), where or environment())


def keys_of(plan: Plan) -> dict[str, set[str]]:
    """Every key of a plan, without the names that it is planned under."""
    digests = plan.adapter_digests({"tuned": "content"})
    scores = {key for job in plan.scoring for key in plan.reuse_keys(job, digests).values()}
    return {"scores": scores, "recipes": {job.recipe_key for job in plan.training}}


CHANGES = [(field, index) for field, changes in MOVES.items() for index in range(len(changes))]


@pytest.mark.parametrize(("field", "index"), CHANGES, ids=[f"{f}-{i}" for f, i in CHANGES])
def test_what_moves_a_number_moves_a_key(hub, tmp_path, field, index):
    before = keys_of(planned(SUITE, cache=tmp_path))
    after = keys_of(planned(changed(MOVES[field][index]), cache=tmp_path))
    assert after["scores"] - before["scores"] or after["recipes"] - before["recipes"]
    if field.startswith("adapters.*.training") or field.startswith("adapters.*.lora"):
        assert after["recipes"] != before["recipes"]
    if field.startswith(("metrics", "tasks", "model", "variants")):
        assert after["scores"] - before["scores"]


@pytest.mark.parametrize("field", [field for field, (_, change) in IRRELEVANT.items() if change])
def test_what_moves_no_number_moves_no_key(hub, tmp_path, field):
    before = keys_of(planned(SUITE, cache=tmp_path))
    after = keys_of(planned(changed(IRRELEVANT[field][1]), cache=tmp_path))
    assert after["recipes"] == before["recipes"]
    # A suite may ask for less; what it still asks for must have the key that it had.
    assert after["scores"] <= before["scores"]
    assert after["scores"] == before["scores"] or field == "metrics.footprint"


# ----------------------------------------------------------------------------- content


def test_comments_order_and_the_files_place_are_in_no_key(hub, tmp_path):
    def shuffled(value):
        if isinstance(value, dict):
            return {key: shuffled(below) for key, below in reversed(value.items())}
        return value

    first, second = hub / "first.yaml", hub / "second.yaml"
    first.write_text(json.dumps(SUITE))
    turned = shuffled(SUITE) | {"variants": SUITE["variants"][::-1]}
    second.write_text("# a comment\n" + json.dumps(turned, indent=1).replace("\n", " # more\n", 1))
    (hub / "moved").mkdir()
    for name in ("train.jsonl", "test.jsonl", "samples.jsonl"):
        shutil.copy(hub / name, hub / "moved" / name)
    shutil.copytree(hub / "defs", hub / "moved" / "defs")
    third = hub / "moved" / "third.yaml"
    third.write_text(json.dumps(SUITE))
    found = [keys_of(planned(load_suite(f), cache=tmp_path)) for f in (first, second, third)]
    assert found[0] == found[1] == found[2]


FILES = {
    "train.jsonl": ("train 0", "train 9"),
    "test.jsonl": ("test says 0", "test says 9"),
    "samples.jsonl": ("samples 0", "samples 9"),
    "defs/pick.yaml": ("validation\nfewshot", "train\nfewshot"),
    "hub/own/model/first/config.json": ("float32", "float16"),
    "hub/own/model/first/model.safetensors": ("model", "Model"),
    "hub/own/model/first/tokenizer.json": ("{}", "[]"),
    "hub/own/adapter/first/adapter_model.safetensors": ("adapter", "Adapter"),
    "hub/own/adapter/first/adapter_config.json": ("8", "4"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_byte_of_what_the_suite_points_at_moves_a_key(hub, tmp_path, name):
    file = hub / name
    content, (old, new) = file.read_text(), FILES[name]
    before = keys_of(planned(SUITE, cache=tmp_path))
    assert old in content
    try:
        file.write_text(content.replace(old, new, 1))
        assert keys_of(planned(SUITE, cache=tmp_path)) != before
    finally:
        file.write_text(content)


@pytest.mark.parametrize("name", ["generation_config.json", "modeling_own.py"])
def test_what_else_moves_a_model_is_part_of_its_digest(hub, tmp_path, name):
    """Penalties of a generation, and code that is run with --trust-remote-code."""
    file = hub / "hub" / "own" / "model" / "first" / name
    before = keys_of(planned(SUITE, cache=tmp_path))
    try:
        file.write_text("{}")
        assert keys_of(planned(SUITE, cache=tmp_path))["scores"].isdisjoint(before["scores"])
    finally:
        file.unlink()


@pytest.mark.parametrize("package", sorted({*TRAINING_PACKAGES, *TASK_PACKAGES}))
def test_a_librarys_version_moves_the_keys_of_what_it_computes(hub, tmp_path, package):
    before = keys_of(planned(SUITE, cache=tmp_path))
    after = keys_of(planned(SUITE, cache=tmp_path, where=environment(**{package: "2"})))
    moved = [part for part in before if after[part] != before[part]]
    if package in ("trl", "accelerate"):
        assert moved == ["recipes"]
    elif package == "lm_eval":
        assert moved == ["scores"]
        assert len(after["scores"] - before["scores"]) == len(SUITE["variants"])
    else:
        assert moved == ["scores", "recipes"]


@pytest.mark.parametrize("package", [*SOME_PACKAGES, "rich", "sqlalchemy", "altair"])
def test_versions_that_compute_nothing_here_are_in_no_key(hub, tmp_path, package):
    before = keys_of(planned(SUITE, cache=tmp_path))
    assert keys_of(planned(SUITE, cache=tmp_path, where=environment(**{package: "2"}))) == before
