"""Memory: estimated from a configuration alone, counted on real weights, measured."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace

import pytest

from evalkit import paths
from evalkit.suite import LoraSpec, TrainingSpec
from evalkit.weights import fitting, memory, quantization
from evalkit.weights.adapters import meta_model

DTYPES = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@pytest.fixture
def large(tmp_path):
    """Nothing but the configuration of Llama-2-7B."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))
    return tmp_path


def estimate(folder, *steps, **fields):
    path = paths.normalise(steps, dtype="fp16")
    return memory.estimate_bytes(folder, path, effective_dtypes=DTYPES, **fields)


def test_seven_billion_weights_are_counted_and_none_is_made(large):
    sizes = memory.model_sizes(meta_model(large))
    assert sizes.linear + sizes.other == 6_738_415_616
    assert sizes.linear == 32 * (4 * 4096**2 + 3 * 4096 * 11008)


def test_a_skeleton_is_built_once_for_each_configuration(large, tmp_path, monkeypatch):
    built = []

    def counted(folder, **options):
        built.append(folder)
        return meta_model(folder, **options)

    monkeypatch.setattr(memory, "meta_model", counted)
    folder = tmp_path / "model"
    folder.mkdir()
    config = json.loads((large / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    sizes = memory.sizes_of(folder)
    assert memory.sizes_of(folder) == sizes == memory.model_sizes(meta_model(large))
    assert len(built) == 1
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    assert memory.sizes_of(folder).layers == 1


def test_what_seven_billion_weights_need(large):
    gigabytes = {
        name: estimate(large, *steps) / 1e9
        for name, steps in {
            "fp16": ({"load": "fp16"},),
            "nf4": ({"quantize": "nf4"},),
            "merged": ({"quantize": "nf4"}, {"attach": "a"}, "merge"),
            "dequantised": ({"quantize": "nf4"}, "dequantize"),
        }.items()
    }
    assert gigabytes["fp16"] == pytest.approx(13.5 + 0.6 + 0.65, abs=0.2)
    assert gigabytes["nf4"] == pytest.approx(3.9 + 0.6 + 0.65, abs=0.2)
    assert gigabytes["nf4"] < gigabytes["merged"] < gigabytes["fp16"]
    assert gigabytes["dequantised"] == gigabytes["fp16"]  # layer by layer, never both


def test_a_batch_adds_so_many_rows_of_logits_or_all_of_them(large, tmp_path):
    added = estimate(large, {"load": "fp16"}, batch_tokens=16384) - estimate(
        large, {"load": "fp16"}, batch_tokens=0
    )
    assert added == 512 * 32000 * 2 + 16384 * 4096 * 34
    t5 = {"model_type": "t5", "is_encoder_decoder": True, "d_model": 64}
    whole = tmp_path / "t5"
    whole.mkdir()
    (whole / "config.json").write_text(json.dumps(t5))
    added = estimate(whole, {"load": "fp16"}, batch_tokens=16384) - estimate(
        whole, {"load": "fp16"}, batch_tokens=0
    )
    assert added == 16384 * (32128 * 2 + 64 * 34)


def test_training_needs_more_and_checkpointing_less(large):
    path = paths.normalise([{"quantize": "nf4"}], dtype="fp16")
    needed = [
        memory.estimate_training_bytes(
            large,
            path,
            LoraSpec(),
            TrainingSpec(steps=1, gradient_checkpointing=checkpointing, method=method),
            effective_dtypes=DTYPES,
        )
        for checkpointing, method in ((True, "lora"), (False, "lora"), (False, "full"))
    ]
    assert estimate(large, {"quantize": "nf4"}, batch_tokens=0) < needed[0] < needed[1] < needed[2]
    assert needed[2] > 6.7e9 * 16


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8", "group4"])
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_formula_agrees_with_bitsandbytes(kind, model, bench, gpt2_bench):
    tiny = bench if model == "llama" else gpt2_bench
    built = tiny.build({"quantize": kind})
    sizes = memory.model_sizes(meta_model(built.folder))
    (step,) = paths.normalise([{"quantize": kind}], dtype="fp32")[1:]
    estimated = memory.quantized_bytes(sizes, step, "fp32")
    counted = built.facts["weight_bytes"]
    overhead = 14 * (16 + 256 + 8) * 4 + 256  # tables of codes in every layer, buffers
    assert estimated - 64 <= counted <= estimated + overhead
    assert built.facts["parameters"] == sizes.linear + sizes.other


def test_counted_bytes_know_tied_weights(tiny_model):
    alone = quantization.stored_bytes(tiny_model)
    tiny_model.lm_head.weight = tiny_model.model.embed_tokens.weight
    assert alone - quantization.stored_bytes(tiny_model) == 320 * 64 * 4


def test_the_peak_of_a_block_is_seen_after_it_is_freed():
    import time

    import torch

    with memory.PeakMemory() as peak:
        before = peak.resident_bytes
        taken = torch.ones(100_000_000, dtype=torch.uint8)
        time.sleep(0.2)
        del taken
    assert peak.resident_bytes - before > 90_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_what_a_job_freed_is_no_part_of_the_next_ones_peak():
    import psutil
    import torch

    def resident():
        return psutil.Process().memory_info().rss

    memory.release_memory()
    before = resident()
    # Too small to be mapped one by one: they come from the heap, and its last piece stays in use.
    taken = [torch.ones(60_000, dtype=torch.uint8) for _ in range(3_000)]
    last = taken[-1]
    del taken
    kept = resident() - before
    memory.release_memory()
    assert kept > 100_000_000, "the C library gave it back by itself: nothing was tested"
    assert resident() - before < 40_000_000
    assert last.sum() == 60_000


def test_an_adapters_rank_is_the_suites_or_what_lies_there(bench, tmp_path):
    attached = paths.normalise([{"attach": "one"}], dtype="fp32")
    plain = fitting.variant_bytes(attached[:1], bench.context)
    edges = memory.sizes_of(bench.context.base.folder).linear_edges

    def rank(**known):
        context = replace(bench.context, **known)
        return (fitting.variant_bytes(attached, context) - plain) / (4 * edges)

    ready = bench.make_adapter(tmp_path / "one", r=7)
    assert rank(adapters={"one": ready}) == 7
    assert rank(ranks={"one": 5}) == 5
    assert rank(adapters={"one": bench.context.base.folder}, full={"one"}) == 0, "it has none"
    assert rank() == 16, "nobody knows yet"


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_seen():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    torch.zeros(1, device="cuda")
    with memory.PeakMemory() as peak:
        taken = torch.ones(100_000_000, dtype=torch.uint8, device="cuda")
        del taken
    assert peak.device_bytes > 90_000_000


def test_jobs_look_for_garbage_as_often_as_python_does():
    """The command line does not while it starts; a model that is no longer used must go."""
    before = gc.get_threshold()
    try:
        gc.set_threshold(100_000)
        memory.spare_libraries()
        assert gc.get_threshold()[0] < 10_000
    finally:
        gc.set_threshold(*before)
