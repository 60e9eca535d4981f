"""QA-LoRA: trained on group4 weights, merged by moving zeros, refused where it does not belong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit.errors import TrainingError, WeightsError
from evalkit.weights import quantization
from evalkit.weights.adapters import check_adapter
from evalkit.weights.export import save_variant

GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
ATTACH = {"attach": "small"}
LORA = {"flavour": "qa-lora", "r": 4}


@pytest.fixture
def trained(bench, tmp_path):
    """The bench, with a QA-LoRA adapter that was trained on group4 weights as its `small`."""
    facts = train(bench, tmp_path / "trained")
    losses = [loss for _, loss in facts["losses"]]
    assert losses[-1] < 0.9 * losses[0]
    return bench.adding(small=tmp_path / "trained")


def train(bench, out, *, on=(GROUP4,), lora=LORA, steps=10):
    spec = bench.recipe(on=on, lora=lora, steps=steps, learning_rate=2e-2, seed=3)
    return bench.train(spec, out)


def codes_of(model):
    layers = quantization.quantized_layers(model)
    return {name: layer.weight.data.clone() for name, layer in layers.items()}


def mean_nll(model, ids):
    with torch.inference_mode():
        tokens = torch.tensor([ids])
        logits = model(input_ids=tokens).logits[0, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]))


IDS = [0, 17, 40, 99, 5, 210, 33, 64, 301, 12, 77, 150, 9, 4, 200, 31]


# ----------------------------------------------------------------------------- the merge


def test_the_merge_is_exact_and_leaves_the_codes(trained):
    base, attached = trained.build(GROUP4), trained.build(GROUP4, ATTACH)
    before = mean_nll(attached.model, IDS)
    assert abs(before - mean_nll(base.model, IDS)) > 0.1
    merged = trained.build(GROUP4, ATTACH, "merge")
    assert mean_nll(merged.model, IDS) == pytest.approx(before, abs=1e-5)
    codes = codes_of(base.model)
    assert all(torch.equal(kept, codes[name]) for name, kept in codes_of(merged.model).items())
    assert not torch.equal(
        merged.model.model.layers[0].mlp.up_proj.zero, base.model.model.layers[0].mlp.up_proj.zero
    )
    assert merged.facts["weight_bytes"] == base.facts["weight_bytes"]
    assert merged.facts["notes"] == []


def test_the_zeros_move_by_what_the_file_says(trained, tmp_path):
    """By the algebra, from the saved tensors: in float64, and without our layers."""
    tensors = load_file(tmp_path / "trained" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "trained" / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    base = quantization.quantized_layers(trained.build(GROUP4).model)
    merged = quantization.quantized_layers(trained.build(GROUP4, ATTACH, "merge").model)
    for name, layer in base.items():
        first, second = (
            tensors[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB"
        )
        groups = layer.in_features // 16
        assert first.shape == (4, groups)
        wanted = scaling * (groups / 16) * (second @ first).repeat_interleave(16, dim=1)
        happened = merged[name].dequantize().double() - layer.dequantize().double()
        torch.testing.assert_close(happened, wanted, rtol=1e-4, atol=1e-6)


def test_merged_weights_survive_saving_and_loading(trained, tmp_path):
    from evalkit.weights.loading import load_model

    merged = trained.build(GROUP4, ATTACH, "merge").model
    expected = trained.logits_of(merged)
    merged.save_pretrained(tmp_path / "kept")
    again = load_model(tmp_path / "kept", dtype=torch.float32, device_map={"": "cpu"})
    assert torch.equal(trained.logits_of(again), expected)
    attached = mean_nll(trained.build(GROUP4, ATTACH).model, IDS)
    assert mean_nll(again, IDS) == pytest.approx(attached, abs=1e-5)
    codes = codes_of(trained.build(GROUP4).model)
    assert codes_of(again).keys() == codes.keys()
    assert all(torch.equal(kept, codes[name]) for name, kept in codes_of(again).items())


def test_two_adapters_merge_into_the_same_zeros(trained, tmp_path):
    train(trained, tmp_path / "second", steps=3)
    both = trained.adding(other=tmp_path / "second")
    stacked = both.logits(GROUP4, ATTACH, {"attach": "other"})
    merged = both.logits(GROUP4, ATTACH, {"attach": "other"}, "merge")
    torch.testing.assert_close(merged, stacked, rtol=1e-4, atol=1e-4)
    in_turn = both.logits(GROUP4, ATTACH, "merge", {"attach": "other"}, "merge")
    torch.testing.assert_close(in_turn, stacked, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(stacked, both.logits(GROUP4, ATTACH), atol=1e-2)


@pytest.mark.parametrize("lora", [{"use_rslora": True}, {"target_modules": ["v_proj", "up_proj"]}])
def test_other_shapes_merge_exactly_too(bench, tmp_path, lora):
    train(bench, tmp_path / "out", lora={**LORA, **lora})
    bench = bench.adding(small=tmp_path / "out")
    attached = mean_nll(bench.build(GROUP4, ATTACH).model, IDS)
    assert mean_nll(bench.build(GROUP4, ATTACH, "merge").model, IDS) == pytest.approx(
        attached, abs=1e-6
    )


def test_hqq_weights_take_it_exactly_too(bench, tmp_path):
    hqq = {"quantize": {"type": "hqq", "group_size": 16}}
    train(bench, tmp_path / "out", on=(hqq,))
    bench = bench.adding(small=tmp_path / "out")
    base, attached = bench.build(hqq), mean_nll(bench.build(hqq, ATTACH).model, IDS)
    assert abs(attached - mean_nll(base.model, IDS)) > 0.05
    merged = bench.build(hqq, ATTACH, "merge").model
    assert mean_nll(merged, IDS) == pytest.approx(attached, abs=1e-5)
    codes = codes_of(base.model)
    assert all(torch.equal(kept, codes[name]) for name, kept in codes_of(merged).items())


def test_gpt2_merges_exactly_too(gpt2_bench, tmp_path):
    train(gpt2_bench, tmp_path / "out")
    bench = gpt2_bench.adding(small=tmp_path / "out")
    attached = mean_nll(bench.build(GROUP4, ATTACH).model, IDS)
    assert abs(attached - mean_nll(bench.build(GROUP4).model, IDS)) > 0.01
    assert mean_nll(bench.build(GROUP4, ATTACH, "merge").model, IDS) == pytest.approx(
        attached, abs=1e-6
    )


def test_merged_and_expanded_is_the_same_model_in_16_bits(trained):
    merged = trained.logits(GROUP4, ATTACH, "merge")
    torch.testing.assert_close(
        trained.logits(GROUP4, ATTACH, "merge", "dequantize"), merged, rtol=1e-5, atol=1e-5
    )


# ----------------------------------------------------------------------------- the file


def test_it_is_saved_in_pefts_format(trained, tmp_path, tiny_folder):
    config = json.loads((tmp_path / "trained" / "adapter_config.json").read_text())
    assert config["use_qalora"] is True
    assert config["qalora_group_size"] == 16
    check_adapter(tmp_path / "trained", tiny_folder)


def test_the_same_recipe_gives_the_same_bytes(bench, tmp_path):
    for name in ("one", "two"):
        train(bench, tmp_path / name, steps=2)
    one, two = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two")
    )
    assert one == two


def test_a_merged_one_is_exported_expanded_and_scores_the_same(trained, tmp_path):
    from transformers import AutoModelForCausalLM

    merged = trained.build({"load": "bf16"}, GROUP4, ATTACH, "merge")
    expected = trained.logits_of(merged.model)
    save_variant(merged, tmp_path / "out")
    assert torch.equal(trained.logits_of(merged.model), expected), "saving changed the model"
    assert len(codes_of(merged.model)) == 14
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.bfloat16
    assert torch.equal(trained.logits_of(again.eval()), expected)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_one_on_top_is_not_exported(trained, tmp_path):
    with pytest.raises(WeightsError, match=r"QA-LoRA adapter is on top.*end the path with 'merge'"):
        save_variant(trained.build(GROUP4, ATTACH), tmp_path / "out")


# ----------------------------------------------------------------------------- what is refused


def test_a_plain_adapter_trains_on_group4_but_does_not_merge(bench, tmp_path):
    train(bench, tmp_path / "plain", lora={"r": 4})
    bench = bench.adding(small=tmp_path / "plain")
    assert not torch.allclose(bench.logits(GROUP4, ATTACH), bench.logits(GROUP4), atol=1e-2)
    with pytest.raises(WeightsError, match=r"plain LoRA.*Put 'dequantize' before 'attach'"):
        bench.build(GROUP4, ATTACH, "merge")
    kept = bench.logits(GROUP4, "dequantize", ATTACH, "merge")
    torch.testing.assert_close(kept, bench.logits(GROUP4, ATTACH), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "base", [({"load": "fp32"},), ({"quantize": "nf4"},), (GROUP4, "dequantize")], ids=str
)
def test_it_goes_on_no_other_weights(trained, base):
    with pytest.raises(WeightsError, match=r"QA-LoRA adapter, and .* has no group4 weights"):
        trained.build(*base, ATTACH)


def test_a_layer_that_is_not_quantised_takes_none(trained):
    skipping = {"quantize": {**GROUP4["quantize"], "skip_modules": ["v_proj"]}}
    with pytest.raises(WeightsError, match=r"cannot be attached: .*v_proj"):
        trained.build(skipping, ATTACH)


def test_groups_of_another_size_are_named(trained):
    other = {"quantize": {"type": "group4", "group_size": 32}}
    message = r"has groups of 16, and .*q_proj has weights in groups of 32"
    with pytest.raises(WeightsError, match=message):
        trained.build(other, ATTACH)


def test_a_plain_shape_under_a_qa_lora_configuration_is_named(trained, tmp_path):
    file = tmp_path / "trained" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors[name] = torch.zeros(4, 64)
    save_file(tensors, file, metadata={"format": "pt"})
    message = r"q_proj: lora_A is 4 × 64, expected 4 × 4 by QA-LoRA in groups of 16"
    with pytest.raises(WeightsError, match=message):
        trained.build(GROUP4, ATTACH)


def test_a_configuration_that_forgot_the_flavour_is_named(trained, tmp_path):
    file = tmp_path / "trained" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_qalora": False}))
    with pytest.raises(WeightsError, match=r"lora_A is 4 × (4|8), expected 4 × (64|128)$"):
        trained.build(GROUP4, ATTACH)


def test_training_on_other_weights_is_refused(bench, tmp_path):
    with pytest.raises(TrainingError, match=r"needs weights in groups: train it 'on: group4'"):
        train(bench, tmp_path / "out", on=({"quantize": "nf4"},))


def test_a_target_that_is_not_quantised_is_named(bench, tmp_path):
    skipping = {"quantize": {**GROUP4["quantize"], "skip_modules": ["v_proj"]}}
    with pytest.raises(WeightsError, match=r"v_proj is no group4 layer"):
        train(bench, tmp_path / "out", on=(skipping,))


def test_dora_on_group4_is_refused(bench, tmp_path):
    with pytest.raises(TrainingError, match="use_dora cannot be used on group4 weights"):
        train(bench, tmp_path / "out", lora={"use_dora": True})
