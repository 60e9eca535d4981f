"""Bytes against files that were really written, speeds against a clock that is told the time."""

from __future__ import annotations

import itertools
import time

import pytest

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.records.footprint import COSTS, Footprint
from evalkit.scoring import footprint
from evalkit.scoring.footprint import (
    disk_bytes,
    footprint_scores,
    measure_footprint,
    trainable_parameters,
)
from evalkit.statistics.pareto import pareto_front
from evalkit.weights import quantization
from evalkit.weights.checkpoint import read_headers
from evalkit.weights.export import save_variant

NF4 = {"quantize": "nf4"}
ATTACH = {"attach": "small"}
SIZES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I8": 1, "I32": 4, "I64": 8}
PATHS = {
    "fp32": ({"load": "fp32"},),
    "bf16": ({"load": "bf16"},),
    "nf4": (NF4,),
    "plain-nf4": ({"quantize": {"type": "nf4", "double_quant": False}},),
    "int8": ({"quantize": "int8"},),
    "nf4+adapter": (NF4, ATTACH),
    "merged-4bit": (NF4, ATTACH, "merge"),
    "merged-nf4": (ATTACH, "merge", NF4),
    "torchao": ({"quantize": "torchao-int8"}, ATTACH, "merge"),
}


def bytes_in(file):
    total = 0
    for tensor in read_headers(file).values():
        count = 1
        for length in tensor.shape:
            count *= length
        total += count * SIZES[tensor.dtype]
    return total


@pytest.mark.parametrize("name", PATHS)
def test_bytes_on_the_disk_are_those_of_the_files(bench, tmp_path, name):
    if name == "torchao":
        pytest.importorskip("torchao")
    built = bench.build(*PATHS[name])
    counted = disk_bytes(built.model, built.attached)
    save_variant(built, tmp_path / "out")
    written = sum(
        file.stat().st_size if file.name.startswith("adapter") else bytes_in(file)
        for file in (tmp_path / "out").glob("*.safetensors")
    )
    assert counted == written


def test_tied_weights_are_counted_once(gpt2_bench, tmp_path):
    built = gpt2_bench.build({"load": "fp32"})
    save_variant(built, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.safetensors")
    assert disk_bytes(built.model) == bytes_in(file)


def test_rearranged_weights_are_not_asked(bench):
    built = bench.build(NF4)
    layer = next(iter(quantization.quantized_layers(built.model).values()))
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(WeightsError, match="cannot count bytes"):
        disk_bytes(built.model)


def test_trainable_parameters(bench, tiny_adapter, tiny_folder, tiny_model):
    # r=4 on q and o (64 × 64), k and v (32 × 64), and three of 128 × 64, in two layers
    assert trainable_parameters(tiny_adapter) == 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)
    assert trainable_parameters(tiny_folder) == sum(p.numel() for p in tiny_model.parameters())


@pytest.mark.parametrize("name", ["nf4+adapter", "merged-4bit", "bf16"])
def test_a_variants_footprint(bench, tiny_adapter, tiny_model, name, monkeypatch):
    clock = itertools.count(0.0, 0.125)
    built = bench.build(*PATHS[name])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = measure_footprint(
        paths.normalise(PATHS[name], dtype="fp32"),
        built,
        bench.context,
        job="score tiny",
        on_progress=bench.ticks.append,
    )
    parameters = sum(parameter.numel() for parameter in tiny_model.parameters())
    trained = 0 if name == "bf16" else trainable_parameters(tiny_adapter)
    assert found.parameters == parameters
    assert found.trainable_parameters == trained
    assert found.trainable_share == pytest.approx(trained / (parameters + trained))
    assert found.memory_bytes == built.facts["weight_bytes"]
    assert found.scoring_tokens_per_second == 512 / 0.125
    assert found.decode_tokens_per_second == footprint.DECODED_TOKENS / 0.125
    assert found.load_seconds == built.facts["load_seconds"]
    assert bench.ticks[-1].phase == "footprint"
    if name == "bf16":
        assert found.bits_per_weight == pytest.approx(16, rel=1e-3)


def test_slow_decoding_stops_after_about_two_seconds(bench, monkeypatch):
    clock, asked = itertools.count(0.0, 1.0), []
    write = footprint.greedy_tokens

    def noted(model, ids, *, stops, limit):
        asked.append(limit)
        return write(model, ids, stops=stops, limit=limit)

    built = bench.build(NF4)
    monkeypatch.setattr(footprint, "greedy_tokens", noted)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = measure_footprint(
        paths.normalise([NF4], dtype="fp32"),
        built,
        bench.context,
        job="score tiny",
        on_progress=bench.ticks.append,
    )
    # Two tokens took a second, so four take two.
    assert asked == [2, 4]
    assert found.decode_tokens_per_second == 4.0


def test_a_speed_that_is_known_is_not_measured_again(bench, monkeypatch):
    monkeypatch.setattr(footprint, "probe_losses", None)
    found = measure_footprint(
        paths.normalise([NF4], dtype="fp32"),
        bench.build(NF4),
        bench.context,
        job="score tiny",
        on_progress=bench.ticks.append,
        scoring_tokens_per_second=123.0,
    )
    assert found.scoring_tokens_per_second == 123.0


def test_gates_may_limit_it():
    from evalkit.judging.gates import Evidence, judge
    from evalkit.records import Gate

    scores = footprint_scores(Footprint(1000, 900, 100, 10, 2.0, 50.0, 5.0))
    assert set(scores) == set(COSTS) - {"peak_memory"}  # it was not watched
    assert scores["disk"].extra["bits_per_weight"] == 72.0
    gates = [Gate("memory", "nf4", maximum=999.0), Gate("decode_speed", "nf4", minimum=4.0)]
    verdicts = judge(gates, Evidence({"nf4": scores}))
    assert [verdict.verdict for verdict in verdicts] == ["REGRESSED", "PASS"]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ({}, ()),
        ({"a": (1, 1)}, ("a",)),
        ({"big": (4, 1.0), "small": (1, 2.0), "worse": (4, 1.5)}, ("small", "big")),
        ({"a": (1, 2), "same": (1, 2), "better": (1, 1)}, ("better",)),
        ({"a": (2, 1), "b": (2, 1), "c": (1, 3)}, ("c", "a", "b")),
    ],
)
def test_the_pareto_front(points, front):
    assert pareto_front(points) == front


def test_a_few_bytes_less_are_no_reason_to_be_on_the_front():
    points = {"lost": (1000, 2.0), "kept": (1001, 1.0), "large": (1100, 0.9), "worse": (1090, 1.1)}
    assert pareto_front(points) == ("lost", "kept", "large")
    assert pareto_front(points, same=0.02) == ("kept", "large")
