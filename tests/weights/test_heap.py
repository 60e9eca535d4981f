"""Weights are mapped, not copied, where they stay what the file says; else the file is let go."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from evalkit.weights import heap, quantization

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps")


def mapped(folder):
    """Address ranges at which a folder's safetensors files are in memory."""
    rows = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [row[0].split("-") for row in rows if row[-1].startswith(str(folder.resolve()))]
    return [(int(first, 16), int(last, 16)) for first, last in ranges]


def is_mapped(tensor, folder):
    return any(first <= tensor.data_ptr() < last for first, last in mapped(folder))


def test_two_loads_in_the_checkpoints_dtype_read_one_copy(bench):
    folder = bench.context.base.folder
    built = [bench.build({"load": "fp32"}) for _ in range(2)]
    for parts in zip(*(b.model.parameters() for b in built), strict=True):
        assert all(is_mapped(part, folder) for part in parts)


def test_what_is_done_to_mapped_weights_does_not_reach_the_file_or_another_load(bench):
    first, second = (bench.build({"load": "fp32"}).model for _ in range(2))
    before = second.model.embed_tokens.weight.clone()
    with torch.no_grad():
        first.model.embed_tokens.weight.zero_()
    assert torch.equal(second.model.embed_tokens.weight, before)
    third = bench.build({"load": "fp32"}).model
    assert torch.equal(third.model.embed_tokens.weight, before)


def test_four_bit_weights_come_out_of_the_checkpoint_that_was_written_once(bench):
    built = [bench.build({"quantize": "nf4"}) for _ in range(2)]
    (folder,) = (f for f in (bench.context.cache / "quantized").iterdir() if f.is_dir())
    for model in (b.model for b in built):
        assert is_mapped(model.model.layers[0].mlp.up_proj.weight, folder)
    assert not mapped(bench.context.base.folder)


@pytest.mark.parametrize("kind", ["int8", "nf4", "group4"])
def test_quantised_weights_let_the_16_bit_file_go(bench, kind, tiny_adapter):
    """One embedding that still lay in the file would keep all of it in memory."""
    merged = bench.adding(a=tiny_adapter)
    built = merged.build({"load": "fp32"}, {"attach": "a"}, "merge", {"quantize": kind})
    assert not mapped(bench.context.cache / "scratch")
    assert not mapped(bench.context.base.folder)
    assert built.model.model.embed_tokens.weight.dtype == torch.float32


def test_a_merge_into_4_bits_lets_the_kept_file_go(bench, tiny_adapter):
    """Its codes are new; an embedding in the file would keep the old ones in memory."""
    built = bench.adding(a=tiny_adapter).build({"quantize": "nf4"}, {"attach": "a"}, "merge")
    (folder,) = (f for f in (bench.context.cache / "quantized").iterdir() if f.is_dir())
    assert not mapped(folder)
    assert len(quantization.quantized_layers(built.model)) == 14


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_heap_is_trimmed_while_layers_are_quantised_and_merged(
    bench, kind, tiny_adapter, monkeypatch
):
    trims = []
    monkeypatch.setattr(heap, "trim_heap", lambda: trims.append(None))
    monkeypatch.setattr(heap, "_WEIGHTS", 1)
    bench.build({"quantize": kind})
    layers = 14
    assert len(trims) == layers
    bench.adding(a=tiny_adapter).build({"load": "fp32"}, {"attach": "a"}, "merge")
    assert len(trims) == 2 * layers
    monkeypatch.setattr(heap, "_WEIGHTS", 10**9)
    bench.build({"quantize": kind})
    assert len(trims) == 2 * layers
