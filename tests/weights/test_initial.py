"""LoftQ and PiSSA: what an adapter starts as, and the base that it then needs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from evalkit.errors import TrainingError, WeightsError
from evalkit.weights import quantization
from evalkit.weights.initial import needed_base
from evalkit.weights.residual import read_factors, top_factors

NF4 = {"quantize": "nf4"}
GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
FP32 = {"load": "fp32"}
ATTACH = {"attach": "small"}
QUIET = {"steps": 1, "learning_rate": 1e-12}
"""A training that leaves the first weights as they are."""
NAME = "model.layers.1.mlp.down_proj"


def train(bench, out, *, init, on=(NF4,), lora=None, **fields):
    spec = bench.recipe(on=on, lora={"init": init, **(lora or {})}, **{"seed": 3, **fields})
    bench.train(spec, out)
    return bench.adding(small=out)


def error_of(built, tiny_model):
    """‖W − W′‖ of all adapted layers together."""
    differences = [
        (module.weight - built.model.get_submodule(name).weight).detach().flatten()
        for name, module in tiny_model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    return float(torch.cat(differences).norm())


def test_top_factors_are_the_best_approximation():
    weight = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = top_factors(weight, 3)
    left, values, right = torch.linalg.svd(weight)
    best = left[:, :3] @ torch.diag(values[:3]) @ right[:3]
    torch.testing.assert_close((second @ first).double(), best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.norm(), second.norm())


def test_a_rank_beyond_the_matrixs_own_is_filled_with_zeros():
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    first, second = top_factors(weight, 8)
    assert (first.shape, second.shape) == ((8, 12), (5, 8))
    torch.testing.assert_close(second @ first, weight, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------- LoftQ


@pytest.mark.parametrize("on", [NF4, {"quantize": "fp4"}, {"quantize": "int8"}, GROUP4], ids=str)
def test_loftq_starts_closer_to_the_weights_than_quantising_left_them(
    bench, tmp_path, tiny_model, on
):
    started = train(bench, tmp_path / "out", init="loftq", on=(on,), lora={"r": 16}, **QUIET)
    lost = error_of(bench.build(on, "dequantize"), tiny_model)
    left = error_of(started.build(on, "dequantize", ATTACH, "merge"), tiny_model)
    assert left < 0.85 * lost


def test_loftqs_first_weights_are_those_of_the_lost_part(bench, tmp_path, tiny_model):
    lora = {"r": 4, "alpha": 2.0, "use_rslora": True}
    train(bench, tmp_path / "out", init="loftq", lora=lora, **QUIET)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    first, second = (
        tensors[f"base_model.model.{NAME}.lora_{part}.weight"].float() for part in "AB"
    )
    layer = quantization.quantized_layers(bench.build(NF4).model)[NAME]
    lost = tiny_model.get_submodule(NAME).weight - quantization.layer_weight(layer).float()
    left, values, right = torch.linalg.svd(lost)
    best = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    assert (second @ first * (2.0 / 4**0.5) - best).norm() < 1e-4 * best.norm()


def test_loftq_leaves_the_base_alone(bench, tmp_path):
    trained = train(bench, tmp_path / "out", init="loftq")
    assert torch.equal(trained.logits(NF4), bench.logits(NF4))
    assert not (bench.context.cache / "residuals").exists()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True, "peft would initialise it again on loading"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((FP32,), "these weights are not quantised"),
        (({"quantize": "fp4"},), "went through 'quantise fp4'"),
        (({"quantize": {"type": "nf4", "double_quant": False}},), "no double quantisation"),
    ],
    ids=str,
)
def test_loftq_goes_on_what_it_was_trained_on(bench, tmp_path, path, message):
    trained = train(bench, tmp_path / "out", init="loftq")
    assert trained.logits(NF4, "dequantize", ATTACH).isfinite().all()
    with pytest.raises(WeightsError, match=f"what 'quantise nf4' lost; .*{message}"):
        trained.build(*path, ATTACH)


def test_loftq_starts_nothing_that_is_not_quantised(bench, tmp_path):
    skipping = {"quantize": {"type": "nf4", "skip_modules": ["v_proj"]}}
    with pytest.raises(TrainingError, match=r"has nothing to start .*v_proj from"):
        train(bench, tmp_path / "out", init="loftq", on=(skipping,))


# ----------------------------------------------------------------------------- PiSSA


def test_pissa_starts_as_the_base_itself(bench, tmp_path):
    started = train(bench, tmp_path / "out", init="pissa", on=(FP32,), **QUIET)
    whole = bench.logits(FP32)
    torch.testing.assert_close(started.logits(FP32, ATTACH), whole, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(started.logits(FP32, ATTACH, "merge"), whole, rtol=1e-3, atol=1e-3)
    assert torch.equal(started.logits(FP32), whole), "without the adapter the base is the base"


def test_pissa_quantises_the_residual(bench, tmp_path, tiny_model):
    started = train(bench, tmp_path / "out", init="pissa", lora={"r": 16}, **QUIET)
    lost = error_of(bench.build(NF4, "dequantize"), tiny_model)
    left = error_of(started.build(NF4, "dequantize", ATTACH, "merge"), tiny_model)
    assert left < 0.95 * lost


def test_every_path_that_attaches_it_starts_from_the_residual(bench, tmp_path, tiny_model):
    trained = train(bench, tmp_path / "out", init="pissa", steps=6, learning_rate=1e-2)
    (residual,) = [p for p in (bench.context.cache / "residuals").iterdir() if p.is_dir()]
    first, second = read_factors(residual)[NAME]
    rest = tiny_model.get_submodule(NAME).weight - second @ first
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{NAME}.lora_{part}.weight"].float() for part in "AB")
    assert not torch.allclose(b @ a * 8, second @ first, atol=1e-3), "nothing was learnt"
    merged = trained.build(FP32, ATTACH, "merge").model.get_submodule(NAME).weight
    torch.testing.assert_close(merged, rest + b @ a * 8, rtol=1e-4, atol=1e-5)
    attached = trained.build(NF4, ATTACH).model.base_model.model.get_submodule(NAME).base_layer
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(rest, quant_type="nf4", compress_statistics=True)
    assert torch.equal(quantization.layer_weight(attached), dequantize_4bit(codes, state))
    assert torch.equal(trained.logits(NF4), bench.logits(NF4)), "the plain variant is untouched"


def test_the_residual_is_made_once_and_digested(bench, tmp_path):
    train(bench, tmp_path / "one", init="pissa")
    train(bench, tmp_path / "two", init="pissa", seed=4)
    residuals = [p for p in (bench.context.cache / "residuals").iterdir() if p.is_dir()]
    assert len(residuals) == 1
    need = needed_base(tmp_path / "one")
    assert need == needed_base(tmp_path / "two")
    assert len(need["residual"]) == 64
    assert need["base"] == bench.context.base.digest
    train(bench, tmp_path / "three", init="pissa", lora={"r": 2})
    assert needed_base(tmp_path / "three")["residual"] != need["residual"]


def test_gpt2_too(gpt2_bench, tmp_path):
    started = train(gpt2_bench, tmp_path / "out", init="pissa", on=(FP32,), **QUIET)
    whole = gpt2_bench.logits(FP32)
    torch.testing.assert_close(started.logits(FP32, ATTACH), whole, rtol=1e-3, atol=1e-3)
    started = train(gpt2_bench, tmp_path / "loftq", init="loftq", lora={"r": 16}, **QUIET)
    far = (gpt2_bench.logits(NF4) - whole).norm()
    assert (started.logits(NF4, ATTACH) - whole).norm() < far


def test_another_residual_and_another_base_are_refused(bench, tmp_path):
    trained = train(bench, tmp_path / "out", init="pissa")
    file = tmp_path / "out" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["evalkit_init"]["residual"] = "0" * 64
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"residual with the digest 0{12}, and the one computed"):
        trained.build(FP32, ATTACH)
    trained.context = replace(trained.context, base=replace(trained.context.base, digest="another"))
    with pytest.raises(WeightsError, match="initialised by PiSSA from other weights"):
        trained.build(FP32, ATTACH)


def test_a_residual_can_be_filled_up_once(bench, tmp_path):
    trained = train(bench, tmp_path / "one", init="pissa").adding(other=tmp_path / "one")
    with pytest.raises(WeightsError, match="small and other were initialised by PiSSA"):
        trained.build(FP32, ATTACH, {"attach": "other"})


def test_a_plain_adapter_can_be_stacked_on_it(bench, tmp_path, tiny_adapter):
    trained = train(bench, tmp_path / "one", init="pissa").adding(other=tiny_adapter)
    one = trained.logits(FP32, ATTACH, {"attach": "other"})
    two = trained.logits(FP32, {"attach": "other"}, "merge", ATTACH)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
