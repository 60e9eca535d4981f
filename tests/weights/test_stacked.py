"""Adapters on top of each other are exported as one that does what they do together."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from evalkit.errors import WeightsError
from evalkit.weights import quantization
from evalkit.weights.export import save_variant
from evalkit.weights.stacked import stack_adapters

NF4 = {"quantize": "nf4"}
FP32 = {"load": "fp32"}
GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
BOTH = ({"attach": "small"}, {"attach": "other"})
OTHERS = {
    "another rank and scaling": {"r": 6, "lora_alpha": 9},
    "rslora": {"r": 8, "lora_alpha": 4, "use_rslora": True},
    "other layers": {"target_modules": ["v_proj", "up_proj"], "r": 2},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}},
    "scalings by pattern": {"alpha_pattern": {".*layers.1.*": 11}},
    "some layers only": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "dropout": {"lora_dropout": 0.5},
}


def stacked(bench, folder, **fields):
    """The bench with a second adapter, larger than the first."""
    return bench.adding(other=bench.make_adapter(folder, scale=0.05, **fields))


def reload(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map={"": "cpu"}
    )
    return model.eval()


def assert_exported(bench, out, *path):
    """The folder scores as the stack does, which no part of the stack does."""
    built = bench.build(*path)
    expected = bench.logits_of(built.model)
    save_variant(built, out)
    assert torch.equal(bench.logits_of(built.model), expected), "saving changed the model in memory"
    seen = bench.logits_of(reload(out))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    for attached in (path[-2:-1], path[-1:], ()):
        part = bench.logits(*path[:-2], *attached)
        assert not torch.allclose(part, expected, atol=1e-3), attached
    return built


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
def test_the_folder_scores_as_the_stack(bench, tmp_path, fields):
    assert_exported(stacked(bench, tmp_path / "other", **fields), tmp_path / "out", FP32, *BOTH)


@pytest.mark.parametrize(
    "base", [(NF4,), ({"quantize": "int8"},), (GROUP4,), (NF4, "dequantize")], ids=str
)
def test_on_quantised_weights_too(bench, tmp_path, base):
    bench = stacked(bench, tmp_path / "other", r=6, lora_alpha=9)
    built = assert_exported(bench, tmp_path / "out", *base, *BOTH)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert ("quantization_config" in config) == (base in ((NF4,), ({"quantize": "int8"},)))
    assert bool(quantization.quantized_layers(built.model)) == ("dequantize" not in base)


def test_gpt2_too(gpt2_bench, tmp_path):
    bench = gpt2_bench.adding(small=gpt2_bench.make_adapter(tmp_path / "small"))
    bench = stacked(bench, tmp_path / "other", r=6, target_modules=["c_attn", "c_fc"])
    for index, base in enumerate((FP32, NF4)):
        assert_exported(bench, tmp_path / f"out{index}", base, *BOTH)


def test_three_of_which_one_goes_on_what_another_left(bench, tmp_path):
    """An adapter merged before, and three on top: only what is on top is in the adapter."""
    bench = stacked(bench, tmp_path / "other", r=3)
    third = bench.make_adapter(tmp_path / "third", scale=0.1, r=5, target_modules=["o_proj"])
    bench = bench.adding(third=third, merged=bench.make_adapter(tmp_path / "merged"))
    path = (FP32, {"attach": "merged"}, "merge", *BOTH, {"attach": "third"})
    built = bench.build(*path)
    expected = bench.logits_of(built.model)
    save_variant(built, tmp_path / "out")
    torch.testing.assert_close(
        bench.logits_of(reload(tmp_path / "out")), expected, rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(bench.logits(*path[:-1]), expected, atol=1e-3)


@pytest.mark.parametrize("init", ["loftq", "pissa"])
def test_adapters_with_first_weights_of_their_own(bench, tmp_path, init):
    spec = bench.recipe(lora={"init": init}, steps=4, learning_rate=1e-2)
    bench.train(spec, tmp_path / "trained")
    assert_exported(bench.adding(other=tmp_path / "trained"), tmp_path / "out", NF4, *BOTH)


def test_the_product_is_the_sum_of_the_products(bench, tmp_path, tiny_adapter):
    """By the algebra, from the saved tensors, in float64."""
    other = bench.make_adapter(tmp_path / "other", r=8, lora_alpha=4, use_rslora=True)
    model = bench.adding(other=other).build(NF4, *BOTH).model
    adapter = stack_adapters(model)
    parts = [
        (load_file(folder / "adapter_model.safetensors"), scaling)
        for folder, scaling in ((tiny_adapter, 1.0), (other, 4 / 8**0.5))
    ]
    firsts = [name for name in adapter.tensors if "lora_A" in name]
    assert len(firsts) == 14
    for first in firsts:
        second = first.replace("lora_A", "lora_B")
        wanted = sum(
            scaling * (tensors[second].double() @ tensors[first].double())
            for tensors, scaling in parts
        )
        assert adapter.tensors[first].shape[0] == 12
        happened = adapter.tensors[second].double() @ adapter.tensors[first].double()
        torch.testing.assert_close(happened, wanted, rtol=1e-5, atol=1e-7)


def test_peft_loads_it_on_the_base_alone(bench, tmp_path):
    """The two files are a peft adapter: on the untouched base it is the stack."""
    bench = stacked(bench, tmp_path / "other", r=6, target_modules=["q_proj", "down_proj"])
    expected = bench.logits(NF4, *BOTH)
    (tmp_path / "one").mkdir()
    stack_adapters(bench.build(NF4, *BOTH).model).write(tmp_path / "one")
    alone = bench.adding(small=tmp_path / "one")
    torch.testing.assert_close(
        alone.logits(NF4, {"attach": "small"}), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "'other' cannot be written together .* use_dora: True"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, "modules_to_save: "),
        ({"bias": "lora_only"}, "bias: lora_only"),
    ],
    ids=str,
)
def test_what_is_no_product_is_refused(bench, tmp_path, fields, message):
    bench = stacked(bench, tmp_path / "other", **fields)
    with pytest.raises(WeightsError, match=f"several adapters are on top.*{message}.*'merge'"):
        save_variant(bench.build(FP32, *reversed(BOTH)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
