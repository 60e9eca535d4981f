"""Each verb on a tiny model, quantised by bitsandbytes itself."""

from __future__ import annotations

import gc
import hashlib
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evalkit.errors import WeightsError
from evalkit.weights import quantization, verbs
from evalkit.weights.export import save_variant
from evalkit.weights.folders import written_aside

NF4 = {"quantize": "nf4"}
ATTACH = {"attach": "small"}
RELOADED = [
    {"quantize": "nf4"},
    {"quantize": {"type": "nf4", "double_quant": False}},
    {"quantize": {"type": "fp4", "skip_modules": ["v_proj"]}},
    {"quantize": "int8"},
]


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# ----------------------------------------------------------------------------- load


def test_load_gives_the_checkpoint_itself(bench, tiny_folder):
    from transformers import AutoModelForCausalLM

    built = bench.build({"load": "fp32"})
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    assert torch.equal(bench.logits_of(built.model), bench.logits_of(model))
    assert not built.model.training
    assert not any(parameter.requires_grad for parameter in built.model.parameters())
    assert built.facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert built.facts["weight_bytes"] >= 4 * built.facts["parameters"]
    assert "repacking" not in built.facts


def test_the_dtype_that_is_really_used_is_recorded(bench):
    built = bench.build({"load": "fp16"})
    assert built.facts["effective_dtype"] == "bf16"
    assert built.model.dtype == torch.bfloat16
    assert any("fp16 was computed in bf16" in note for note in built.facts["notes"])
    assert bench.build({"load": "bf16"}).facts["notes"] == []


def test_auto_is_the_checkpoints_own_dtype(bench):
    assert bench.build({"load": "auto"}).facts["effective_dtype"] == "fp32"


def test_progress_names_the_steps(bench):
    bench.build(NF4, ATTACH, "merge")
    assert [tick.phase for tick in bench.ticks] == [
        "load fp32, quantise nf4",
        "attach small",
        "merge",
    ]


# ----------------------------------------------------------------------------- quantize


def test_quantised_weights_are_those_of_bitsandbytes(bench, tiny_model):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    layers = quantization.quantized_layers(bench.build(NF4).model)
    assert len(layers) == 14
    for name, layer in layers.items():
        weight = tiny_model.get_submodule(name).weight.data
        codes, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        assert torch.equal(layer.weight.data, codes), name
        expanded = quantization.layer_weight(layer)
        assert torch.equal(expanded, dequantize_4bit(codes, state)), name


@pytest.mark.parametrize("step", RELOADED, ids=str)
def test_a_quantised_model_computes_with_its_expanded_weights(bench, step):
    """Bit for bit: no rearranged weights, no other kernel."""
    built = bench.build(step)
    seen = bench.logits_of(built.model)
    expanded = bench.logits_of(quantization.expand(built.model, torch.float32))
    if step["quantize"] == "int8":  # LLM.int8 quantises the activations too
        assert torch.nn.functional.cosine_similarity(seen, expanded, dim=-1).min() > 0.99
    else:
        assert torch.equal(seen, expanded)


def test_skipped_modules_and_the_output_layer_stay(bench):
    built = bench.build({"quantize": {"type": "nf4", "skip_modules": ["v_proj"]}})
    names = quantization.quantized_layers(built.model)
    assert not any("v_proj" in name or "lm_head" in name for name in names)
    assert len(names) == 12


def test_the_quantised_base_is_cached_and_never_changed(bench):
    bench.build(NF4)
    cached = bench.context.cache / "quantized"
    before = digests(cached)
    assert any(name.endswith(".safetensors") for name in before)
    for steps in (
        (NF4, ATTACH),
        (NF4, ATTACH, "merge"),
        (NF4, "dequantize", ATTACH, "merge", NF4),
    ):
        built = bench.build(*steps)
        bench.logits_of(built.model)
    assert digests(cached) == before


def test_a_damaged_cached_checkpoint_is_made_again(bench):
    before = bench.logits(NF4)
    (file,) = (bench.context.cache / "quantized").rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert torch.equal(bench.logits(NF4), before)
    assert file.read_bytes() == whole


def test_what_decides_the_bytes_is_in_the_caches_key(bench):
    bench.build(NF4)
    bench.build({"load": "bf16"}, NF4)
    bench.build({"quantize": {"type": "nf4", "double_quant": False}})
    bench.build(NF4)
    folders = [path for path in (bench.context.cache / "quantized").iterdir() if path.is_dir()]
    assert len(folders) == 3


def test_no_layer_is_rearranged_by_a_forward_pass(bench):
    built = bench.build(NF4)
    bench.logits_of(built.model)
    assert built.facts["repacking"] == "off"
    assert quantization.repacked_layers(built.model) == []


def merge_built(built, folder, context):
    verbs.merge(verbs.Build(context, built.folder, model=built.model))


VERBS = {
    "merge": merge_built,
    "dequantise": lambda built, folder, context: quantization.expand(built.model, torch.float32),
    "save": lambda built, folder, context: save_variant(built, folder),
}


@pytest.mark.parametrize("verb", VERBS)
def test_rearranged_weights_are_refused(bench, verb, tmp_path):
    """As they are after an eval forward where rearranging was not switched off."""
    built = bench.build(NF4, ATTACH)
    layer = next(iter(quantization.quantized_layers(built.model).values()))
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(WeightsError, match=f"cannot {verb}: bitsandbytes has rearranged"):
        VERBS[verb](built, tmp_path / "out", bench.context)


def test_a_full_disk_leaves_no_half_checkpoint(bench, monkeypatch):
    from transformers import PreTrainedModel

    def fill(self, folder, **fields):
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", fill)
        with pytest.raises(WeightsError, match="the disk is full"):
            bench.build(NF4)
    left = [path for path in (bench.context.cache / "quantized").iterdir() if path.is_dir()]
    assert left == []
    assert bench.build(NF4).facts["repacking"] == "off"


def interrupted(folder):
    with written_aside(folder) as aside:
        (aside / "file").write_text("half")
        raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------- dequantize


@pytest.mark.parametrize("step", RELOADED, ids=str)
def test_dequantise_is_exact(bench, step):
    quantised = bench.build(step).model
    plain = bench.build(step, "dequantize").model
    assert quantization.quantized_layers(plain) == {}
    for name, layer in quantization.quantized_layers(quantised).items():
        assert torch.equal(plain.get_submodule(name).weight, quantization.layer_weight(layer)), name
    assert not hasattr(plain.config, "quantization_config")


def test_dequantise_to_another_dtype_changes_all_parameters(bench):
    built = bench.build(NF4, {"dequantize": "bf16"})
    assert {parameter.dtype for parameter in built.model.parameters()} == {torch.bfloat16}
    assert built.facts["effective_dtype"] == "bf16"
    assert torch.isfinite(bench.logits_of(built.model)).all()


def test_dequantised_gpt2_gets_its_own_kind_of_layer_back(gpt2_bench, tmp_path):
    from transformers import AutoModelForCausalLM

    built = gpt2_bench.build(NF4, "dequantize")
    seen = gpt2_bench.logits_of(built.model)
    assert torch.equal(seen, gpt2_bench.logits(NF4))
    save_variant(built, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(gpt2_bench.logits_of(again), seen)


# ----------------------------------------------------------------------------- attach


def test_attach_moves_the_logits_by_what_the_adapter_says(bench, tiny_model, tiny_adapter):
    from safetensors.torch import load_file

    tensors = load_file(tiny_adapter / "adapter_model.safetensors")
    for name in [name for name in tensors if "lora_A" in name]:
        module = tiny_model.get_submodule(
            name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        )
        module.weight.data += tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    seen = bench.logits({"load": "fp32"}, ATTACH)
    torch.testing.assert_close(seen, bench.logits_of(tiny_model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen, bench.logits({"load": "fp32"}), atol=1e-2)


def test_detaching_an_adapter_gives_back_the_same_base(bench):
    for step in RELOADED:
        base = bench.logits(step)
        built = bench.build(step, ATTACH)
        attached = bench.logits_of(built.model)
        assert not torch.equal(attached, base)
        assert torch.equal(bench.logits_of(built.model.unload()), base), step


def test_two_adapters_add_up(bench, tmp_path):
    other = bench.make_adapter(tmp_path / "other", scale=0.05)
    both = bench.adding(other=other)
    stacked = both.logits({"load": "fp32"}, ATTACH, {"attach": "other"})
    in_turn = both.logits({"load": "fp32"}, ATTACH, "merge", {"attach": "other"}, "merge")
    torch.testing.assert_close(stacked, in_turn, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(stacked, both.logits({"load": "fp32"}, ATTACH), atol=1e-2)


def test_adapters_are_swapped_without_a_trace(bench, tmp_path):
    other = bench.make_adapter(tmp_path / "other", scale=0.05)
    both = bench.adding(other=other)
    one, two = both.logits(NF4, ATTACH), both.logits(NF4, {"attach": "other"})
    assert not torch.allclose(one, two, atol=1e-2)
    built = both.build(NF4, ATTACH, {"attach": "other"})
    stacked = both.logits_of(built.model)
    for name, expected in (("small", one), ("other", two)):
        built.model.set_adapter(name)
        assert torch.equal(both.logits_of(built.model), expected), name
    order = both.logits(NF4, {"attach": "other"}, ATTACH)
    torch.testing.assert_close(order, stacked, rtol=1e-4, atol=1e-4)


def test_a_whole_fine_tuned_model_replaces_the_weights(bench, tiny_model, tmp_path):
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(1.5)
    tiny_model.save_pretrained(tmp_path / "tuned")
    full = bench.adding(small=tmp_path / "tuned")
    full.context = replace(full.context, full=frozenset({"small"}))
    assert torch.equal(full.logits({"load": "fp32"}, ATTACH), bench.logits_of(tiny_model))
    # Nothing is on top of it, so a merge leaves it alone, and it can be quantised.
    merged = full.logits({"load": "fp32"}, ATTACH, "merge")
    assert torch.equal(merged, bench.logits_of(tiny_model))
    few_bits = full.build({"load": "fp32"}, ATTACH, "merge", NF4)
    assert quantization.quantized_layers(few_bits.model)


# ----------------------------------------------------------------------------- merge


def test_merging_into_16_bits_keeps_the_adapter(bench):
    merged = bench.logits({"load": "fp32"}, ATTACH, "merge")
    attached = bench.logits({"load": "fp32"}, ATTACH)
    torch.testing.assert_close(merged, attached, rtol=1e-4, atol=1e-4)


def test_merging_in_place_is_what_peft_does_on_4_bit_weights(bench, tiny_folder, tiny_adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    quantization.disable_repacking()
    model = AutoModelForCausalLM.from_pretrained(
        tiny_folder, quantization_config=bits, dtype=torch.float32, device_map={"": "cpu"}
    )
    with pytest.warns(UserWarning, match="Merge lora module to 4-bit"):
        expected = PeftModel.from_pretrained(model, tiny_adapter).merge_and_unload().eval()
    built = bench.build(NF4, ATTACH, "merge")
    assert torch.equal(bench.logits_of(built.model), bench.logits_of(expected))
    assert [note for note in built.facts["notes"] if "14 layers" in note]


@pytest.mark.filterwarnings("error:Merge lora module")
def test_the_warning_for_every_layer_becomes_one_note(bench):
    notes = bench.build(NF4, ATTACH, "merge").facts["notes"]
    assert len(notes) == 1


def test_a_merge_in_place_loses_an_adapter_that_a_16_bit_merge_keeps(bench):
    base, wanted = bench.logits(NF4), bench.logits(NF4, ATTACH)
    far = (base - wanted).norm()
    kept = bench.logits(NF4, "dequantize", ATTACH, "merge")
    assert (kept - wanted).norm() < 0.01 * far
    lost = bench.logits(NF4, ATTACH, "merge")
    assert (lost - wanted).norm() > 0.5 * far


def test_a_layer_that_was_expanded_is_given_up_at_once(bench):
    """Its weight points back at it: a circle, which nothing but a collection would free."""
    model = bench.build(NF4).model
    gc.collect()
    layers = [weakref.ref(layer) for layer in quantization.quantized_layers(model).values()]
    assert len(layers) == 14
    gc.disable()
    try:
        quantization.expand(model, torch.float32)
        assert [layer() for layer in layers] == [None] * 14
    finally:
        gc.enable()


def test_quantising_a_merged_model_equals_quantising_each_weight(bench):
    from bitsandbytes.functional import quantize_4bit

    merging = (NF4, "dequantize", ATTACH, "merge")
    merged = bench.build(*merging).model
    again = bench.build(*merging, NF4).model
    for name, layer in quantization.quantized_layers(again).items():
        weight = merged.get_submodule(name).weight.data
        codes, _ = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        assert torch.equal(layer.weight.data, codes), name
    assert list((bench.context.cache / "scratch").iterdir()) == []


@pytest.mark.gpu
@pytest.mark.parametrize("verbs", [(NF4,), (NF4, ATTACH), (NF4, "dequantize", ATTACH, "merge")])
def test_a_gpu_builds_the_same_model(bench, verbs):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    expected = bench.logits(*verbs)
    bench.context = replace(bench.context, device="cuda")
    model = bench.build(*verbs).model
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    torch.testing.assert_close(bench.logits_of(model.to("cpu")), expected, rtol=1e-2, atol=1e-2)
