"""Fine-tuning tiny models with trl: what is learnt, what is saved, what stops it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from evalkit.errors import TrainingError, WeightsError
from evalkit.records import Corpus, Document
from evalkit.weights.adapters import check_adapter

NF4 = {"quantize": "nf4"}
ATTACH = {"attach": "small"}


def digest(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_qlora_learns_and_is_rebuilt_from_what_was_saved(bench, tmp_path, tiny_folder):
    facts = bench.train(bench.recipe(steps=12, learning_rate=1e-2, seed=3), tmp_path / "out")
    losses = [loss for _, loss in facts["losses"]]
    assert [step for step, _ in facts["losses"]] == list(range(1, 13))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert facts["steps"] == 12
    assert facts["tokens"] > 100
    assert facts["effective_dtype"] == "fp32"
    assert facts["peak_resident_bytes"] > 10**8
    trained = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert facts["trainable_parameters"] == sum(tensor.numel() for tensor in trained.values())
    check_adapter(tmp_path / "out", tiny_folder)
    other = bench.adding(small=tmp_path / "out")
    assert not torch.allclose(other.logits(NF4, ATTACH), bench.logits(NF4), atol=1e-2)


def test_training_never_changes_the_base(bench, tmp_path, tiny_folder):
    files, before = digest(tiny_folder), bench.logits(NF4)
    cached = digest(bench.context.cache / "quantized")
    bench.train(bench.recipe(), tmp_path / "out")
    assert digest(tiny_folder) == files
    assert digest(bench.context.cache / "quantized") == cached
    built = bench.adding(small=tmp_path / "out").build(NF4, ATTACH)
    assert torch.equal(bench.logits_of(built.model.unload()), before)


def test_training_leaves_the_tokenizer_that_variants_share(bench, tmp_path):
    shared = bench.build(NF4).tokenizer
    padding, shared.pad_token = shared.pad_token, None  # trl gives one to those that have none
    try:
        bench.train(bench.recipe(), tmp_path / "out")
        after = bench.build(NF4).tokenizer
        assert after is shared
        assert after.pad_token is None
    finally:
        shared.pad_token = padding


def test_the_same_recipe_gives_the_same_bytes(bench, tmp_path):
    spec = bench.recipe(lora={"dropout": 0.1}, seed=7)
    bench.train(spec, tmp_path / "one")
    bench.train(spec, tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    bench.train(bench.recipe(lora={"dropout": 0.1}, seed=8), tmp_path / "three")
    assert digest(tmp_path / "three") != digest(tmp_path / "one")


def test_the_adapter_names_no_folder_of_this_machine(bench, tmp_path):
    bench.train(bench.recipe(), tmp_path / "out")
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "sealed.json"}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == bench.context.base.origin
    assert config["target_modules"] == sorted(config["target_modules"])
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out"}


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True, "alpha": 16.0},
        {"target_modules": ["q_proj", "v_proj"], "r": 2},
        {"bias": "lora_only"},
    ],
    ids=str,
)
def test_lora_fields_reach_peft(bench, tmp_path, lora, tiny_folder):
    bench.train(bench.recipe(lora=lora), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    for field, value in lora.items():
        assert config["lora_alpha" if field == "alpha" else field] == value
    assert bench.adding(small=tmp_path / "out").logits(NF4, ATTACH).isfinite().all()


FLAVOURS = {
    "LoRA in 16 bits": (({"load": "bf16"},), {}, 8.0),
    "LoRA in 32 bits": (({"load": "fp32"},), {}, 8.0),
    "QLoRA": ((NF4,), {}, 8.0),
    "rsLoRA": ((NF4,), {"use_rslora": True}, 16.0),
    "DoRA": ((NF4,), {"use_dora": True}, 8.0),
    "LoftQ": ((NF4,), {"init": "loftq"}, 8.0),
    "PiSSA": ((NF4,), {"init": "pissa"}, 8.0),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_learns_and_an_exact_merge_keeps_what_it_learnt(bench, tmp_path, flavour):
    from peft.tuners.lora.layer import LoraLayer

    on, lora, scaling = FLAVOURS[flavour]
    spec = bench.recipe(on=on, lora={"r": 4, "alpha": 32.0, **lora}, steps=12, learning_rate=5e-3)
    losses = [loss for _, loss in bench.train(spec, tmp_path / "out")["losses"]]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    trained = bench.adding(small=tmp_path / "out")
    built = trained.build(*on, ATTACH)
    layers = [module for module in built.model.modules() if isinstance(module, LoraLayer)]
    assert len(layers) == 14
    assert {layer.scaling["small"] for layer in layers} == {scaling}
    assert {bool(layer.lora_variant) for layer in layers} == {flavour == "DoRA"}
    attached, base = trained.logits_of(built.model), trained.logits(*on)
    moved = (attached - base).norm()
    assert moved > 0.05 * base.norm()
    path = (*on, "dequantize") if on == (NF4,) else on
    kept = trained.logits(*path, ATTACH, "merge")
    assert (kept - attached).norm() < (0.1 if "16" in flavour else 1e-3) * moved


@pytest.mark.parametrize(
    "fields",
    [
        {"packing": True},
        {"gradient_accumulation": 2, "batch_size": 2},
        {"gradient_checkpointing": True},
        {"scheduler": "cosine", "warmup": 0.5, "weight_decay": 0.1, "max_grad_norm": 0.5},
        {"steps": None, "epochs": 2.0},
        {"optimizer": "sgd", "warmup": 1},
    ],
    ids=str,
)
def test_training_fields_are_taken(bench, tmp_path, fields):
    facts = bench.train(bench.recipe(**fields), tmp_path / "out")
    assert facts["steps"] == (6 if "epochs" in fields else 2)


@pytest.mark.parametrize("on", [({"load": "fp32"},), ({"quantize": "int8"},), (NF4, "dequantize")])
def test_lora_goes_on_other_bases(bench, tmp_path, on):
    bench.train(bench.recipe(on=on, steps=4, learning_rate=1e-2), tmp_path / "out")
    trained = bench.adding(small=tmp_path / "out")
    assert not torch.allclose(trained.logits(*on, ATTACH), bench.logits(*on), atol=1e-3)


def test_bf16_is_trained_in_bf16_also_after_a_float32_training(bench, tmp_path):
    bench.train(bench.recipe(), tmp_path / "one")
    spec = bench.recipe(on=({"load": "bf16"}, NF4))
    facts = bench.train(spec, tmp_path / "two")
    assert facts["effective_dtype"] == "bf16"


@pytest.mark.parametrize("load", ["fp32", "bf16"])
def test_an_adapter_of_quantised_weights_is_trained_in_what_they_are_computed_in(
    bench, tmp_path, load
):
    spec = bench.recipe(on=({"load": load}, NF4), lora={"use_dora": True})
    bench.train(spec, tmp_path / "out")
    kinds = {
        name.rpartition("lora_")[2]: str(tensor.dtype)
        for name, tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").items()
    }
    wanted = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[load]
    assert kinds["A.weight"] == kinds["B.weight"] == wanted
    assert kinds["magnitude_vector"] == "torch.float32", "its steps are too small for bfloat16"


def test_full_fine_tuning_saves_a_whole_model(bench, tmp_path, tiny_model):
    spec = bench.recipe(on=({"load": "fp32"},), method="full", steps=6, learning_rate=3e-3)
    facts = bench.train(spec, tmp_path / "out")
    assert facts["trainable_parameters"] == sum(p.numel() for p in tiny_model.parameters())
    full = bench.adding(small=tmp_path / "out")
    full.context = replace(full.context, full=frozenset({"small"}))
    seen = full.logits({"load": "fp32"}, ATTACH)
    assert not torch.allclose(seen, bench.logits({"load": "fp32"}), atol=1e-2)
    assert facts["losses"][-1][1] < facts["losses"][0][1]


def test_full_fine_tuning_of_quantised_weights_is_refused(bench, tmp_path):
    with pytest.raises(TrainingError, match="quantised weights cannot be trained whole"):
        bench.train(bench.recipe(method="full"), tmp_path / "out")


def test_packed_documents_do_not_see_each_other(tiny_model):
    """What packing relies on: positions that start again separate documents."""
    ids = torch.arange(3, 43).view(1, -1)
    positions = torch.cat([torch.arange(25), torch.arange(15)]).view(1, -1)
    with torch.inference_mode():
        packed = tiny_model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = tiny_model(input_ids=ids[:, 25:]).logits
    torch.testing.assert_close(packed[:, 25:], alone, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------- documents


def documents(**fields):
    return Corpus("train", (Document("a", **fields), Document("b", **fields)), "two", "digest")


PAIR = {"prompt": "Say it: ", "text": "The words are scored one by one."}
CHAT = {
    "text": "",
    "messages": (("user", "Who reads the words?"), ("assistant", "The model reads the words.")),
}


@pytest.mark.parametrize("form", [PAIR, CHAT], ids=["prompt", "messages"])
def test_a_completion_alone_is_learnt_where_that_is_asked(bench, tmp_path, form):
    corpus = documents(**form)
    spec = {"max_length": 128, "steps": 1}
    whole = bench.train(bench.recipe(**spec), tmp_path / "whole", corpus)
    part = bench.train(bench.recipe(completion_only=True, **spec), tmp_path / "part", corpus)
    assert whole["tokens"] == part["tokens"]
    assert whole["losses"][0][1] != pytest.approx(part["losses"][0][1], rel=1e-3)


def test_completion_only_needs_completions(bench, tmp_path):
    with pytest.raises(TrainingError, match="document d0 is plain text"):
        bench.train(bench.recipe(completion_only=True), tmp_path / "out")


def test_no_documents(bench, tmp_path):
    empty = Corpus("train", (), "an empty file", "digest")
    with pytest.raises(TrainingError, match="an empty file has no documents"):
        bench.train(bench.recipe(), tmp_path / "out", empty)


def test_prompts_that_leave_no_room_for_a_completion(bench, tmp_path):
    corpus = documents(prompt="The words are scored. " * 20, text="Yes.")
    with pytest.raises(TrainingError, match="no document has a token to learn"):
        bench.train(bench.recipe(completion_only=True), tmp_path / "out", corpus)


# ----------------------------------------------------------------------------- what stops it


def test_the_classic_q_proj_on_gpt2_lists_the_layers_that_there_are(gpt2_bench, tmp_path):
    spec = gpt2_bench.recipe(lora={"target_modules": ["q_proj", "v_proj"]})
    message = r"'q_proj', 'v_proj' is in no layer.*c_attn, c_fc, c_proj \(or say all-linear\)"
    with pytest.raises(TrainingError, match=message):
        gpt2_bench.train(spec, tmp_path / "out")


def test_a_single_target_that_matches_nothing_is_not_passed_over(bench, tmp_path):
    spec = bench.recipe(lora={"target_modules": ["q_proj", "query"]})
    with pytest.raises(TrainingError, match=r"'query' is in no layer.*q_proj"):
        bench.train(spec, tmp_path / "out")


def test_gpt2_is_trained_in_4_bits(gpt2_bench, tmp_path):
    gpt2_bench.train(gpt2_bench.recipe(learning_rate=1e-2), tmp_path / "out")
    trained = gpt2_bench.adding(small=tmp_path / "out")
    assert not torch.allclose(trained.logits(NF4, ATTACH), gpt2_bench.logits(NF4), atol=1e-3)


def test_a_loss_that_is_not_finite_stops_with_the_step(bench, tmp_path, monkeypatch):
    from trl import SFTTrainer

    compute_loss = SFTTrainer.compute_loss

    def spoil(self, *args, **fields):
        loss = compute_loss(self, *args, **fields)
        return loss * float("nan") if self.state.global_step == 2 else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", spoil)
    with pytest.raises(TrainingError, match=r"train small: loss is nan at step 3"):
        bench.train(bench.recipe(steps=5), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [tick.done for tick in bench.ticks if tick.phase == "train"] == [0, 1, 2]


def test_a_learning_rate_that_blows_up_stops(bench, tmp_path):
    """No patching: AdamW with steps of 1e30 leaves the numbers that float32 has."""
    spec = bench.recipe(steps=8, learning_rate=1e30)
    with pytest.raises((TrainingError, WeightsError), match=r"at step \d|not finite"):
        bench.train(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_training_goes_on_from_its_checkpoint(bench, tmp_path):
    whole = bench.train(bench.recipe(steps=6, save_steps=2), tmp_path / "whole")
    assert not (tmp_path / "whole.checkpoints").exists()

    def stop(tick):
        if tick.phase == "train" and tick.done == 5:
            raise KeyboardInterrupt

    from evalkit.weights.training import train_adapter

    spec, corpus = bench.recipe(steps=6, save_steps=2), bench.corpus()
    common = {"out": tmp_path / "two", "job": "train small"}
    with pytest.raises(KeyboardInterrupt):
        train_adapter("small", spec, corpus, bench.context, on_progress=stop, **common)
    assert not (tmp_path / "two").exists()
    facts = bench.train(spec, tmp_path / "two", corpus)
    assert [step for step, _ in facts["losses"]] == [5, 6]
    assert facts["losses"] == whole["losses"][4:]
    assert digest(tmp_path / "two") == digest(tmp_path / "whole")
    bench.train(bench.recipe(steps=6), tmp_path / "three", corpus)
    assert digest(tmp_path / "three") == digest(tmp_path / "whole")
