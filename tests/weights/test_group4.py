"""Group4: rounding against an oracle, the layer, and a model that is quantised, saved, reloaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evalkit.errors import WeightsError
from evalkit.weights import group4, quantization
from evalkit.weights.export import save_variant

GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
HQQ = {"quantize": {"type": "group4", "group_size": 16, "optimize": "hqq"}}
ATTACH = {"attach": "small"}


def random_weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(weight, size):
    """Each group's range in 15 steps, in float64, with the scale as it is stored."""
    out = torch.empty_like(weight, dtype=torch.float64)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            group = weight[row, start : start + size].double()
            scale = ((group.max() - group.min()) / 15).to(torch.bfloat16).double()
            zero = -group.min() / scale
            codes = (group / scale + zero).round().clamp(0, 15)
            out[row, start : start + size] = (codes - zero) * scale
    return out


def test_values_are_those_of_the_oracle():
    weight = random_weight(24, 64)
    expanded = group4.expand_weight(*group4.quantize_weight(weight, 16), torch.float32)
    torch.testing.assert_close(expanded.double(), oracle(weight, 16), rtol=1e-5, atol=1e-5)
    assert (expanded - weight).abs().max() < 0.6 * 7 / 15


def test_two_codes_share_a_byte():
    codes = torch.randint(0, 16, (3, 10), dtype=torch.uint8)
    packed = group4.pack(codes)
    assert packed.shape == (3, 5)
    assert torch.equal(group4.unpack(packed), codes)
    assert packed[1, 2] == codes[1, 4] + 16 * codes[1, 5]


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-20, 5e4])
def test_a_group_without_a_range_keeps_its_value_and_can_still_move(value):
    codes, scale, zero = group4.quantize_weight(torch.full((2, 16), value), 16)
    expanded = group4.expand_weight(codes, scale, zero, torch.float32)
    torch.testing.assert_close(expanded, torch.full((2, 16), value), rtol=1e-5, atol=1e-25)
    moved = group4.expand_weight(codes, scale, zero - 0.5 / scale.float(), torch.float32)
    torch.testing.assert_close(moved, torch.full((2, 16), value + 0.5), rtol=1e-5, atol=1e-5)


def test_hqq_leaves_a_smaller_typical_error_where_there_are_outliers():
    weight = random_weight(64, 256) * 0.05
    weight[:, ::37] *= 8
    plain, solved = (
        (group4.expand_weight(*group4.quantize_weight(weight, 64, optimize=by), torch.float32))
        for by in (None, "hqq")
    )
    assert (solved - weight).abs().mean() < 0.99 * (plain - weight).abs().mean()


def test_the_gradient_of_the_input_is_that_of_the_expanded_weight():
    plain = torch.nn.Linear(32, 8)
    layer = group4.filled_layer(plain, 16, torch.float32, optimize=None, name="it")
    one, two = (random_weight(5, 32).requires_grad_() for _ in range(2))
    torch.nn.functional.linear(one, layer.dequantize(), plain.bias).square().sum().backward()
    seen = layer(two)
    seen.square().sum().backward()
    torch.testing.assert_close(two.grad, one.grad)
    assert not layer.weight.requires_grad


def test_inputs_that_make_no_groups_are_named():
    with pytest.raises(WeightsError, match=r"mlp\.up: its 40 inputs .* groups of 16.*skip_modules"):
        group4.empty_layer(torch.nn.Linear(40, 8), 16, torch.float32, "mlp.up")


# ----------------------------------------------------------------------------- a model


@pytest.mark.parametrize("step", [GROUP4, HQQ], ids=["min-max", "hqq"])
def test_a_model_computes_with_its_expanded_weights(bench, tiny_model, step):
    built = bench.build(step)
    layers = quantization.quantized_layers(built.model)
    assert len(layers) == 14
    assert "lm_head" not in layers
    for name, layer in layers.items():
        optimize = step["quantize"].get("optimize")
        codes, scale, zero = group4.quantize_weight(
            tiny_model.get_submodule(name).weight.data, 16, optimize=optimize
        )
        assert torch.equal(layer.weight, codes), name
        assert torch.equal(layer.scale, scale), name
        assert torch.equal(layer.zero, zero), name
    seen = bench.logits_of(built.model)
    assert not torch.equal(seen, bench.logits({"load": "fp32"}))
    assert torch.equal(bench.logits_of(quantization.expand(built.model, torch.float32)), seen)
    assert torch.equal(bench.logits(step, "dequantize"), seen)


def test_hqq_is_the_same_model_and_the_same_cached_checkpoint(bench):
    seen = bench.logits({"quantize": {"type": "hqq", "group_size": 16}})
    assert torch.equal(seen, bench.logits(HQQ))
    assert not torch.equal(seen, bench.logits(GROUP4)), "the solver moved nothing"
    folders = [path for path in (bench.context.cache / "quantized").iterdir() if path.is_dir()]
    assert len(folders) == 2
    assert torch.equal(
        bench.logits({"quantize": "hqq"}),
        bench.logits({"quantize": {**HQQ["quantize"], "group_size": 64}}),
    )


def test_an_adapter_goes_on_hqq_and_the_merge_says_the_way_round(bench):
    hqq = {"quantize": {"type": "hqq", "group_size": 16}}
    attached = bench.logits(hqq, ATTACH)
    assert not torch.allclose(attached, bench.logits(hqq), atol=1e-2)
    message = r"cannot be merged into group4 weights .*Put 'dequantize' before 'attach'.*qa-lora"
    with pytest.raises(WeightsError, match=message):
        bench.build(hqq, ATTACH, "merge")
    kept = bench.logits(hqq, "dequantize", ATTACH, "merge")
    torch.testing.assert_close(kept, attached, rtol=1e-4, atol=1e-4)
    again = bench.logits(hqq, "dequantize", ATTACH, "merge", hqq)
    assert not torch.equal(again, kept)


def test_it_is_quantised_once_and_loaded_from_the_cache(bench):
    first = bench.logits(GROUP4)
    (folder,) = [path for path in (bench.context.cache / "quantized").iterdir() if path.is_dir()]
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert torch.equal(bench.logits(GROUP4), first)
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    bench.build({"quantize": {"type": "group4", "group_size": 32}})
    bench.build(HQQ)
    folders = [path for path in (bench.context.cache / "quantized").iterdir() if path.is_dir()]
    assert len(folders) == 3


def test_bytes_and_parameters_are_counted(bench, tiny_model):
    facts = bench.build(GROUP4).facts
    linear = sum(
        tiny_model.get_submodule(name).weight.numel()
        for name in quantization.quantized_layers(bench.build(GROUP4).model)
    )
    everything = sum(p.numel() for p in tiny_model.parameters())
    assert facts["parameters"] == everything
    stored = linear // 2 + linear // 16 * (2 + 4) + 4 * (everything - linear)
    assert stored <= facts["weight_bytes"] <= stored + 256  # buffers of the rotary embedding
    assert "repacking" not in facts


def test_in_bf16_zeros_stay_in_float32(bench):
    built = bench.build({"load": "bf16"}, GROUP4)
    layers = quantization.quantized_layers(built.model).values()
    assert {layer.zero.dtype for layer in layers} == {torch.float32}
    assert {layer.scale.dtype for layer in layers} == {torch.bfloat16}
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    assert built.model.dtype == torch.bfloat16
    assert bench.logits_of(built.model).isfinite().all()


def test_a_model_that_was_cast_as_a_whole_is_refused(bench):
    model = bench.build(GROUP4).model.to(torch.bfloat16)
    with pytest.raises(WeightsError, match="zeros of group4 weights are bfloat16, not float32"):
        bench.logits_of(model)


def test_skipped_modules_stay(bench):
    built = bench.build({"quantize": {**GROUP4["quantize"], "skip_modules": ["v_proj"]}})
    names = quantization.quantized_layers(built.model)
    assert len(names) == 12
    assert not any("v_proj" in name for name in names)


def test_merged_weights_are_quantised_again(bench):
    merging = ({"load": "fp32"}, ATTACH, "merge")
    merged = bench.build(*merging).model
    for name, layer in quantization.quantized_layers(bench.build(*merging, GROUP4).model).items():
        codes, _, _ = group4.quantize_weight(merged.get_submodule(name).weight.data, 16)
        assert torch.equal(layer.weight, codes), name


def test_gpt2_gets_its_own_kind_of_layer_back(gpt2_bench, tmp_path):
    from transformers import AutoModelForCausalLM

    seen = gpt2_bench.logits(GROUP4)
    assert not torch.equal(seen, gpt2_bench.logits({"load": "fp32"}))
    built = gpt2_bench.build(GROUP4, "dequantize")
    assert torch.equal(gpt2_bench.logits_of(built.model), seen)
    save_variant(built, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(gpt2_bench.logits_of(again), seen)


@pytest.mark.gpu
def test_a_gpu_builds_the_same_model(bench):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    expected = bench.logits(GROUP4)
    bench.context = replace(bench.context, device="cuda", cache=bench.context.cache / "cuda")
    model = bench.build(GROUP4).model
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    torch.testing.assert_close(bench.logits_of(model.to("cpu")), expected, rtol=1e-2, atol=1e-2)
