"""Base weights and tokenizers: what is loaded, converted, and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evalkit.errors import WeightsError
from evalkit.sources import WeightsSource
from evalkit.weights import loading
from evalkit.weights.checkpoint import checkpoint_headers, read_headers, stored_dtype
from evalkit.weights.tokenizers import load_tokenizer


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def prepare(folder, cache):
    source = WeightsSource("folder", folder, None, "./model", "digest", "safetensors float32")
    return loading.prepare_base(source, cache, on_progress=lambda progress: None)


def edit_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_whole_folder_is_used_where_it_is(copied, tmp_path):
    assert prepare(copied, tmp_path / "cache") == copied
    assert not (tmp_path / "cache").exists()


def test_headers_are_those_of_the_file(copied, tiny_model):
    headers = checkpoint_headers(copied)
    state = tiny_model.state_dict()
    assert {name: tensor.shape for name, tensor in headers.items()} == {
        name: tuple(state[name].shape) for name in headers
    }
    assert {tensor.dtype for tensor in headers.values()} == {"F32"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], "is damaged: .* bytes long where its header promises"),
        (lambda data: data[:20], "header is damaged"),
        (lambda data: b"", "header is damaged"),
        (lambda data: data[:8] + b"\x00" + data[9:], "header is damaged"),
        (lambda data: b"\xff" * 8 + data[8:], "header is damaged"),
    ],
)
def test_a_damaged_file_is_named(copied, tmp_path, damage, message):
    file = copied / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsError, match=message) as caught:
        prepare(copied, tmp_path)
    assert str(file) in str(caught.value)


def test_a_header_that_lists_no_tensors_properly_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    header = b'{"weight": 3}'
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="header is damaged"):
        read_headers(file)


def test_a_missing_shard_is_named(copied, tmp_path):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"model-2\.safetensors is missing"):
        prepare(copied, tmp_path)


def test_pickles_are_refused_with_the_way_to_convert(copied, tmp_path):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle.*save_pretrained"):
        prepare(copied, tmp_path)


def test_quantised_checkpoints_are_refused_by_name(copied, tmp_path):
    edit_config(copied, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(WeightsError, match=r"quantised already \(by gptq\).*name the 16-bit model"):
        prepare(copied, tmp_path)


def load(folder):
    return loading.load_model(folder, dtype=torch.float32, device_map={"": "cpu"})


def test_weights_that_are_missing_are_not_made_up(copied):
    from safetensors.torch import load_file, save_file

    file = copied / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 .*layers\.1\.mlp\.up_proj"):
        load(copied)


def test_an_architecture_that_transformers_does_not_know(copied):
    edit_config(copied, model_type="no-such-model", architectures=["NoSuchModel"])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(copied)


def test_code_beside_the_weights_is_not_run(copied):
    edit_config(
        copied, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    )
    (copied / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(WeightsError, match=r"needs code that comes with it.*--trust-remote-code"):
        load(copied)


def test_a_folder_without_tokenizer(copied):
    for file in copied.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(WeightsError, match="tokenizer"):
        load_tokenizer(copied)


@pytest.mark.parametrize(("named", "short"), [("bfloat16", "bf16"), ("float16", "fp16")])
def test_the_stored_dtype_is_read_from_the_configuration(copied, named, short):
    edit_config(copied, dtype=named)
    assert stored_dtype(copied) == short


def test_else_it_is_that_of_the_largest_tensor(copied):
    edit_config(copied, dtype=None)
    assert stored_dtype(copied) == "fp32"


def test_the_libraries_warnings_are_collected_once():
    import warnings

    with loading.quiet_libraries() as caught:
        for _ in range(3):
            warnings.warn("the same", stacklevel=1)
        assert caught == []
    assert caught == ["the same"]


# ----------------------------------------------------------------------------- GGUF


@pytest.fixture(params=["Q8_0"])
def gguf_source(request, tmp_path):
    """A llama in GGUF, of random weights, with a tokenizer inside."""
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[request.param]

    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 64),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 128),
        (writer.add_head_count, 4),
        (writer.add_head_count_kv, 4),
        (writer.add_rope_dimension_count, 16),
        (writer.add_layer_norm_rms_eps, 1e-5),
    ):
        add(value)
    letters = [chr(ord("a") + i) for i in range(26)]
    tokens = [*letters, "ab", "cd", "ef", "gh", "<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 30 + [3, 3])
    writer.add_token_merges(["a b", "c d", "e f", "g h"])
    writer.add_bos_token_id(30)
    writer.add_eos_token_id(31)
    generator = np.random.default_rng(0)
    shapes = {
        "token_embd": (32, 64),
        "output": (32, 64),
        **{f"blk.0.attn_{part}": (64, 64) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (128, 64),
        "blk.0.ffn_up": (128, 64),
        "blk.0.ffn_down": (64, 128),
    }
    values = {}
    for name, shape in shapes.items():
        dense = generator.normal(size=shape).astype(np.float32)
        packed = gguf.quantize(dense, kind)
        values[name] = gguf.dequantize(packed, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = WeightsSource(
        "gguf", tmp_path, file.name, "./tiny.gguf", "ab" * 32, f"dequantised from GGUF {kind.name}"
    )
    return source, values


@pytest.mark.parametrize("gguf_source", ["Q8_0", "Q5_0", "Q4_0"], indirect=True)
def test_gguf_is_dequantised_once_into_safetensors(gguf_source, tmp_path):
    from safetensors.torch import load_file

    source, values = gguf_source
    ticks = []
    cache = tmp_path / "cache"
    folder = loading.prepare_base(source, cache, on_progress=ticks.append)
    assert folder == loading.converted_folder(source, cache)
    assert [tick.phase for tick in ticks] == ["convert GGUF (once)"]
    tensors = load_file(folder / "model.safetensors")
    for ours, theirs in (("embed_tokens", "token_embd"), ("layers.0.mlp.up_proj", "blk.0.ffn_up")):
        expected = torch.from_numpy(values[theirs]).to(torch.float16)
        assert torch.equal(tensors[f"model.{ours}.weight"], expected)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert load(folder).num_parameters() == sum(value.size for value in values.values()) + 3 * 64
    assert load_tokenizer(folder).eos_token_id == 31
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    loading.prepare_base(source, cache, on_progress=ticks.append)
    assert len(ticks) == 1
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("steps", "few_bits"),
    [
        (({"load": "fp32"},), False),
        (({"quantize": "nf4"},), True),
        (({"quantize": "hqq"}, "dequantize"), False),
        (({"quantize": "nf4"}, {"attach": "small"}, "merge"), True),
        (({"quantize": "nf4"}, "dequantize", {"attach": "small"}, "merge"), False),
    ],
    ids=str,
)
def test_paths_start_from_a_gguf_file(bench, gguf_source, tmp_path, steps, few_bits):
    from evalkit.weights.quantization import quantized_layers

    source, _ = gguf_source
    folder = loading.prepare_base(source, bench.context.cache, on_progress=lambda progress: None)
    bench.context = replace(bench.context, base=replace(bench.context.base, folder=folder))
    bench = bench.adding(small=bench.make_adapter(tmp_path / "adapter"))
    bench.context = replace(bench.context, base=source)
    built = bench.build(*steps)
    assert built.facts["source_precision"] == "dequantised from GGUF Q8_0"
    assert bool(quantized_layers(built.model)) == few_bits
    ids = torch.tensor([[30, 3, 26, 7, 11]])
    with torch.inference_mode():
        seen = built.model(input_ids=ids).logits
        whole = load(folder).eval()(input_ids=ids).logits
    assert seen.isfinite().all()
    assert torch.equal(seen, whole) == (steps == ({"load": "fp32"},))


def test_a_damaged_gguf_file_leaves_nothing_behind(gguf_source, tmp_path):
    source, _ = gguf_source
    file = source.folder / source.filename
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"\./tiny\.gguf: cannot be converted"):
        loading.prepare_base(source, tmp_path / "cache", on_progress=lambda progress: None)
    assert [path.suffix for path in (tmp_path / "cache" / "bases").iterdir()] == [".lock"]
