"""Suites as tests, with a run made up in place of a real one; one test at the end is real."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import evalkit.report.html.page
import evalkit.report.sentence
import evalkit.runner
from evalkit.errors import MachineError
from evalkit.judging.gates import is_ok
from evalkit.records import JobRecord, RunRecord, VariantRecord, Verdict
from evalkit.store import Store

pytestmark = pytest.mark.system

pytest_plugins = ["pytester"]

SUITE = """\
name: small
model: somebody/something
data: {test: test.jsonl}
variants: [fp16, nf4, int8]
metrics:
  perplexity: {on: test}
gates:
  - {metric: perplexity, variant: nf4, against: fp16, max_increase: 1%}
  - {metric: perplexity, variant: int8, against: fp16, max_increase: 1%, inconclusive: warn}
  - {metric: perplexity, variant: nf4, against: int8, max_increase: 1%, expect: regressed}
"""
NAMES = ["perplexity[nf4 vs fp16]", "perplexity[int8 vs fp16]", "perplexity[nf4 vs int8]"]


@dataclass
class FakeRuns:
    """What `run_suite` answers, and how often it was asked."""

    verdicts: list = field(default_factory=lambda: ["PASS", "PASS", "REGRESSED"])
    error: Exception | None = None
    broken: str = ""
    asked: list = field(default_factory=list)

    def __call__(self, suite, options, *, store, executor, watcher):
        self.asked.append((suite, options, store))
        if self.error is not None:
            raise self.error
        verdicts = tuple(
            Verdict(
                gate, name, *is_ok(gate, name), effect=0.031, low=0.02, high=0.042, n_units=42,
                message=f"{gate.variant} was seen at +3.1 %",
            )
            for gate, name in zip(suite.gates, self.verdicts, strict=True)
        )  # fmt: skip
        job = JobRecord("score nf4", "score", "failed", 1.0, error=self.broken)
        variants = (VariantRecord("nf4", (), None, "", job, {}),) if self.broken else ()
        watcher.job_ended(job, {})
        return RunRecord(
            "20260101-000000-abcd", suite.name, "2026-01-01T00:00:00+00:00", 2.0, 1, "", {}, {}, {},
            variants, (), verdicts, suite.gates, suite.place,
        )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What a session imports late, imported before: pytester takes back what its runs import."""
    with Store.open(str(tmp_path_factory.mktemp("store") / "runs.db"), create=True):
        pass


@pytest.fixture
def runs(monkeypatch, loaded):
    fake = FakeRuns()
    monkeypatch.setattr(evalkit.runner, "run_suite", fake)
    return fake


@pytest.fixture
def place(pytester, monkeypatch):
    """A folder with one suite, some YAML that is none, and a test of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("EVALKIT_DB", "EVALKIT_CACHE", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.mkdir("suites")
    (pytester.path / "suites" / "small.yaml").write_text(SUITE)
    (pytester.path / "suites" / "other.yaml").write_text("services: {db: {image: postgres}}\n")
    (pytester.path / "suites" / "hydra.yml").write_text("model: {layers: 2}\ndata: x\nname: y\n")
    pytester.makepyfile(test_own="def test_own():\n    pass\n")
    return pytester


def pytest_with(place, *arguments):
    return place.runpytest_inprocess("-p", "evalkit.pytest_plugin", *arguments)


def test_a_named_suite_gives_a_test_for_each_gate(place, runs):
    answer = pytest_with(place, "suites/small.yaml", "-v")
    answer.assert_outcomes(passed=2, xfailed=1)
    answer.stdout.fnmatch_lines([f"suites/small.yaml::{NAMES[0].replace('[', '[[]')}*"])
    assert len(runs.asked) == 1


def test_the_suite_is_not_collected_unless_it_is_asked_for(place, runs):
    pytest_with(place).assert_outcomes(passed=1)
    pytest_with(place, "suites", "test_own.py").assert_outcomes(passed=1)
    assert runs.asked == []


def test_evalkit_collects_the_suites_of_folders_and_no_other_yaml(place, runs):
    answer = pytest_with(place, "--evalkit")
    answer.assert_outcomes(passed=3, xfailed=1)
    assert "other.yaml" not in answer.stdout.str()
    assert "hydra.yml" not in answer.stdout.str()


def test_a_named_file_that_is_no_suite_is_left_to_others(place, runs):
    answer = pytest_with(place, "suites/other.yaml")
    assert answer.ret == pytest.ExitCode.USAGE_ERROR
    assert runs.asked == []


def test_collecting_alone_runs_nothing(place, runs):
    answer = pytest_with(place, "suites/small.yaml", "--collect-only", "-q")
    assert [f"suites/small.yaml::{name}" for name in NAMES] == answer.outlines[:3]
    assert runs.asked == []


def test_one_gate_alone_by_name_and_by_node_id(place, runs):
    answer = pytest_with(place, "--evalkit", "-k", "int8 and fp16")
    answer.assert_outcomes(passed=1, deselected=3)
    pytest_with(place, f"suites/small.yaml::{NAMES[0]}").assert_outcomes(passed=1)
    assert len(runs.asked) == 2


def test_a_suite_whose_gates_are_all_deselected_does_not_run(place, runs):
    pytest_with(place, "--evalkit", "-k", "own").assert_outcomes(passed=1, deselected=3)
    assert runs.asked == []


def test_a_failure_says_what_was_seen_and_allowed_and_shows_no_traceback(place, runs):
    runs.verdicts = ["REGRESSED", "PASS", "REGRESSED"]
    answer = pytest_with(place, "suites/small.yaml")
    answer.assert_outcomes(failed=1, passed=1, xfailed=1)
    answer.stdout.fnmatch_lines(
        [
            "REGRESSED: nf4: perplexity at most 1 % above fp16",
            "nf4 was seen at +3.1 %",
            "*change: +3.10 %",
            "*95 % CI: +2.00 to +4.20 %",
            "*budget: 1 %",
            "*gate: suites/small.yaml:8",
            "FAILED suites/small.yaml::*REGRESS*",
        ]
    )
    assert "Traceback" not in answer.stdout.str()
    assert "nodes.py" not in answer.stdout.str()


def test_stopping_at_the_first_failure(place, runs):
    runs.verdicts = ["REGRESSED", "REGRESSED", "REGRESSED"]
    pytest_with(place, "-x", "suites/small.yaml").assert_outcomes(failed=1)


def test_a_loss_that_is_gone_fails_and_says_what_to_remove(place, runs):
    runs.verdicts = ["PASS", "PASS", "PASS"]
    answer = pytest_with(place, "suites/small.yaml")
    answer.assert_outcomes(passed=2, failed=1)
    answer.stdout.fnmatch_lines(["PASS, though `expect: regressed`: nf4: *"])


def test_an_expected_loss_that_nothing_settles_is_an_xfail(place, runs):
    runs.verdicts = ["PASS", "PASS", "INCONCLUSIVE"]
    pytest_with(place, "suites/small.yaml").assert_outcomes(passed=2, xfailed=1)


def test_runxfail_makes_a_known_loss_a_failure(place, runs):
    pytest_with(place, "suites/small.yaml", "--runxfail").assert_outcomes(passed=2, failed=1)


def test_a_warned_gate_is_skipped_at_its_own_line(place, runs):
    runs.verdicts = ["INCONCLUSIVE", "INCONCLUSIVE", "REGRESSED"]
    answer = pytest_with(place, "suites/small.yaml", "-rs")
    answer.assert_outcomes(failed=1, skipped=1, xfailed=1)
    answer.stdout.fnmatch_lines(["SKIPPED [[]1] suites/small.yaml:9: int8 was seen at +3.1 %"])


@pytest.mark.parametrize("verdict", ["MISSING", "INCOMPARABLE"])
def test_a_check_that_did_not_happen_is_no_pass(place, runs, verdict):
    runs.verdicts = [verdict, verdict, verdict]
    pytest_with(place, "suites/small.yaml").assert_outcomes(failed=3)


def test_a_failed_job_is_an_error_of_its_gate_with_the_jobs_message(place, runs):
    runs.verdicts = ["ERRORED", "PASS", "ERRORED"]
    runs.broken = "no room for nf4"
    answer = pytest_with(place, "suites/small.yaml")
    answer.assert_outcomes(errors=2, passed=1)
    answer.stdout.fnmatch_lines(
        [
            "*score nf4: failed*no room for nf4",
            "* ERROR at setup of perplexity* _*",
            "ERRORED: nf4: perplexity at most 1 % above fp16",
            "nf4 was seen at +3.1 %",
        ]
    )
    assert "Traceback" not in answer.stdout.str()


def test_a_failed_job_that_no_gate_is_about_is_an_error_too(place, runs):
    runs.broken = "no room for nf4"
    answer = pytest_with(place, "suites/small.yaml")
    answer.assert_outcomes(passed=2, xfailed=1, errors=1)
    answer.stdout.fnmatch_lines(["score nf4 failed: no room for nf4"])


def test_a_machine_that_cannot_run_the_suite_is_an_error_of_every_gate(place, runs):
    runs.error = MachineError("suites/small.yaml: needs 900 GB of memory")
    answer = pytest_with(place, "suites/small.yaml")
    answer.assert_outcomes(errors=3)
    assert len(runs.asked) == 1
    answer.stdout.fnmatch_lines(["suites/small.yaml: needs 900 GB of memory"])
    assert "Traceback" not in answer.stdout.str()


def test_a_wrong_suite_is_told_with_its_lines_and_nothing_else(place, runs):
    suite = place.path / "suites" / "small.yaml"
    suite.write_text(SUITE.replace("variant: int8", "variant: int9").replace("[fp16", "[fp17"))
    answer = pytest_with(place, "suites/small.yaml")
    answer.assert_outcomes(errors=1)
    answer.stdout.fnmatch_lines(["suites/small.yaml:4: *fp17*", "suites/small.yaml:9: *int9*"])
    assert "Traceback" not in answer.stdout.str()


def test_junitxml_of_pytest_holds_outcome_and_figures(place, runs):
    runs.verdicts = ["REGRESSED", "INCONCLUSIVE", "REGRESSED"]
    pytest_with(place, "suites/small.yaml", "--junitxml=junit.xml")
    suite = ET.parse(place.path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "2")
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    failure = cases[NAMES[0]].find("failure")
    assert failure is not None
    assert "REGRESSED: nf4" in failure.get("message", "")
    shown = {p.get("name"): p.get("value") for p in cases[NAMES[0]].iter("property")}
    assert shown["change"] == "+3.10 %"


def test_reports_can_be_sent_to_another_process(place, runs):
    """As plugins that spread tests over processes do."""
    sent = []

    class Catcher:
        @staticmethod
        def pytest_runtest_logreport(report):
            sent.append(json.dumps(report._to_json(), default=os.fspath))

    runs.verdicts = ["REGRESSED", "INCONCLUSIVE", "REGRESSED"]
    place.runpytest_inprocess(
        "-p", "evalkit.pytest_plugin", "suites/small.yaml", plugins=[Catcher()]
    ).assert_outcomes(failed=1, skipped=1, xfailed=1)
    assert any("nf4 was seen at +3.1 %" in text for text in sent)


def test_the_options_reach_the_run(place, runs):
    pytest_with(
        place, "suites/small.yaml", "--evalkit-db=here.db", "--evalkit-cache=kept",
        "--evalkit-baseline=main.json",
        "--evalkit-set", "name=renamed", "--evalkit-set", "variants=[fp16, nf4, int8, fp4]",
    )  # fmt: skip
    ((suite, options, _store),) = runs.asked
    assert suite.name == "renamed"
    assert len(suite.variants) == 4
    assert str(options.cache) == "kept"
    assert (options.baseline, options.database) == ("main.json", "here.db")
    assert (place.path / "here.db").is_file()


def test_a_report_is_written_where_it_is_asked_for_and_told(place, runs):
    answer = pytest_with(place, "suites/small.yaml", "--evalkit-reports=pages")
    (page,) = (place.path / "pages").glob("small/*/index.html")
    assert page.stat().st_size > 1000
    answer.stdout.fnmatch_lines(["*the whole report: pages/small/*"])
    answer = pytest_with(place, "suites/small.yaml")
    answer.stdout.fnmatch_lines(["*the whole report: evalkit report 20260101-000000-abcd"])


def test_a_line_for_each_job_unless_quiet(place, runs):
    told = "evalkit: score nf4: failed, 1.0 s"
    assert told in pytest_with(place, "suites/small.yaml").stdout.str()
    assert told in pytest_with(place, "suites/small.yaml", "-s").stdout.str()
    assert told not in pytest_with(place, "suites/small.yaml", "-q").stdout.str()


def test_the_entry_point_loads_the_plugin_and_can_be_left_out(place, monkeypatch):
    """What pyproject.toml says, installed beside whatever is installed."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (points,) = project["entry-points"].values()
    installed = place.path / "site" / "evalkit_entry_point-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: evalkit-entry-point\n")
    lines = [f"{name} = {module}" for name, module in points.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]) + "\n")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTHONPATH", str(installed.parent), prepend=os.pathsep)
    pytest_alone = (sys.executable, "-m", "pytest", "--help")
    assert "--evalkit-reports" in place.run(*pytest_alone).stdout.str()
    assert "--evalkit" not in place.run(*pytest_alone, "-p", "no:evalkit").stdout.str()


def test_an_ordinary_session_imports_nothing_of_evalkits_dependencies(place):
    code = (
        "import sys, pytest\n"
        "code = pytest.main(['-p', 'evalkit.pytest_plugin', '-q', 'test_own.py'])\n"
        "wanted = {'torch', 'numpy', 'pydantic', 'rich', 'ruamel', 'sqlalchemy'}\n"
        "evalkit = sorted(name for name in sys.modules if name.startswith('evalkit'))\n"
        "print('loaded:', int(code), *sorted(wanted & set(sys.modules)), *evalkit)"
    )
    answer = place.run(sys.executable, "-c", code)
    assert answer.outlines[-1] == "loaded: 0 evalkit evalkit.pytest_plugin"


def test_collecting_a_suite_imports_no_torch(place):
    code = (
        "import sys, pytest\n"
        "pytest.main(['-p', 'evalkit.pytest_plugin', '--collect-only', 'suites/small.yaml'])\n"
        "print('torch' in sys.modules)"
    )
    answer = place.run(sys.executable, "-c", code)
    assert "3 tests collected" in answer.stdout.str()
    assert answer.outlines[-1] == "False"


def test_a_real_suite_on_a_tiny_model(place, tiny_folder):
    rows = [{"text": f"The words of document {n} are scored one by one, {n}."} for n in range(30)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place.path / "suites" / "test.jsonl").write_text(lines)
    suite = SUITE.replace("somebody/something", str(tiny_folder)).replace(", int8", "")
    gates = """\
gates:
  - {metric: perplexity, variant: nf4, against: fp16, max_increase: 1000%}
  - {metric: perplexity, variant: nf4, max: 1}
"""
    text = suite[: suite.index("gates:")].replace("{on: test}", "{on: test, max_length: 64}")
    (place.path / "suites" / "small.yaml").write_text(text + gates)
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "evalkit.pytest_plugin", "suites/small.yaml",
         "--evalkit-db=runs.db", "--evalkit-cache=cache", "-W", "error"],
        capture_output=True, text=True, cwd=place.path,
    )  # fmt: skip
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "1 failed, 1 passed" in answer.stdout
    assert "REGRESSED: nf4: perplexity at most 1\n" in answer.stdout
    assert (place.path / "runs.db").is_file()
