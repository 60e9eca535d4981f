"""What `evalkit doctor` says of this machine, and of packages that are known to go wrong."""

import pytest

from evalkit import known_bad
from evalkit.cli import doctor, run_command_line

pytestmark = pytest.mark.usefixtures("on_the_cpu")


def findings(tmp_path):
    return {found.subject: found for found in doctor.examine(tmp_path)}


def test_the_command_names_packages_and_device(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    assert run_command_line(["doctor", "--cache", str(tmp_path)]) in (0, 4)
    told = capsys.readouterr().out
    for subject in ("device", "4-bit weights", "bitsandbytes", "lm-eval", "cache"):
        assert subject in told


def test_a_cpu_that_repacks_gets_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.machine.cpu_repacks_4bit", lambda: True)
    found = findings(tmp_path)["4-bit weights"]
    assert found.level == "note"
    assert "evalkit switches that off" in found.what
    assert "has_avx512bf16 = lambda: False" in found.what


def test_another_cpu_is_fine(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.machine.cpu_repacks_4bit", lambda: False)
    assert findings(tmp_path)["4-bit weights"].level == "ok"


def test_a_bitsandbytes_without_the_switch_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.machine.cpu_repacks_4bit", lambda: True)
    monkeypatch.setattr(known_bad, "SWITCH", "no_such_name_in_its_source")
    found = findings(tmp_path)["4-bit weights"]
    assert found.level == "bad"


def test_the_installed_bitsandbytes_asks_the_switch_that_evalkit_sets():
    import bitsandbytes.nn.modules as modules

    assert known_bad.has_switch()
    assert callable(getattr(modules, known_bad.SWITCH))


@pytest.mark.parametrize(
    ("package", "version", "level"),
    [
        ("torch", "2.5.1+cpu", "bad"),
        ("torch", "2.13.0+cpu", None),
        ("datasets", "3.6.0", "bad"),
        ("datasets", "5.2.0", None),
        ("kernels", "0.4.1", "note"),
        ("optimum-quanto", "0.2.7", "note"),
    ],
)
def test_known_bad_versions_are_named(monkeypatch, package, version, level):
    def versions(names):
        return {name: version if name == package else "absent" for name in names}

    monkeypatch.setattr("evalkit.machine.package_versions", versions)
    found = list(known_bad.known_bad())
    assert [(subject, how) for subject, how, _ in found] == ([(package, level)] if level else [])
    assert all(what.startswith(f"{version}: ") for _, _, what in found)
