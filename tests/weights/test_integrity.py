"""Survival against two whole models compared in float64, and against what must come out."""

from __future__ import annotations

import importlib.util
import json
import math
import weakref
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.records.integrity import ModuleSurvival, Survival
from evalkit.weights import integrity, layer_weights, quantization
from evalkit.weights.adapter_delta import adapter_delta, added_weight
from evalkit.weights.initial import with_residual
from evalkit.weights.integrity import measure_survival, survival_score
from evalkit.weights.reference import ReferenceLayer
from evalkit.weights.steps import build_variant

NF4 = {"quantize": "nf4"}
ATTACH = {"attach": "small"}
PATHS = {
    "merged-4bit": (NF4, ATTACH, "merge"),
    "merged-4bit-plain": ({"quantize": {"type": "nf4", "double_quant": False}}, ATTACH, "merge"),
    "merged-fp4": ({"quantize": "fp4"}, ATTACH, "merge"),
    "merged-int8": ({"quantize": "int8"}, ATTACH, "merge"),
    "dequant-merged": (NF4, "dequantize", ATTACH, "merge"),
    "requantized": (NF4, "dequantize", ATTACH, "merge", NF4),
    "merged": (ATTACH, "merge"),
    "merged-nf4": (ATTACH, "merge", NF4),
    "merged-int8-after": (ATTACH, "merge", {"quantize": "int8"}),
    "skipping": ({"quantize": {"type": "nf4", "skip_modules": ["v_proj"]}}, ATTACH, "merge"),
    "dequantized-to-fp32": (NF4, {"dequantize": "fp32"}, ATTACH, "merge", {"quantize": "fp4"}),
}
# Of these the float64 arithmetic below knows nothing: whole models are their oracle.
FORMATS = {
    "merged-group4": (ATTACH, "merge", {"quantize": {"type": "group4", "group_size": 16}}),
    "merged-hqq": (ATTACH, "merge", {"quantize": {"type": "hqq", "group_size": 32}}),
    "merged-torchao": ({"quantize": "torchao-int8"}, ATTACH, "merge"),
    "merged-torchao-after": (ATTACH, "merge", {"quantize": "torchao-int8"}),
}


def survival_of(bench, *steps, built=None):
    path = paths.normalise(steps, dtype="fp32")
    built = built or bench.build(*steps)
    return measure_survival(
        path, built, bench.context, job="score tiny", on_progress=bench.ticks.append
    )


def start_of(bench, *steps):
    """The model at the end of the same path without its adapters."""
    plain = [step for step in steps if step != "merge" and "attach" not in step]
    return bench.build(*plain or [{"load": "fp32"}]).model


def weight_of(model, name):
    """The exact weight, [out, in] in float64, by bitsandbytes' own functions."""
    from bitsandbytes import functional
    from transformers.pytorch_utils import Conv1D

    layer = model.get_submodule(name)
    layer = getattr(layer, "base_layer", layer)
    state = getattr(layer.weight, "quant_state", None)
    if state is not None:
        state.dtype = torch.float32
        return functional.dequantize_4bit(layer.weight.data, state).double().numpy()
    if layer.weight.dtype == torch.int8:
        scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        return (layer.weight.data.double() * scales.double()[:, None] / 127).numpy()
    weight = layer.weight.double()
    return (weight.T if isinstance(layer, Conv1D) else weight).numpy()


def codes_of(model, name):
    """One code after the other, or None."""
    stored = model.get_submodule(name).weight.data
    if stored.dtype.is_floating_point:
        return None
    codes = stored.numpy().ravel()
    return np.concatenate([codes >> 4, codes & 15]) if stored.dtype == torch.uint8 else codes


def adapter_parts(folder):
    """(module → part → array), and the configuration."""
    parts = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        parts.setdefault(module, {})[part.removesuffix(".weight")] = tensor.double().numpy()
    return parts, json.loads((folder / "adapter_config.json").read_text())


def wanted_of(folder, name, weight):
    """B·A and its scaling, and DoRA's columns, written down again from the papers."""
    parts, config = adapter_parts(folder)
    part = parts[name]
    rank = len(part["A"])
    alphas = config["alpha_pattern"] or {}
    alpha = next((v for k, v in alphas.items() if name.endswith(k)), config["lora_alpha"])
    scaling = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
    delta = scaling * part["B"] @ part["A"]
    if "magnitude_vector" not in part:
        return delta
    moved = weight + delta
    norm = np.linalg.norm(moved, axis=1, keepdims=True)
    return part["magnitude_vector"][:, None] * moved / norm - weight


def check_against(survival, final, start, deltas, *, before=None):
    """Every sum of every module, from two whole models."""
    modules = [name for name, _ in final.named_modules() if name in deltas]
    assert [part.module for part in survival.modules] == modules
    for part in survival.modules:
        w = weight_of(start, part.module)
        wanted = sum(
            wanted_of(folder, part.module, weight_of(before or start, part.module))
            for folder in deltas[part.module]
        )
        happened = weight_of(final, part.module) - w
        # 1e-6 of the weight: peft and bitsandbytes compute in float32
        noise = 1e-6 * np.linalg.norm(w)
        assert math.sqrt(part.wanted) == pytest.approx(np.linalg.norm(wanted), rel=1e-4)
        assert part.inner == pytest.approx(
            np.vdot(happened, wanted), rel=1e-4, abs=noise * np.linalg.norm(wanted)
        )
        assert math.sqrt(part.error) == pytest.approx(
            np.linalg.norm(happened - wanted), rel=1e-4, abs=noise
        )
        assert math.sqrt(part.weight) == pytest.approx(np.linalg.norm(w), rel=1e-6)
        codes = [codes_of(model, part.module) for model in (final, start)]
        if codes[0] is None or codes[1] is None:
            assert part.changed_share is None
        else:
            assert part.codes == w.size
            assert part.codes_changed == int((codes[0] != codes[1]).sum())


IN_BF16 = ("merged-4bit", "dequant-merged", "requantized", "merged-nf4", "merged-int8")


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "fp32") for name in PATHS), *((name, "bf16") for name in IN_BF16)]
)
def test_it_is_what_two_whole_models_say(bench, tiny_adapter, name, dtype):
    steps = ({"load": dtype}, *PATHS[name])
    built = bench.build(*steps)
    survival = survival_of(bench, *steps, built=built)
    start = start_of(bench, *steps)
    deltas = {module: [tiny_adapter] for module in adapter_parts(tiny_adapter)[0]}
    assert len(deltas) == 14
    check_against(survival, built.model, start, deltas)


def test_a_base_that_is_kept_in_4_bits_is_not_quantised_again(bench, monkeypatch):
    steps = (ATTACH, "merge", NF4)
    built = bench.build(*steps)
    assert built.kept is None
    worked_out = survival_of(bench, *steps, built=built)
    bench.build(NF4)
    again = bench.build(*steps)
    assert again.kept is not None
    monkeypatch.delattr(layer_weights, "quantize_weight")
    assert survival_of(bench, *steps, built=again).modules == worked_out.modules


def test_a_merge_in_full_precision_keeps_everything(bench):
    survival = survival_of(bench, ATTACH, "merge")
    assert survival.total == pytest.approx(1, abs=1e-5)
    assert survival.mean == pytest.approx(1, abs=1e-5)
    assert survival.pooled.relative_error < 1e-4


def test_a_merge_into_4_bits_loses_a_small_adapter(bench, tmp_path):
    folder = bench.make_adapter(tmp_path / "tiny-adapter", scale=0.01)
    survival = survival_of(bench.adding(small=folder), NF4, ATTACH, "merge")
    assert 0.001 < survival.pooled.relative_size < 0.02
    assert survival.total < 0.1
    after = survival_of(bench.adding(small=folder), ATTACH, "merge", NF4)
    assert 0.5 < after.total < 1.5
    assert after.pooled.relative_error > 2, "rounding noise, which averages out"
    assert after.pooled.changed_share > survival.pooled.changed_share


def test_variants_share_what_peft_made_of_an_adapter(bench, tiny_folder, tiny_adapter, monkeypatch):
    first = adapter_delta(tiny_adapter, tiny_folder)
    built = bench.build(*PATHS["merged-4bit"])
    kept = survival_of(bench, *PATHS["merged-4bit"], built=built)
    assert adapter_delta(tiny_adapter, tiny_folder) is first
    monkeypatch.setattr(peft, "inject_adapter_in_model", None)  # nothing is wrapped again
    again = survival_of(bench, *PATHS["merged-4bit"], built=built)
    assert again.modules == kept.modules
    numbers = [p for m in first._wrapped.modules() for p in m.parameters(recurse=False)]
    assert {number.device.type for number in numbers} == {"meta"}, "no weight stays in it"


def test_another_adapter_in_the_same_folder_is_measured_itself(bench, tmp_path):
    for scale in (0.02, 0.2):
        folder = bench.make_adapter(tmp_path / "changing", scale=scale)
        found = survival_of(bench.adding(small=folder), *PATHS["merged"])
        assert found.total == pytest.approx(1.0, abs=1e-4)


def test_what_is_only_attached_has_no_survival(bench):
    assert survival_of(bench, NF4, ATTACH) is None
    assert survival_of(bench, NF4) is None


@pytest.mark.parametrize("stream", [True, False])
def test_a_whole_fine_tuned_model_is_where_the_path_starts(
    bench, tiny_model, tmp_path, monkeypatch, stream
):
    """What it changed is no adapter's doing; what is merged into it is."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.mul_(1.5)
    tiny_model.save_pretrained(tmp_path / "whole")
    bench = bench.adding(whole=tmp_path / "whole")
    bench.context = replace(bench.context, full=frozenset({"whole"}))
    if not stream:
        monkeypatch.setattr(integrity, "StreamedReference", WholeModels)
    survival = survival_of(bench, {"attach": "whole"}, ATTACH, "merge")
    assert survival.total == pytest.approx(1, abs=1e-5)
    assert survival.pooled.relative_error < 1e-4
    weights = sum(float((w.double() ** 2).sum()) for w in linear_weights(bench))
    assert survival.pooled.weight == pytest.approx(1.5**2 * weights)
    assert survival_of(bench, {"attach": "whole"}) is None


def test_an_adapter_of_zeros_has_no_survival_either(bench, tmp_path):
    folder = bench.make_adapter(tmp_path / "zeros", scale=0.0)
    survival = survival_of(bench.adding(small=folder), ATTACH, "merge")
    assert survival.total is None
    assert survival.mean is None
    assert survival.pooled.relative_size == 0
    assert survival_score(survival) is None


# ----------------------------------------------------------------------------- flavours


FLAVOURS = {
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 16}},
    "few": {"target_modules": ["q_proj", "down_proj"]},
    "dora": {"use_dora": True},
}


@pytest.mark.parametrize("steps", ["merged", "merged-4bit", "requantized", "merged-nf4"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_flavours(bench, tmp_path, flavour, steps):
    folder = bench.make_adapter(tmp_path / "adapter", **FLAVOURS[flavour])
    if flavour == "dora":
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            if "magnitude" in name:
                tensors[name] = tensor * (1 + 0.05 * torch.randn(tensor.shape, generator=generator))
        save_file(tensors, file)
    bench = bench.adding(small=folder)
    built = bench.build(*PATHS[steps])
    survival = survival_of(bench, *PATHS[steps], built=built)
    # DoRA's change depends on the weights that it is put on.
    before = start_of(bench, *PATHS[steps][: PATHS[steps].index("merge")])
    deltas = {module: [folder] for module in adapter_parts(folder)[0]}
    check_against(survival, built.model, start_of(bench, *PATHS[steps]), deltas, before=before)
    if steps == "merged":
        assert survival.total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dora", [False, True])
def test_two_adapters_merged_at_once(bench, tmp_path, tiny_adapter, dora):
    other = bench.make_adapter(
        tmp_path / "other", target_modules=["q_proj"], r=2, scale=0.05, use_dora=dora
    )
    bench = bench.adding(other=other)
    steps = (NF4, ATTACH, {"attach": "other"}, "merge")
    built = bench.build(*steps)
    survival = survival_of(bench, *steps, built=built)
    deltas = {module: [tiny_adapter] for module in adapter_parts(tiny_adapter)[0]}
    for module in adapter_parts(other)[0]:
        deltas[module].append(other)
    check_against(survival, built.model, bench.build(NF4).model, deltas)


def test_two_adapters_merged_one_after_the_other(bench, tmp_path, tiny_adapter):
    other = bench.make_adapter(tmp_path / "other", target_modules=["q_proj"], r=2, scale=0.05)
    bench = bench.adding(other=other)
    steps = (ATTACH, "merge", NF4, {"attach": "other"}, "merge")
    built = bench.build(*steps)
    survival = survival_of(bench, *steps, built=built)
    deltas = {module: [tiny_adapter] for module in adapter_parts(tiny_adapter)[0]}
    for module in adapter_parts(other)[0]:
        deltas[module].append(other)
    check_against(survival, built.model, bench.build(NF4).model, deltas)


def test_dora_goes_on_what_was_merged_before(bench, tmp_path):
    other = bench.make_adapter(tmp_path / "other", use_dora=True, scale=0.1)
    bench = bench.adding(small=bench.make_adapter(tmp_path / "one", scale=0.3), other=other)
    survival = survival_of(bench, ATTACH, "merge", {"attach": "other"}, "merge")
    assert survival.total == pytest.approx(1, abs=1e-5)
    assert survival.pooled.relative_error < 1e-4


def test_what_is_attached_after_the_merge_is_not_wanted(bench, tmp_path):
    other = bench.make_adapter(tmp_path / "other", target_modules=["q_proj"], scale=0.5)
    bench = bench.adding(other=other)
    alone = survival_of(bench, ATTACH, "merge")
    both = survival_of(bench, ATTACH, "merge", {"attach": "other"})
    assert both.modules == alone.modules


@pytest.mark.parametrize("name", ["merged-4bit", "requantized", "merged", "merged-nf4"])
def test_gpt2_keeps_its_weights_the_other_way_round(gpt2_bench, tmp_path, name):
    adapter = gpt2_bench.make_adapter(tmp_path / "adapter")
    bench = gpt2_bench.adding(small=adapter)
    built = bench.build(*PATHS[name])
    survival = survival_of(bench, *PATHS[name], built=built)
    start = start_of(bench, *PATHS[name])
    deltas = {module: [adapter] for module in adapter_parts(adapter)[0]}
    assert {name.rpartition(".")[2] for name in deltas} == {"c_attn", "c_proj", "c_fc"}
    check_against(survival, built.model, start, deltas)


def test_gpt2_with_dora(gpt2_bench, tmp_path):
    adapter = gpt2_bench.make_adapter(tmp_path / "adapter", use_dora=True)
    bench = gpt2_bench.adding(small=adapter)
    survival = survival_of(bench, ATTACH, "merge")
    assert survival.total == pytest.approx(1, abs=1e-4)


def test_an_embedding_too(bench, tmp_path):
    adapter = bench.make_adapter(tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    parts, _ = adapter_parts(adapter)
    assert any("embedding_A" in part for part in parts.values())
    file = adapter / "adapter_model.safetensors"
    tensors = {
        name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        if "embedding" in name
        else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file)
    survival = survival_of(bench.adding(small=adapter), ATTACH, "merge")
    assert survival.modules[0].module == "model.embed_tokens"
    assert survival.modules[0].survival == pytest.approx(1, abs=1e-5)
    assert survival.modules[0].relative_size > 0.1


# ----------------------------------------------------------------------------- the two ways


class WholeModels:
    """The oracle of the streamed reference: weights and changes taken from models built as a whole.

    For paths with a single merge. Any quantisation goes, and any adapter that peft knows.
    """

    def __init__(self, path, context, _folder, _kept):
        def build(part, context):
            return build_variant(part, context, job="whole", on_progress=lambda tick: None).model

        (merge,) = (index for index, step in enumerate(path) if isinstance(step, paths.Merge))
        attached = build(path[:merge], context)
        self._peft = {
            name: module
            for name, module in attached.get_base_model().named_modules()
            if isinstance(module, LoraLayer)
        }
        self.modules = tuple(self._peft)
        self._plain = None
        if path[merge + 1 :]:
            # Without its adapter, a path with PiSSA still starts from the residual.
            residual = with_residual(path, context, job="whole", on_progress=lambda tick: None)
            left_out = (paths.Attach, paths.Merge)
            plain = tuple(
                step
                for step in path
                if not isinstance(step, left_out) or getattr(step, "adapter", "") in context.full
            )
            self._plain = build(plain, residual)

    def layer(self, name, device):
        peft_layer = self._peft[name]
        base = peft_layer.get_base_layer()
        weight = layer_weights.expanded(base)
        wanted = torch.zeros_like(weight)
        for adapter in peft_layer.active_adapters:
            if adapter in peft_layer.scaling:
                transposed = layer_weights.is_transposed(base)
                added = added_weight(peft_layer, adapter, weight.T if transposed else weight)
                wanted += added.T if transposed else added
        plain = base if self._plain is None else self._plain.get_submodule(name)
        return ReferenceLayer(layer_weights.expanded(plain), wanted, layer_weights.codes(plain))


@pytest.mark.parametrize("name", ["merged-4bit", "requantized", "merged", "merged-nf4", *FORMATS])
@pytest.mark.parametrize("dora", [False, True])
def test_whole_models_and_single_layers_agree(bench, tmp_path, monkeypatch, name, dora):
    if "torchao" in name:
        pytest.importorskip("torchao")
    steps = PATHS.get(name) or FORMATS[name]
    bench = bench.adding(small=bench.make_adapter(tmp_path / "adapter", use_dora=dora))
    built = bench.build(*steps)
    streamed = survival_of(bench, *steps, built=built)
    monkeypatch.setattr(integrity, "StreamedReference", WholeModels)
    whole = survival_of(bench, *steps, built=built)
    assert [part.module for part in whole.modules] == [part.module for part in streamed.modules]
    for ours, theirs in zip(whole.modules, streamed.modules, strict=True):
        assert ours.inner == pytest.approx(theirs.inner, rel=1e-4, abs=1e-6)
        assert ours.wanted == pytest.approx(theirs.wanted, rel=1e-4)
        assert ours.error == pytest.approx(theirs.error, rel=1e-4, abs=1e-8)
        assert (ours.codes, ours.codes_changed) == (theirs.codes, theirs.codes_changed)


@pytest.mark.parametrize("name", ["merged", "merged-4bit", "requantized", "merged-group4"])
def test_one_layer_at_a_time(bench, monkeypatch, name):
    read, alive = layer_weights.FolderTensors.read, {}

    def watched(self, name):
        module, _, _ = name.partition(".weight")
        others = [kept for other, refs in alive.items() if other != module for kept in refs]
        assert [tensor for tensor in others if tensor() is not None] == [], "another layer's stays"
        tensor = read(self, name)
        alive.setdefault(module, []).append(weakref.ref(tensor))
        return tensor

    steps = PATHS.get(name) or FORMATS[name]
    built = bench.build(*steps)
    monkeypatch.setattr(layer_weights.FolderTensors, "read", watched)
    monkeypatch.setattr("evalkit.weights.steps.build_variant", None)
    survival_of(bench, *steps, built=built)
    assert len(alive) == 14


# ----------------------------------------------------------------------------- edges


def test_rearranged_weights_are_refused(bench):
    built = bench.build(NF4, ATTACH, "merge")
    layer = next(iter(quantization.quantized_layers(built.model).values()))
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(WeightsError, match="cannot measure survival: bitsandbytes has rearranged"):
        survival_of(bench, NF4, ATTACH, "merge", built=built)


def test_sharded_weights_without_the_base_models_prefix(bench, tiny_model, tmp_path):
    whole = survival_of(bench, NF4, ATTACH, "merge")
    folder = tmp_path / "shards"
    tiny_model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    for file in bench.context.base.folder.glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    base = replace(bench.context.base, folder=folder, digest="shards")
    bench.context = replace(bench.context, base=base)
    assert survival_of(bench, NF4, ATTACH, "merge").modules == whole.modules

    bare = tmp_path / "bare"
    bare.mkdir()
    tensors = {
        name.removeprefix("model."): tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, bare / "model.safetensors", metadata={"format": "pt"})
    read = layer_weights.FolderTensors(bare, prefix="model")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert name in read
    assert torch.equal(read.read(name), tensors[name.removeprefix("model.")])
    assert "model.layers.9.self_attn.q_proj.weight" not in read
    with pytest.raises(WeightsError, match="holds no tensor"):
        read.read("model.layers.9.self_attn.q_proj.weight")


def test_progress_counts_modules(bench):
    survival_of(bench, ATTACH, "merge")
    ticks = [tick for tick in bench.ticks if tick.phase == "survival"]
    assert (ticks[0].done, ticks[-1].done, ticks[-1].total) == (0, 14, 14)


def test_groups_and_the_score():
    def part(name, inner, wanted):
        return ModuleSurvival(name, inner, wanted, 1.0, 100.0, 10, 1)

    survival = Survival(
        (
            part("model.layers.0.q_proj", 1.0, 1.0),
            part("model.layers.0.v_proj", 0.0, 9.0),
            part("model.layers.11.q_proj", 2.0, 4.0),
            part("lm_head", 0.0, 0.0),
        )
    )
    assert survival.total == pytest.approx(3 / 14)
    assert survival.mean == pytest.approx((1 + 0 + 0.5) / 3)
    assert list(survival.by_layer()) == ["0", "11", "lm_head"]
    assert survival.by_layer()["0"].survival == pytest.approx(0.1)
    assert survival.by_kind()["q_proj"].survival == pytest.approx(0.6)
    assert survival.pooled.changed_share == pytest.approx(0.1)
    score = survival_score(survival)
    assert score.value == survival.total
    assert score.stderr is None
    assert score.unit_ids == ()
    assert score.extra["mean"] == survival.mean
    assert score.higher_is_better


def test_a_gate_on_survival_is_judged():
    from evalkit.judging.gates import Evidence, judge
    from evalkit.records import Gate

    lost = Survival((ModuleSurvival("q_proj", 0.01, 1.0, 1.0, 100.0),))
    scores = {"merged": {"survival": survival_score(lost)}}
    gates = [Gate("survival", "merged", minimum=minimum) for minimum in (0.9, 0.005)]
    assert [verdict.verdict for verdict in judge(gates, Evidence(scores))] == ["REGRESSED", "PASS"]


# ----------------------------------------------------------------------------- other packages


def train(bench, out, **fields):
    bench.train(bench.recipe(steps=4, learning_rate=1e-2, **fields), out)
    return bench.adding(small=out)


def test_qa_lora_moves_zeros_and_keeps_every_code(bench, tmp_path):
    group4 = {"quantize": {"type": "group4", "group_size": 16}}
    lora = {"flavour": "qa-lora", "r": 4}
    bench = train(bench, tmp_path / "trained", on=(group4,), lora=lora)
    survival = survival_of(bench, group4, ATTACH, "merge")
    assert len(survival.modules) == 14
    assert survival.total == pytest.approx(1, abs=1e-5)
    assert survival.pooled.relative_error < 1e-4
    assert survival.pooled.changed_share == 0
    assert survival.pooled.codes == sum(p.numel() for p in linear_weights(bench))


def linear_weights(bench):
    model = bench.build({"load": "fp32"}).model
    return [m.weight for n, m in model.named_modules() if n.endswith("_proj")]


@pytest.mark.parametrize("after", [(), ({"quantize": {"type": "group4", "group_size": 16}},)])
def test_pissa_is_measured_on_its_residual(bench, tmp_path, after):
    bench = train(bench, tmp_path / "trained", on=({"load": "fp32"},), lora={"init": "pissa"})
    survival = survival_of(bench, ATTACH, "merge", *after)
    assert survival.pooled.relative_size > 0.3, "the singular parts are in the adapter"
    assert survival.total == pytest.approx(1, abs=0.02 if after else 1e-4)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_torchao_keeps_on_average_what_was_merged_before(bench):
    int8 = {"quantize": "torchao-int8"}
    survival = survival_of(bench, ATTACH, "merge", int8)
    assert survival.total == pytest.approx(1, abs=0.05)
    assert survival.pooled.codes == sum(p.numel() for p in linear_weights(bench))
    assert 0 < survival.pooled.changed_share < 1
