"""torchao's int8, where torchao is installed; without it, the message that says what to install."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from evalkit.errors import MissingPackageError, WeightsError
from evalkit.weights import quantization
from evalkit.weights.export import save_variant

INT8 = {"quantize": "torchao-int8"}
ATTACH = {"attach": "small"}
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs the optional package torchao"
)


def test_without_the_package_the_message_says_what_to_install(bench, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torchao" else find(name, *rest),
    )
    with pytest.raises(MissingPackageError, match="pip install torchao"):
        bench.build(INT8)


@needs_torchao
def test_it_is_quantised_counted_and_expanded(bench, tiny_model):
    built = bench.build(INT8)
    layers = quantization.quantized_layers(built.model)
    assert len(layers) == 14
    linear = sum(tiny_model.get_submodule(name).weight.numel() for name in layers)
    everything = sum(p.numel() for p in tiny_model.parameters())
    assert built.facts["parameters"] == everything
    rows = sum(tiny_model.get_submodule(name).out_features for name in layers)
    expected = linear + 4 * rows + 4 * (everything - linear)
    # One byte a row is a zero point, and the rotary embedding has buffers.
    assert expected <= built.facts["weight_bytes"] <= expected + rows + 256
    seen = bench.logits_of(built.model)
    plain = bench.logits(INT8, "dequantize")
    torch.testing.assert_close(plain, seen, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen, bench.logits({"load": "fp32"}), atol=1e-3)


@needs_torchao
def test_an_adapter_is_trained_attached_and_merged(bench, tmp_path):
    bench.train(bench.recipe(on=(INT8,), steps=4, learning_rate=1e-2), tmp_path / "out")
    trained = bench.adding(small=tmp_path / "out")
    base, attached = trained.logits(INT8), trained.logits(INT8, ATTACH)
    assert not torch.allclose(attached, base, atol=1e-2)
    merged = trained.logits(INT8, ATTACH, "merge")
    assert (merged - attached).norm() < 0.5 * (base - attached).norm()


@needs_torchao
def test_it_is_exported_as_it_is(bench, tmp_path):
    from transformers import AutoModelForCausalLM

    built = bench.build(INT8, ATTACH, "merge")
    save_variant(built, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, device_map={"": "cpu"}
    )
    assert torch.equal(bench.logits_of(again.eval()), bench.logits_of(built.model))


@needs_torchao
def test_a_model_without_such_layers_is_not_passed_off_as_quantised(gpt2_bench):
    with pytest.raises(WeightsError, match="nothing of this GPT2LMHeadModel was quantised"):
        gpt2_bench.build(INT8)
