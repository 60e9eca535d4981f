"""Adapters that do not belong on a base are refused before they are attached."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit.errors import WeightsError
from evalkit.weights.adapters import check_adapter

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
ATTACH = {"attach": "small"}


@pytest.fixture
def adapter(bench, tmp_path):
    return bench.make_adapter(tmp_path / "adapter")


def edit_tensors(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}},
        {"target_modules": "^model.layers.0.*v_proj$"},
    ],
    ids=str,
)
def test_adapters_of_every_shape_fit(bench, tiny_folder, tmp_path, fields):
    folder = bench.make_adapter(tmp_path / "adapter", **fields)
    check_adapter(folder, tiny_folder)
    assert torch.isfinite(bench.adding(small=folder).logits(ATTACH, "merge")).all()


def test_an_adapter_for_gpt2_fits_gpt2(gpt2_bench, tmp_path):
    folder = gpt2_bench.make_adapter(tmp_path / "adapter")
    check_adapter(folder, gpt2_bench.context.base.folder)
    bench = gpt2_bench.adding(small=folder)
    base = bench.logits({"quantize": "nf4"})
    attached = bench.logits({"quantize": "nf4"}, ATTACH)
    assert not torch.allclose(base, attached, atol=1e-2)
    kept = bench.logits({"quantize": "nf4"}, "dequantize", ATTACH, "merge")
    torch.testing.assert_close(kept, attached, rtol=1e-4, atol=1e-4)


def test_a_wrong_shape_names_module_found_and_expected(bench, adapter, tiny_folder):
    edit_tensors(adapter, lambda t: t.update({f"{MODULE}.lora_A.weight": torch.zeros(4, 96)}))
    message = r"layers\.0\.self_attn\.q_proj: lora_A is 4 × 96, expected 4 × 64"
    with pytest.raises(WeightsError, match=message):
        check_adapter(adapter, tiny_folder)
    with pytest.raises(WeightsError, match=message):
        bench.adding(small=adapter).build(ATTACH)


def test_an_adapter_for_another_model(adapter, tiny_gpt2_folder):
    with pytest.raises(WeightsError, match=r"the base has no module model\.layers"):
        check_adapter(adapter, tiny_gpt2_folder)


def test_a_rank_that_is_not_the_configurations(adapter, tiny_folder):
    edit_config(adapter, r=8)
    with pytest.raises(WeightsError, match=r"lora_A is 4 × (\d+), expected 8 × \1$"):
        check_adapter(adapter, tiny_folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(adapter, tiny_folder, number):
    def spoil(tensors):
        tensors[f"{MODULE}.lora_B.weight"][3, 1] = number

    edit_tensors(adapter, spoil)
    with pytest.raises(WeightsError, match=r"q_proj\.lora_B\.weight holds numbers that"):
        check_adapter(adapter, tiny_folder)


def test_weights_that_the_file_lacks(bench, adapter):
    edit_tensors(adapter, lambda tensors: tensors.pop(f"{MODULE}.lora_B.weight"))
    with pytest.raises(WeightsError, match=r"is not whole.*q_proj\.lora_B"):
        bench.adding(small=adapter).build(ATTACH)


def test_a_folder_without_configuration(bench, adapter):
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"adapter_config\.json is missing"):
        bench.adding(small=adapter).build(ATTACH)


def test_a_folder_without_safetensors(adapter, tiny_folder):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"Pickled adapters \(\.bin\) are not read"):
        check_adapter(adapter, tiny_folder)


def test_a_damaged_file(adapter, tiny_folder):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"adapter_model\.safetensors: is damaged"):
        check_adapter(adapter, tiny_folder)


def test_other_kinds_of_adapter(adapter, tiny_folder):
    edit_config(adapter, peft_type="IA3")
    with pytest.raises(WeightsError, match="of type IA3; only LORA"):
        check_adapter(adapter, tiny_folder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_adapter_is_once_on_a_gpu_while_it_is_attached(bench, tmp_path):
    wide = bench.make_adapter(tmp_path / "wide", r=2048)
    size = (wide / "adapter_model.safetensors").stat().st_size
    small = bench.adding(wide=wide)
    small.context = replace(small.context, device="cuda")
    small.build({"attach": "small"})
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    small.build({"attach": "wide"})
    assert size <= torch.cuda.max_memory_allocated() - before < 1.2 * size
