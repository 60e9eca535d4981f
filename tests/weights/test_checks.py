"""Each check finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit import paths
from evalkit.suite import LoraSpec
from evalkit.weights import quantization
from evalkit.weights.checks import (
    check_finite_weights,
    check_flavour,
    check_zero_adapter,
)

NF4 = {"quantize": "nf4"}
ATTACH = {"attach": "small"}


def rewrite(folder: Path, change) -> Path:
    """Changes an adapter's tensors by name."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: change(name, tensor) for name, tensor in tensors.items()}, file)
    return folder


# ----------------------------------------------------------------------------- finite


@pytest.mark.parametrize(
    "steps", [({"load": "fp32"},), (NF4, ATTACH), ({"quantize": "int8"},), (NF4, ATTACH, "merge")]
)
def test_sound_weights_are_finite(bench, steps):
    finding = check_finite_weights(bench.build(*steps).model)
    assert finding.ok
    assert not finding.fails


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_found(bench, bad):
    built = bench.build({"load": "fp32"})
    built.model.model.layers[1].mlp.up_proj.weight.data[3, 5] = bad
    finding = check_finite_weights(built.model)
    assert finding.fails
    assert "model.layers.1.mlp.up_proj.weight" in finding.message


def test_scales_of_quantised_weights_are_looked_at(bench):
    built = bench.build({"quantize": {"type": "nf4", "double_quant": False}})
    layer = built.model.model.layers[0].self_attn.q_proj
    layer.weight.quant_state.absmax[2] = math.nan
    finding = check_finite_weights(built.model)
    assert finding.fails
    assert "layers.0.self_attn.q_proj.weight.absmax" in finding.message


def test_looking_does_not_touch_rearranged_weights(bench):
    built = bench.build(NF4)
    layer = built.model.model.layers[0].self_attn.q_proj
    layer.weight.quant_state.packing_format_for_cpu = True
    before = layer.weight.data.clone()
    assert check_finite_weights(built.model).ok
    assert torch.equal(layer.weight.data, before)


# ----------------------------------------------------------------------------- adapters


def test_an_adapter_that_was_never_trained_is_found(bench, tmp_path):
    whole = bench.make_adapter(tmp_path / "whole")
    assert check_zero_adapter(whole).ok
    for part in ("lora_B", "lora_A"):
        folder = bench.make_adapter(tmp_path / part)
        rewrite(folder, lambda name, t, part=part: torch.zeros_like(t) if part in name else t)
        finding = check_zero_adapter(folder)
        assert not finding.ok
        assert not finding.fails, "a control is allowed"
        assert "0 of 14 modules" in finding.message


def test_some_modules_of_zeros_are_counted(bench, tmp_path):
    folder = bench.make_adapter(tmp_path / "adapter")
    rewrite(folder, lambda name, t: t * (0 if "q_proj.lora_B" in name else 1))
    finding = check_zero_adapter(folder)
    assert finding.ok
    assert "12 of 14 modules" in finding.message


def test_magnitudes_are_a_change(bench, tmp_path):
    folder = bench.make_adapter(tmp_path / "dora", use_dora=True, scale=0.0)
    assert check_zero_adapter(folder).ok


ASKED = {
    "lora": ({}, {}),
    "dora": ({"use_dora": True}, {"use_dora": True}),
    "rslora": ({"use_rslora": True}, {"use_rslora": True}),
}


@pytest.mark.parametrize("made", ASKED)
@pytest.mark.parametrize("asked", ASKED)
def test_the_flavour_is_the_one_asked_for(bench, tmp_path, made, asked):
    folder = bench.make_adapter(tmp_path / "adapter", **ASKED[made][0])
    finding = check_flavour(folder, LoraSpec(r=4, alpha=4, **ASKED[asked][1]))
    assert finding.ok == (made == asked)
    assert finding.fails == (made != asked)
    if made != asked:
        assert "use_" in finding.message


def test_a_flavour_that_was_ignored_is_found(bench, tmp_path):
    """The configuration says DoRA, and the weights do not."""
    folder = bench.make_adapter(tmp_path / "adapter", use_dora=True)
    file = folder / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "magnitude" not in n}, file)
    finding = check_flavour(folder, LoraSpec(r=4, alpha=4, use_dora=True))
    assert finding.fails
    assert "0 of 14 modules have DoRA's magnitudes" in finding.message


def test_another_rank_is_found(bench, tmp_path):
    folder = bench.make_adapter(tmp_path / "adapter")
    assert "r is 4, not 8" in check_flavour(folder, LoraSpec(r=8, alpha=4)).message
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    assert "lora_A has 4 rows, not 8" in check_flavour(folder, LoraSpec(r=8, alpha=4)).message


# ----------------------------------------------------------------------------- merges


def test_a_merge_that_does_nothing_silently_is_found_on_real_weights(bench, monkeypatch):
    """As a backend does whose layers peft cannot merge into: nothing happens, and no error."""
    from peft.tuners.lora.bnb import Linear4bit

    from evalkit.weights.integrity import measure_survival

    monkeypatch.setattr(Linear4bit, "merge", lambda self, *given, **named: None)
    steps = (NF4, ATTACH, "merge")
    built = bench.build(*steps)
    assert quantization.quantized_layers(built.model)
    survival = measure_survival(
        paths.normalise(steps, dtype="fp32"),
        built,
        bench.context,
        job="score tiny",
        on_progress=bench.ticks.append,
    )
    assert survival.total == 0
    assert survival.pooled.codes_changed == 0
