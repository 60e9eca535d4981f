"""An exported folder is the variant: from_pretrained loads it and computes the same."""

from __future__ import annotations

import pytest
import torch

from evalkit.errors import WeightsError
from evalkit.weights.export import save_variant

NF4 = {"quantize": "nf4"}
GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
ATTACH = {"attach": "small"}
PATHS = {
    "fp32": ({"load": "fp32"},),
    "bf16": ({"load": "bf16"},),
    "nf4": (NF4,),
    "fp4": ({"quantize": "fp4"},),
    "int8": ({"quantize": "int8"},),
    "nf4+adapter": (NF4, ATTACH),
    "fp32+adapter": ({"load": "fp32"}, ATTACH),
    "merged-4bit": (NF4, ATTACH, "merge"),
    "dequant-merged": (NF4, "dequantize", ATTACH, "merge"),
    "requantized": (NF4, "dequantize", ATTACH, "merge", NF4),
    "fp16-merged-nf4": ({"load": "fp32"}, ATTACH, "merge", NF4),
    "group4": (GROUP4,),
    "group4+adapter": (GROUP4, ATTACH),
    "fp16-merged-group4": ({"load": "bf16"}, ATTACH, "merge", GROUP4),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("scored", [False, True], ids=["fresh", "scored"])
def test_the_folder_gives_the_same_logits(bench, tmp_path, name, scored):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    built = bench.build(*PATHS[name])
    if scored:
        bench.logits_of(built.model)
    save_variant(built, tmp_path / "out")
    expected = bench.logits_of(built.model)
    assert torch.equal(expected, bench.logits(*PATHS[name])), "saving changed the model in memory"
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=built.model.dtype, device_map={"": "cpu"}
    )
    assert torch.equal(bench.logits_of(model.eval()), expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("a grid")["input_ids"] == built.tokenizer("a grid")["input_ids"]


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_first_weights_that_peft_splits_off_the_base_are_split_off_once(bench, tmp_path, init):
    """Of adapters that came from somewhere: peft changes the base when it attaches them."""
    from transformers import AutoModelForCausalLM

    adapter = bench.make_adapter(tmp_path / "adapter", init_lora_weights=init)
    bench = bench.adding(small=adapter)
    built = bench.build({"load": "fp32"}, ATTACH)
    expected = bench.logits_of(built.model)
    save_variant(built, tmp_path / "out")
    assert torch.equal(bench.logits_of(built.model), expected), "saving changed the model in memory"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(bench.logits_of(again.eval()), expected, rtol=1e-4, atol=1e-4)
    merged = bench.logits({"load": "fp32"}, ATTACH, "merge")
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, bench.logits({"load": "fp32"}), atol=1e-1)


def test_in_bf16_an_adapter_on_top_is_the_same_but_for_rounding(bench, tmp_path):
    """peft computes a bf16 model's adapter in float32, transformers in bf16."""
    from transformers import AutoModelForCausalLM

    base = bench.logits({"load": "bf16"}, NF4)
    built = bench.build({"load": "bf16"}, NF4, ATTACH)
    save_variant(built, tmp_path / "out")
    expected = bench.logits_of(built.model)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    seen = bench.logits_of(model.eval())
    assert (seen - expected).norm() < 0.02 * expected.norm()
    assert (seen - expected).norm() < 0.2 * (base - expected).norm()


def test_gpt2_too(gpt2_bench, tmp_path):
    from transformers import AutoModelForCausalLM

    adapter = gpt2_bench.make_adapter(tmp_path / "adapter")
    bench = gpt2_bench.adding(small=adapter)
    for index, steps in enumerate(PATHS.values()):
        built = bench.build(*steps)
        save_variant(built, tmp_path / str(index))
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / str(index), dtype=built.model.dtype, device_map={"": "cpu"}
        )
        assert torch.equal(bench.logits_of(model.eval()), bench.logits_of(built.model)), steps


def test_a_folder_in_use_is_left_alone(bench, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WeightsError, match="is there already and not empty"):
        save_variant(bench.build(NF4), tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_no_folder(bench, tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    def fill(self, folder, **fields):
        raise OSError(28, "No space left on device")

    built = bench.build({"load": "fp32"})
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fill)
    with pytest.raises(WeightsError, match="the disk is full"):
        save_variant(built, tmp_path / "out")
    assert not (tmp_path / "out").exists()
