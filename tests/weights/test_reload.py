"""What is in memory scores as what is saved and loaded again; where it does not, that is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evalkit import paths
from evalkit.weights import loading, quantization
from evalkit.weights.checks import check_finite_weights
from evalkit.weights.reload import check_reload, needs_reload_check, probe_losses

NF4 = {"quantize": "nf4"}
PLAIN = {"quantize": {"type": "nf4", "double_quant": False}}
ATTACH = {"attach": "small"}
PATHS = {
    "nf4": (NF4,),
    "fp4": ({"quantize": "fp4"},),
    "int8": ({"quantize": "int8"},),
    "nf4+adapter": (NF4, ATTACH),
    "fp32+adapter": ({"load": "fp32"}, ATTACH),
    "merged-4bit": (NF4, ATTACH, "merge"),
    "dequant-merged": (NF4, "dequantize", ATTACH, "merge"),
    "requantized": (NF4, "dequantize", ATTACH, "merge", NF4),
    "merged-nf4": (ATTACH, "merge", NF4),
    "group4": ({"quantize": {"type": "group4", "group_size": 16}}, ATTACH),
    "torchao": ({"quantize": "torchao-int8"}, ATTACH, "merge"),
}


def check(bench, built):
    return check_reload(built, bench.context, job="score tiny", on_progress=bench.ticks.append)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", PATHS)
def test_sound_variants_are_equal_to_the_last_bit(bench, name, dtype):
    if name == "torchao":
        pytest.importorskip("torchao")
    steps = [step for step in PATHS[name] if step != {"load": "fp32"}]
    built = bench.build({"load": dtype}, *steps)
    bench.logits_of(built.model)
    assert check_finite_weights(built.model).ok
    finding = check(bench, built)
    assert finding.ok, finding.message
    assert "saving and loading are the same, over 512 tokens" in finding.message
    assert built.model is None
    assert list((bench.context.cache / "scratch").iterdir()) == []


def test_gpt2_and_two_adapters(gpt2_bench, tmp_path):
    bench = gpt2_bench.adding(
        small=gpt2_bench.make_adapter(tmp_path / "one"),
        other=gpt2_bench.make_adapter(tmp_path / "two", use_dora=True),
    )
    built = bench.build(NF4, ATTACH, {"attach": "other"})
    assert "are the same" in check(bench, built).message


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_first_weights_that_peft_splits_off_the_base_are_split_off_once(bench, tmp_path, init):
    adapter = bench.make_adapter(tmp_path / "adapter", init_lora_weights=init)
    built = bench.adding(small=adapter).build({"load": "fp32"}, ATTACH)
    finding = check(bench, built)
    assert finding.ok, finding.message


def test_every_token_is_scored_once_and_the_text_is_fixed(bench):
    built = bench.build({"load": "fp32"})
    losses = probe_losses(built.model, built.tokenizer)
    assert losses.shape == (512,)
    assert np.isfinite(losses).all()
    assert np.array_equal(losses, probe_losses(built.model, built.tokenizer))


def test_what_was_only_read_needs_no_check():
    assert not needs_reload_check(paths.normalise([{"load": "fp16"}], dtype="fp16"))
    assert needs_reload_check(paths.normalise([NF4], dtype="fp16"))


# ----------------------------------------------------------------------------- planted


@pytest.fixture
def repacking(monkeypatch):
    """Lets bitsandbytes rearrange weights again, as it does by itself on such CPUs."""
    import bitsandbytes.nn.modules as layers
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16: bitsandbytes rearranges nothing here")
    monkeypatch.setattr(loading, "disable_repacking", lambda: None)
    monkeypatch.setattr(layers, "has_avx512bf16", has_avx512bf16)


@pytest.mark.parametrize("step", [NF4, PLAIN], ids=["double", "single"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_repacking_of_bitsandbytes_is_found(bench, repacking, step, dtype):
    built = bench.build({"load": dtype}, step)
    assert quantization.repacked_layers(built.model) == []
    bench.logits_of(built.model)
    assert len(quantization.repacked_layers(built.model)) == 14
    finding = check(bench, built)
    assert finding.fails, finding.message
    assert "bitsandbytes has rearranged 14 layers in place" in finding.message


def test_codes_that_are_saved_in_another_order_are_found(bench, monkeypatch):
    """The same fault where the CPU cannot do it by itself: what is saved is not what computes."""
    from bitsandbytes.nn import Linear4bit

    save = Linear4bit._save_to_state_dict

    def shuffled(self, destination, prefix, keep_vars):
        save(self, destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].roll(64, 0)

    monkeypatch.setattr(Linear4bit, "_save_to_state_dict", shuffled)
    finding = check(bench, bench.build(NF4, ATTACH))
    assert finding.fails
    assert "what was scored is not what its files say" in finding.message


def test_a_scale_that_changed_in_memory_alone_is_found(bench, monkeypatch):
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def forgetting(self, folder, **given):
        with torch.no_grad():
            self.model.norm.weight.mul_(1.1)
        save(self, folder, **given)

    built = bench.build(NF4)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", forgetting)
    assert check(bench, built).fails


def test_what_cannot_be_saved_is_said(bench, monkeypatch):
    from transformers import PreTrainedModel

    def refuse(self, folder, **given):
        raise NotImplementedError("this quantisation cannot be saved")

    built = bench.build(NF4)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", refuse)
    finding = check(bench, built)
    assert not finding.ok
    assert "cannot be saved: this quantisation cannot be saved" in finding.message
    assert not finding.fails
