"""Every base: dtypes, each kind of few bits against its own functions, what stays out of it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from evalkit.errors import WeightsError
from evalkit.weights import quantization

ATTACH = {"attach": "small"}
LAYERS = 14
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs the optional package torchao"
)
FEW_BITS = [
    "nf4",
    "fp4",
    "int8",
    {"type": "group4", "group_size": 16},
    {"type": "hqq", "group_size": 16},
    pytest.param("torchao-int8", marks=needs_torchao),
]


@pytest.fixture
def exact(bench):
    """A bench that takes every dtype at its word, float16 too."""
    dtypes = {name: name for name in ("fp32", "bf16", "fp16")}
    bench.context = replace(bench.context, effective_dtypes=dtypes)
    return bench


def fields_of(kind, **more):
    return {"quantize": {**({"type": kind} if isinstance(kind, str) else kind), **more}}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_dtype_rounds_the_checkpoint_once(exact, tiny_model, name, dtype):
    built = exact.build({"load": name})
    assert {parameter.dtype for parameter in built.model.parameters()} == {dtype}
    assert built.facts["effective_dtype"] == name
    assert built.facts["notes"] == []
    for key, parameter in built.model.named_parameters():
        assert torch.equal(parameter, tiny_model.get_parameter(key).to(dtype)), key
    seen, whole = exact.logits_of(built.model), exact.logits_of(tiny_model)
    assert torch.equal(seen, whole) == (name == "fp32")
    assert (seen - whole).norm() < 0.02 * whole.norm()


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_with_and_without_double_quantisation(bench, tiny_model, kind, double_quant):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    built = bench.build(fields_of(kind, double_quant=double_quant))
    layers = quantization.quantized_layers(built.model)
    assert len(layers) == LAYERS
    for name, layer in layers.items():
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested) == (kind, double_quant), name
        assert state.absmax.dtype == (torch.uint8 if double_quant else torch.float32), name
        codes, expected = quantize_4bit(
            tiny_model.get_submodule(name).weight.data,
            quant_type=kind,
            compress_statistics=double_quant,
        )
        assert torch.equal(layer.weight.data, codes), name
        values = quantization.layer_weight(layer)
        assert torch.equal(values, dequantize_4bit(codes, expected)), name


def test_no_two_of_the_four_4_bit_bases_are_one(bench):
    seen = [
        bench.logits(fields_of(kind, double_quant=double))
        for kind in ("nf4", "fp4")
        for double in (True, False)
    ]
    pairs = [(a, b) for a in range(4) for b in range(a)]
    assert not any(torch.equal(seen[a], seen[b]) for a, b in pairs)
    folders = [path for path in (bench.context.cache / "quantized").iterdir() if path.is_dir()]
    assert len(folders) == 4


@pytest.mark.parametrize("kind", ["nf4", "fp4", {"type": "group4", "group_size": 16}, "hqq"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_products_run_in_the_compute_dtype(exact, kind, name, dtype):
    step = fields_of(kind, compute_dtype=name)
    built = exact.build({"load": "fp32"}, step)
    layers = quantization.quantized_layers(built.model)
    assert {layer.compute_dtype for layer in layers.values()} == {dtype}
    layer = layers["model.layers.0.mlp.up_proj"]
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    weight = quantization.layer_weight(layer).to(dtype)
    with torch.inference_mode():
        wanted = torch.nn.functional.linear(x.to(dtype), weight).float()
        assert torch.equal(layer(x).float(), wanted)
    reference = exact.logits({"load": "fp32"}, fields_of(kind))
    assert torch.equal(exact.logits_of(built.model), reference) == (name == "fp32")


@pytest.mark.parametrize("kind", FEW_BITS, ids=str)
def test_modules_are_kept_out_of_quantisation(bench, tiny_model, kind):
    built = bench.build(fields_of(kind, skip_modules=["v_proj", "down_proj"]))
    names = set(quantization.quantized_layers(built.model))
    assert len(names) == LAYERS - 4
    for name, module in tiny_model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        assert (name in names) == (not name.endswith(("v_proj", "down_proj", "lm_head"))), name
        if name not in names:
            assert torch.equal(built.model.get_submodule(name).weight, module.weight), name
    assert not torch.equal(bench.logits_of(built.model), bench.logits(fields_of(kind)))


def test_a_module_that_is_not_there_is_not_passed_over(bench):
    message = r"skip_modules: 'v_prog' is in no layer of this Llama.*: .*v_proj"
    with pytest.raises(WeightsError, match=message):
        bench.build(fields_of("nf4", skip_modules=["down_proj", "v_prog"]))


@pytest.mark.parametrize("kind", FEW_BITS, ids=str)
def test_an_adapter_goes_on_every_base(bench, kind):
    step = fields_of(kind)
    base, attached = bench.logits(step), bench.logits(step, ATTACH)
    assert not torch.allclose(attached, base, atol=1e-2)
    kept = bench.logits(step, "dequantize", ATTACH, "merge")
    # LLM.int8 rounds activations too, which expanded weights do not.
    share = 0.5 if kind == "int8" else 0.01
    assert (kept - attached).norm() < share * (attached - base).norm()
