"""JUnit XML: what a CI system counts must be what the gates say."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from evalkit.records import JobRecord
from evalkit.report.junit import junit_xml


def suite_of(run):
    text = junit_xml(run)
    root = ET.fromstring(text.encode("utf-8"))
    assert root.tag == "testsuites"
    suite = root.find("testsuite")
    assert suite is not None
    return suite


def counts(suite):
    return tuple(int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped"))


def case(suite, name):
    return next(case for case in suite.findall("testcase") if case.get("name") == name)


def run_with(made_up, name, **changes):
    gate = changes.pop("gate", made_up.SHIP_GATE)
    effect = changes.pop("effect", (0.11, 0.13, 0.15))
    verdict = made_up.verdict(gate, name, effect, **changes)
    return made_up.run(verdicts=(verdict,), gates=(gate,))


def test_every_gate_is_a_case_with_its_place(made_up):
    suite = suite_of(made_up.run())
    assert suite.get("name") == "quickstart"
    assert counts(suite) == (3, 0, 0, 0)
    ship = case(suite, "perplexity[fp16-merged-nf4 vs nf4+adapter]")
    assert ship.get("classname") == "evalkit.quickstart"
    assert (ship.get("file"), ship.get("line")) == ("suites/quickstart.yaml", "31")
    shown = {p.get("name"): p.get("value") for p in ship.iter("property")}
    assert shown["verdict"] == "PASS"
    assert shown["change"] == "+3.00 %"
    assert shown["budget"] == "10 %"


def test_a_failure_has_message_and_figures(made_up):
    suite = suite_of(run_with(made_up, "REGRESSED", message="merge in 16 bits"))
    assert counts(suite) == (1, 1, 0, 0)
    failure = suite.find("testcase/failure")
    assert failure.get("type") == "REGRESSED"
    assert failure.get("message") == (
        "REGRESSED: fp16-merged-nf4: perplexity at most 10 % above nf4+adapter"
    )
    for words in ("merge in 16 bits", "change: +13.0 %", "95 % CI: +11.0 to +15.0 %", "budget: 10"):
        assert words in failure.text


@pytest.mark.parametrize("name", ["MISSING", "INCOMPARABLE", "INCONCLUSIVE"])
def test_a_check_that_decided_nothing_is_a_failure(made_up, name):
    assert counts(suite_of(run_with(made_up, name, effect=None))) == (1, 1, 0, 0)


def test_a_failed_job_is_an_error_once(made_up):
    run = run_with(made_up, "ERRORED", effect=None, message="nf4+adapter failed: no memory")
    first, second, adapter, *rest = run.variants
    job = replace(adapter.job, status="failed", error="no memory\nat all")
    run = replace(run, variants=(first, second, replace(adapter, scores={}, job=job), *rest))
    suite = suite_of(run)
    assert counts(suite) == (1, 0, 1, 0)
    assert "no memory" in suite.find("testcase/error").get("message")


def test_a_failed_job_without_a_gate_is_a_case_of_its_own(made_up):
    first, second, *rest = made_up.run().variants
    job = replace(second.job, status="failed", error="no memory\nat all")
    suite = suite_of(made_up.run(variants=(first, replace(second, scores={}, job=job), *rest)))
    assert counts(suite) == (4, 0, 1, 0)
    assert case(suite, "score nf4").find("error").text == "no memory\nat all"


def test_a_warning_is_skipped_with_its_message(made_up):
    gate = replace(made_up.SHIP_GATE, inconclusive="warn")
    run = run_with(
        made_up, "INCONCLUSIVE", gate=gate, ok=True, warned=True, message="about 90 are needed"
    )
    suite = suite_of(run)
    assert counts(suite) == (1, 0, 0, 1)
    assert suite.find("testcase/skipped").get("message") == "about 90 are needed"


def test_a_known_loss_passes_and_says_so(made_up):
    loss = case(suite_of(made_up.run()), "perplexity[merged-4bit vs nf4+adapter]")
    assert loss.find("failure") is None
    assert loss.find("system-out").text.startswith("A known loss, as the suite expects it.")


def test_a_loss_that_is_gone_fails(made_up):
    suite = suite_of(run_with(made_up, "PASS", gate=made_up.LOSS_GATE, ok=False))
    assert counts(suite) == (1, 1, 0, 0)
    assert "though `expect: regressed`" in suite.find("testcase/failure").get("message")


def test_a_run_that_was_interrupted_passes_no_gate(made_up):
    run = made_up.run(verdicts=(), exit_code=130)
    variants = (run.variants[0], *(replace(v, scores={}, job=None) for v in run.variants[1:]))
    suite = suite_of(replace(run, variants=variants))
    assert counts(suite) == (9, 0, 9, 0)


def test_no_gates_are_no_cases(made_up):
    assert counts(suite_of(made_up.run(verdicts=(), gates=()))) == (0, 0, 0, 0)


def test_the_same_gate_twice_has_two_names(made_up):
    gates = (made_up.SHIP_GATE, made_up.SHIP_GATE)
    verdicts = tuple(made_up.verdict(gate, "PASS", (0.0, 0.01, 0.02)) for gate in gates)
    names = [c.get("name") for c in suite_of(made_up.run(verdicts=verdicts)).findall("testcase")]
    assert len(set(names)) == 2


def test_an_absolute_limit_shows_the_value(made_up):
    gate = replace(made_up.SHIP_GATE, against=None, max_increase=None, maximum=11.0)
    suite = suite_of(run_with(made_up, "REGRESSED", gate=gate, effect=(11.1, 11.47, 11.9)))
    shown = {p.get("name"): p.get("value") for p in suite.find("testcase").iter("property")}
    assert shown["value"] == "11.47"
    assert shown["budget"] == "max 11"


def test_characters_that_xml_forbids_are_replaced(made_up):
    message = "\x1b[31mred\x00\x0b\ufffe\uffff ]]> <b> & \"quoted\" 'so' \ud800 \r\nnew line\ttab"
    suite = suite_of(run_with(made_up, "REGRESSED", message=message))
    text = suite.find("testcase/failure").text
    assert "]]> <b> & \"quoted\" 'so'" in text
    assert "\x1b" not in text
    assert "\ufffe" not in text


def test_hostile_names_leave_the_document_well_formed(hostile_run):
    suite = suite_of(hostile_run)
    assert counts(suite)[0] == len(suite.findall("testcase"))
    job = JobRecord("train \x01<evil>", "train", "failed", 1.0, error="\x02")
    assert suite_of(replace(hostile_run, adapters=(job,))) is not None


def test_flips_and_noise_are_told_where_they_are_known(made_up):
    run = run_with(
        made_up, "REGRESSED", gained=3, lost=12, mcnemar_p=0.035, noise_floor=0.0012,
        training_spread=0.004, n_seeds=3,
    )  # fmt: skip
    text = suite_of(run).find("testcase/failure").text
    assert "flips: 3 gained, 12 lost (exact McNemar p = 0.035)" in text
    assert "noise floor: 0.12 %" in text
    assert "spread between seeds: 0.4 %" in text
