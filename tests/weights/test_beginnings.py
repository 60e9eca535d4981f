"""Variants that begin alike: their weights are made once and kept in files, and nothing differs."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from evalkit import paths
from evalkit.weights import beginnings
from evalkit.weights.integrity import measure_survival

NF4 = {"quantize": "nf4"}
FP4 = {"quantize": "fp4"}
ATTACH = {"attach": "small"}
MERGED = (NF4, "dequantize", ATTACH, "merge")
START = paths.normalise(MERGED, dtype="fp32")
STEPS = ["load fp32, quantise nf4", "dequantise to fp32", "attach small", "merge"]


@pytest.fixture
def sharing(bench, tmp_path):
    """The bench of a run whose variants share the 16-bit merge."""
    folder = tmp_path / "run" / "merged"
    bench.context = replace(bench.context, shared={START: folder})
    return bench


def alone(bench):
    """The same without a run around it."""
    return replace(bench, context=replace(bench.context, shared={}))


def phases(bench):
    found = [tick.phase for tick in bench.ticks]
    bench.ticks.clear()
    return found


@pytest.mark.parametrize(
    "variants",
    [(MERGED, (*MERGED, NF4)), ((*MERGED, NF4), MERGED), ((*MERGED, NF4), (*MERGED, FP4))],
)
def test_the_second_takes_no_step_that_the_first_took_and_has_the_same_bits(sharing, variants):
    first, second = variants
    one = sharing.build(*first)
    assert phases(sharing)[-2 if first != MERGED else -1] == "keep for other variants"
    other = sharing.build(*second)
    assert phases(sharing) == [f"quantise {step['quantize']}" for step in second[len(MERGED) :]]
    for built, steps in ((one, first), (other, second)):
        expected = alone(sharing).build(*steps)
        assert torch.equal(sharing.logits_of(built.model), sharing.logits_of(expected.model))
        for fact in ("effective_dtype", "notes", "parameters", "weight_bytes"):
            assert built.facts[fact] == expected.facts[fact]
        assert built.facts["step_seconds"].keys() == expected.facts["step_seconds"].keys()
        assert built.kept == expected.kept


def test_the_time_of_the_steps_is_told_of_both_and_that_of_keeping_of_none(sharing, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("evalkit.weights.steps.time.perf_counter", lambda: clock.now)
    real = beginnings.shutil.disk_usage

    def slow(folder):
        clock.now += 1000.0
        return real(folder)

    def tick(progress):
        clock.now += 1.0

    monkeypatch.setattr(beginnings.shutil, "disk_usage", slow)
    sharing.ticks = SimpleNamespace(append=tick)
    one = sharing.build(*MERGED)
    other = sharing.build(*MERGED, NF4)
    assert one.facts["load_seconds"] == len(STEPS)
    assert other.facts["load_seconds"] == len(STEPS) + 1
    assert list(other.facts["step_seconds"]) == [
        *one.facts["step_seconds"],
        f"{len(START)} quantise nf4",
    ]


def test_survival_is_the_same_to_the_last_bit(sharing):
    sharing.build(*MERGED)
    path = paths.normalise((*MERGED, NF4), dtype="fp32")
    measured = [
        measure_survival(path, each.build(*MERGED, NF4), each.context, job="x", on_progress=print)
        for each in (sharing, alone(sharing))
    ]
    assert measured[0].modules == measured[1].modules


def test_a_disk_with_little_room_keeps_nothing_and_fails_nothing(sharing, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    kept = sharing.logits(*MERGED, NF4)
    assert not sharing.context.shared[START].exists()
    assert torch.equal(kept, alone(sharing).logits(*MERGED, NF4))


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(sharing, monkeypatch):
    real = PreTrainedModel.save_pretrained

    def full(model, folder, **fields):
        real(model, folder, **fields)
        if folder.parent == sharing.context.shared[START].parent:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    sharing.build(*MERGED)
    monkeypatch.undo()
    left = list(sharing.context.shared[START].parent.iterdir())
    assert [file.suffix for file in left] == [".lock"]


def test_another_base_shares_nothing(sharing, tmp_path):
    """PiSSA adapters change what a path starts from: the same steps make other weights."""
    adapter = tmp_path / "pissa"
    sharing.train(sharing.recipe(lora={"init": "pissa"}), adapter)
    sharing.context = replace(
        sharing.context, adapters={**sharing.context.adapters, "filled": adapter}
    )
    sharing.build(*MERGED)
    taken = (*MERGED, NF4, {"attach": "filled"})
    assert torch.equal(sharing.logits(*taken), alone(sharing).logits(*taken))
