"""GitHub's workflow commands: on the right line, and nothing in them can be another command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from evalkit.errors import MachineError, Problem, SuiteError
from evalkit.report.annotations import annotation_lines, error_annotations

HERE = Path.cwd()


def lines_of(made_up, *verdicts, **changes):
    gates = tuple(verdict.gate for verdict in verdicts)
    return annotation_lines(made_up.run(verdicts=verdicts, gates=gates, **changes), root=HERE)


def test_a_failed_gate_is_an_error_on_its_line(made_up):
    verdict = made_up.verdict(made_up.SHIP_GATE, "REGRESSED", (0.1, 0.2, 0.3), message="worse")
    assert lines_of(made_up, verdict) == [
        "::error file=suites/quickstart.yaml,line=31,"
        "title=REGRESSED%3A fp16-merged-nf4%3A perplexity at most 10 %25 above nf4+adapter::worse"
    ]


def test_a_warned_gate_is_a_warning_and_comes_after_the_errors(made_up):
    warned = made_up.verdict(
        replace(made_up.SHIP_GATE, inconclusive="warn"), "INCONCLUSIVE", None, ok=True, warned=True
    )
    failed = made_up.verdict(made_up.HELPS_GATE, "MISSING", None)
    levels = [line.split(" ")[0] for line in lines_of(made_up, warned, failed)]
    assert levels == ["::error", "::warning"]


def test_what_is_ok_and_a_known_loss_are_not_annotated(made_up):
    assert annotation_lines(made_up.run(), root=HERE) == []


def test_percent_newlines_commas_and_colons_are_escaped(made_up):
    gate = replace(made_up.SHIP_GATE, variant="a,b:c%", place="suites/odd,name:x.yaml:7")
    message = "50 %, see: this\r\n::error::injected\n::add-mask::x"
    (line,) = lines_of(
        made_up, made_up.verdict(gate, "REGRESSED", (0.1, 0.2, 0.3), message=message)
    )
    assert "\n" not in line
    assert "\r" not in line
    properties, _, data = line.removeprefix("::error ").partition("::")
    assert data == "50 %25, see: this%0A::error::injected%0A::add-mask::x"
    keys = [item.split("=", 1)[0] for item in properties.split(",")]
    assert keys == ["file", "line", "title"]
    assert "file=suites/odd%2Cname%3Ax.yaml" in properties
    assert "a%2Cb%3Ac%25" in properties


def test_the_file_is_relative_to_the_checkout(made_up, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    verdict = made_up.verdict(made_up.SHIP_GATE, "MISSING", None)
    run = made_up.run(verdicts=(verdict,))
    (line,) = annotation_lines(run, root=tmp_path)
    assert "file=models/suites/quickstart.yaml,line=31," in line
    # A file outside of the checkout cannot be annotated: the message still comes through.
    (line,) = annotation_lines(run, root=tmp_path / "elsewhere")
    assert line.startswith("::error title=MISSING")


def test_a_gate_from_the_command_line_is_told_on_the_suites_file(made_up):
    gate = replace(made_up.SHIP_GATE, place="--set gates=[...]")
    verdict = made_up.verdict(gate, "MISSING", None)
    (line,) = lines_of(made_up, verdict, place="suites/quickstart.yaml")
    assert line.startswith("::error file=suites/quickstart.yaml,title=")


def test_a_failed_job_without_a_gate_is_an_error_too(made_up):
    first, second, *rest = made_up.run().variants
    job = replace(second.job, status="failed", error="no memory")
    broken = (first, replace(second, scores={}, job=job), *rest)
    (line,) = annotation_lines(made_up.run(variants=broken, place="s.yaml"), root=HERE)
    assert line == "::error file=s.yaml,title=score nf4 failed::no memory"


def test_each_problem_of_a_wrong_suite_stands_on_its_line():
    error = SuiteError(
        [Problem("s.yaml:3", "variants.0", "unknown: 'fp61'"), Problem("s.yaml", "", "empty")]
    )
    assert error_annotations(error, root=HERE) == [
        "::error file=s.yaml,line=3,title=variants.0::unknown: 'fp61'",
        "::error file=s.yaml,title=suite::empty",
    ]
    assert error_annotations(MachineError("no GPU"), root=HERE) == ["::error title=evalkit::no GPU"]


def test_hostile_texts_stay_in_their_line(hostile_run):
    for line in annotation_lines(hostile_run, root=HERE):
        assert re.match(r"::(error|warning) [a-z]+=", line)
        assert not re.search(r"[\x00-\x1f\x7f]", line)
