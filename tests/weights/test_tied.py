"""Models whose output layer is the embedding: it is stored once, and no step unties it."""

from __future__ import annotations

import pytest
import torch

from evalkit.weights import quantization
from evalkit.weights.export import save_variant

NF4 = {"quantize": "nf4"}
GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
FP32 = {"load": "fp32"}
ATTACH = {"attach": "small"}


@pytest.mark.parametrize(
    "path",
    [
        (NF4,),
        (GROUP4,),
        ({"quantize": "int8"},),
        (FP32, ATTACH, "merge"),
        (NF4, ATTACH, "merge"),
        (NF4, "dequantize", ATTACH, "merge"),
        (FP32, ATTACH, "merge", NF4),
        (GROUP4, "dequantize", ATTACH, "merge", GROUP4),
    ],
    ids=str,
)
def test_the_table_stays_one_through_every_step_and_the_export(tied_bench, tmp_path, path):
    from transformers import AutoModelForCausalLM

    built = tied_bench.build(*path)
    model = built.model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head" not in quantization.quantized_layers(model)
    expected = tied_bench.logits_of(model)
    save_variant(built, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, device_map={"": "cpu"}
    )
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(tied_bench.logits_of(again.eval()), expected)


def test_parameters_and_bytes_count_it_once(tied_bench, tiny_model):
    facts = tied_bench.build(FP32).facts
    assert facts["parameters"] == sum(p.numel() for p in tiny_model.parameters())
    assert facts["parameters"] == tiny_model.num_parameters()
    assert facts["weight_bytes"] < 4 * facts["parameters"] + 256
