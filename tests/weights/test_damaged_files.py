"""Mutated bytes of safetensors, GGUF and data: a right result, or an error that explains it."""

import json
import os
import struct

import numpy as np
import pytest
from bad_inputs import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from evalkit.corpora.files import SUFFIXES, read_rows
from evalkit.errors import DataError, EvalkitError, WeightsError
from evalkit.sources import resolve_weights
from evalkit.suite import ModelSpec
from evalkit.weights.checkpoint import checkpoint_headers, read_headers

FEW = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
GGUF_FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mutations(first):
    """Bytes to change, mostly in the first so many; then how many to cut off."""
    changes = st.lists(st.tuples(st.integers(0, first), st.integers(0, 255)), max_size=4)
    return st.tuples(changes, st.one_of(st.just(0), st.integers(1, 400)))


def mutated(content, mutation):
    changes, cut = mutation
    spoilt = bytearray(content)
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    return bytes(spoilt[: len(spoilt) - cut] if cut else spoilt)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "a.safetensors"
    tensors = {
        "a": np.ones((3, 4), np.float32),
        "b": np.ones(5, np.float16),
        "c": np.ones((), "i8"),
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return file.read_bytes()


def agrees(file):
    """What we read of a file is what the library reads; where we refuse, nothing is claimed."""
    try:
        ours = read_headers(file)
    except WeightsError:
        return False
    with safe_open(file, framework="np") as theirs:
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes
    return True


@FEW
@given(mutation=mutations(260))
def test_mutated_safetensors(mutation, whole, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(mutated(whole, mutation))
    agrees(file)


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "F4", "I64", "", "F33"]),
        "shape": st.lists(st.integers(-1, 4) | st.floats(0, 3), max_size=3),
        "data_offsets": st.lists(st.integers(-4, 64), min_size=1, max_size=3),
    }
)


@FEW
@given(
    told=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRY | st.integers()),
    length=st.integers(0, 64),
)
def test_headers_that_lie(told, length, tmp_path):
    file = tmp_path / "model.safetensors"
    text = json.dumps(told).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(length))
    agrees(file)


def test_a_sound_file_is_read_and_a_key_that_is_there_twice_is_refused(whole, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(whole)
    assert agrees(file)
    length = struct.unpack("<Q", whole[:8])[0]
    text = whole[8 : 8 + length].rstrip().replace(b'"b":', b'"a":')
    file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    with pytest.raises(WeightsError, match="header is damaged"):
        read_headers(file)
    with pytest.raises(SafetensorError), safe_open(file, framework="np"):
        pass


@FEW
@given(content=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below),
    max_leaves=6,
))  # fmt: skip
def test_any_index(content, tmp_path):
    for told in (content, {"weight_map": content}, {"weight_map": {"a": content}}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(told))
        with pytest.raises(WeightsError):
            checkpoint_headers(tmp_path)


@GGUF_FEW
@given(mutation=mutations(420))
def test_mutated_gguf(mutation, tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(file)
    file.write_bytes(mutated(file.read_bytes(), mutation))
    try:
        found = resolve_weights(ModelSpec(source=str(file)), tmp_path / "cache")
    except EvalkitError:
        return
    assert found.precision.startswith("dequantised from GGUF ")


@FEW
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_rows_or_explained(content, tmp_path):
    for suffix in SUFFIXES:
        file = tmp_path / f"data{suffix}"
        file.write_bytes(content)
        try:
            rows = read_rows(file)
        except DataError:
            continue
        assert all(row.place.startswith(str(file)) for row in rows)


def test_a_link_to_a_device_is_no_file_of_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to(os.devnull)
    with pytest.raises(WeightsError, match=r"has no \.safetensors file"):
        resolve_weights(ModelSpec(source=str(tmp_path)), tmp_path / "cache")


def test_the_links_of_the_hubs_cache_are_followed(tiny_folder, tmp_path):
    repository = tmp_path / "models--own--tiny"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in tiny_folder.iterdir():
        blob = repository / "blobs" / f"digest-of-{file.name}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    found = resolve_weights(ModelSpec(source=str(snapshot)), tmp_path / "cache")
    plain = resolve_weights(ModelSpec(source=str(tiny_folder)), tmp_path / "cache")
    assert found.digest == plain.digest
