"""The eight presets that everybody names, each against weights that are worked out by hand.

On a Llama, on a GPT-2 (Conv1D layers, and one table for input and output), on a tied Llama.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from evalkit import paths
from evalkit.weights import quantization
from evalkit.weights.export import save_variant
from evalkit.weights.steps import build_variant

ALPHA, RANK = 8, 4
SCALING = ALPHA / RANK
IN_FOUR_BITS = {"nf4", "nf4+adapter", "merged-4bit", "requantized", "fp16-merged-nf4"}
SAME = (
    {"nf4+adapter", "dequant-merged"},  # the adapter on top, or added in full precision
    {"merged-4bit", "requantized"},  # one merges in place, one beside: the same rounding twice
)


def nf4(weight):
    """What NF4 with double quantisation leaves of a weight, by bitsandbytes' own functions."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(
        weight.contiguous(), quant_type="nf4", compress_statistics=True, blocksize=64
    )
    return dequantize_4bit(codes, state)


BY_HAND = {
    "fp16": lambda weight, delta: weight,
    "nf4": lambda weight, delta: nf4(weight),
    "nf4+adapter": lambda weight, delta: nf4(weight) + delta,
    "merged-4bit": lambda weight, delta: nf4(nf4(weight) + delta),
    "dequant-merged": lambda weight, delta: nf4(weight) + delta,
    "requantized": lambda weight, delta: nf4(nf4(weight) + delta),
    "fp16-merged": lambda weight, delta: weight + delta,
    "fp16-merged-nf4": lambda weight, delta: nf4(weight + delta),
}


@pytest.fixture(params=["llama", "gpt2", "tied"])
def any_bench(request, tmp_path):
    """A bench whose `small` is a LoRA that is seen beside the rounding of 4 bits.

    It computes fp16 in float32, as a CPU without bfloat16 does: the sums by hand are then exact.
    """
    name = {"llama": "bench", "gpt2": "gpt2_bench", "tied": "tied_bench"}[request.param]
    bench = request.getfixturevalue(name)
    bench.context = replace(bench.context, effective_dtypes={"fp32": "fp32", "fp16": "fp32"})
    adapter = bench.make_adapter(tmp_path / "adapter", scale=0.1, r=RANK, lora_alpha=ALPHA)
    return bench.adding(small=adapter)


def build(bench, preset):
    path = paths.normalise(paths.preset_path(preset, ["small"]), dtype="fp16")
    assert paths.check(path, adapters={"small": "lora"}) == []
    return build_variant(path, bench.context, job=preset, on_progress=bench.ticks.append)


def model_by_hand(bench, preset):
    """The base with the weight of every adapted layer as `BY_HAND` says: (model, layers)."""
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    model = AutoModelForCausalLM.from_pretrained(bench.context.base.folder, dtype=torch.float32)
    tensors = load_file(bench.context.adapters["small"] / "adapter_model.safetensors")
    firsts = [name for name in tensors if "lora_A" in name]
    names = [name.removeprefix("base_model.model.").split(".lora_A")[0] for name in firsts]
    for name, first in zip(names, firsts, strict=True):
        layer = model.get_submodule(name)
        turned = isinstance(layer, Conv1D)
        weight = layer.weight.data.T if turned else layer.weight.data
        delta = SCALING * tensors[first.replace("lora_A", "lora_B")] @ tensors[first]
        changed = BY_HAND[preset](weight, delta)
        layer.weight.data = (changed.T if turned else changed).contiguous()
    return model.eval(), set(names)


@pytest.mark.parametrize("preset", BY_HAND)
def test_a_preset_is_the_model_by_hand(any_bench, preset):
    built = build(any_bench, preset)
    seen = any_bench.logits_of(built.model)
    model, names = model_by_hand(any_bench, preset)
    torch.testing.assert_close(seen, any_bench.logits_of(model), rtol=1e-3, atol=1e-3)
    for other in BY_HAND:
        if other != preset and {preset, other} not in SAME:
            apart = (any_bench.logits_of(model_by_hand(any_bench, other)[0]) - seen).abs().max()
            assert apart > 0.05, f"{other} cannot be told from {preset} here"
    on_top = preset == "nf4+adapter"
    assert hasattr(built.model, "peft_config") == on_top
    base = built.model.unload() if on_top else built.model
    quantised = set(quantization.quantized_layers(base))
    assert quantised == (names if preset in IN_FOUR_BITS else set())


@pytest.mark.parametrize("preset", BY_HAND)
def test_a_preset_is_exported_as_what_it_is(any_bench, tmp_path, preset):
    from transformers import AutoModelForCausalLM

    built = build(any_bench, preset)
    table = built.model.get_input_embeddings().weight
    tied = built.model.get_output_embeddings().weight is table
    assert tied == built.model.config.tie_word_embeddings
    expected = any_bench.logits_of(built.model)
    save_variant(built, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, device_map={"": "cpu"}
    )
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    assert torch.equal(any_bench.logits_of(again.eval()), expected)
