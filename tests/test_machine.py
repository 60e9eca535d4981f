import importlib.metadata
import subprocess
import sys

import pytest

from evalkit.machine import Machine, detect_machine, package_versions, readable_bytes


def machine(device="cpu", bf16=True):
    return Machine(device=device, name="x", driver="", memory=1, bf16=bf16, cores=1)


def test_a_cpu_computes_fp16_in_what_it_has():
    assert machine(bf16=True).effective_dtypes()["fp16"] == "bf16"
    assert machine(bf16=False).effective_dtypes()["fp16"] == "fp32"
    assert machine("cuda").effective_dtypes()["fp16"] == "fp16"


def test_detecting_this_machine_finds_its_memory_and_imports_no_torch():
    code = (
        "import sys; from evalkit.machine import detect_machine as d; m = d();"
        "print(m.memory > 2**28, m.cores > 0, bool(m.name), 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["True", "True", "True", "False"], answer.stderr


def test_the_detected_device_is_the_one_torch_has():
    torch = pytest.importorskip("torch")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert detect_machine().device == expected


def test_versions_of_what_is_absent_say_so():
    versions = package_versions(("torch", "no-such-package"))
    assert versions["no-such-package"] == "absent"
    assert versions["torch"][0].isdigit()


def test_versions_are_those_of_the_packages_metadata():
    names = tuple(each.metadata["Name"] for each in importlib.metadata.distributions())
    assert len(names) > 50
    expected = {name: importlib.metadata.version(name) for name in names}
    assert package_versions(names) == expected


def test_a_version_without_a_wheels_metadata_is_found_too(tmp_path, monkeypatch):
    (tmp_path / "old_style-1.5.egg-info").mkdir()
    (tmp_path / "old_style-1.5.egg-info" / "PKG-INFO").write_text("Name: old-style\nVersion: 1.5\n")
    (tmp_path / "said-2.dist-info").mkdir()
    told = "Metadata-Version: 2.1\nName: said\nVersion: 2.0rc1\n\nVersion: of another thing\n"
    (tmp_path / "said-2.dist-info" / "METADATA").write_text(told)
    monkeypatch.syspath_prepend(tmp_path)
    assert package_versions(("old-style", "said")) == {"old-style": "1.5", "said": "2.0rc1"}


@pytest.mark.parametrize(
    ("count", "text"),
    [(24 * 10**9, "24.0 GB"), (5 * 10**6, "5.0 MB"), (1500, "1.5 kB"), (7, "7 B")],
)
def test_readable_bytes(count, text):
    assert readable_bytes(count) == text


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), ("", None), ("all", None)])
def test_threads_are_those_that_openmp_is_told(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    detect_machine.cache_clear()
    found = detect_machine()
    detect_machine.cache_clear()
    if found.device == "cpu":
        assert found.threads == (threads or found.cores)
