"""A run as JUnit XML: the suite is a test suite, a gate is a test case.

Not ok is a failure, ERRORED an error, a warned INCONCLUSIVE is skipped, and a known loss passes.
The dialect is the one that pytest writes and that Jenkins, GitLab and GitHub's reporters read:
`testsuites/testsuite/testcase`, with `file` and `line` on a case.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from evalkit.records import Gate, RunRecord, Verdict
from evalkit.report.gate_text import (
    FailedJob,
    failed_jobs,
    figures,
    gate_names,
    gate_place,
    gate_report,
    headline,
    outcome,
)
from evalkit.report.sentence import verdict_sentence
from evalkit.report.words import clean, first_line

# Legal in a Python string and in UTF-8, but in no XML 1.0 document.
_NO_XML = re.compile("[\ufffe\uffff]")
_KINDS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def junit_xml(run: RunRecord) -> str:
    """A run as a JUnit document. A gate that was never judged is an error, not a pass."""
    suite = ET.Element("testsuite", name=_xml(run.suite))
    _properties(suite, _run_facts(run))
    names = gate_names(run.gates if not run.verdicts else [v.gate for v in run.verdicts])
    for name, verdict in zip(names, run.verdicts, strict=False):
        suite.append(_judged(run, name, verdict))
    if not run.verdicts:
        for name, gate in zip(names, run.gates, strict=True):
            suite.append(_not_judged(run, name, gate))
    for job in failed_jobs(run):
        suite.append(_failed_job(run, job))
    ET.SubElement(suite, "system-out").text = _xml(verdict_sentence(run))
    root = ET.Element("testsuites", name="evalkit")
    for element in (root, suite):
        _count(element, suite)
        element.set("time", f"{run.seconds or 0.0:.3f}")
    suite.set("timestamp", _xml(run.started))
    root.append(suite)
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _judged(run: RunRecord, name: str, verdict: Verdict) -> ET.Element:
    case = _case(run, name, verdict.gate)
    _properties(case, {"verdict": verdict.verdict, **figures(run, verdict)})
    report = gate_report(run, verdict)
    match outcome(verdict):
        case "failed":
            _told(case, "failure", verdict.verdict, headline(verdict), report)
        case "errored":
            _told(case, "error", verdict.verdict, first_line(verdict.message), report)
        case "warned":
            message = first_line(verdict.message) or headline(verdict)
            _told(case, "skipped", verdict.verdict, message, report)
        case "passed":
            known = verdict.gate.expect == "regressed"
            words = f"A known loss, as the suite expects it.\n{report}" if known else report
            ET.SubElement(case, "system-out").text = _xml(words)
    return case


def _not_judged(run: RunRecord, name: str, gate: Gate) -> ET.Element:
    case = _case(run, name, gate)
    message = f"run {run.id} ended before this gate was judged"
    _told(case, "error", "NOT JUDGED", message, message)
    return case


def _failed_job(run: RunRecord, job: FailedJob) -> ET.Element:
    case = ET.Element(
        "testcase",
        name=_xml(job.name),
        classname=_xml(f"evalkit.{run.suite}"),
        file=_xml(run.place),
    )
    case.set("time", f"{job.seconds:.3f}")
    _told(case, "error", "JOB", first_line(job.error), clean(job.error))
    return case


def _case(run: RunRecord, name: str, gate: Gate) -> ET.Element:
    case = ET.Element("testcase", name=_xml(name), classname=_xml(f"evalkit.{run.suite}"))
    file, line = gate_place(run, gate)
    if file:
        case.set("file", _xml(file))
    if line is not None:
        case.set("line", str(line))
    return case


def _told(case: ET.Element, tag: str, kind: str, message: str, text: str) -> None:
    ET.SubElement(case, tag, type=kind, message=_xml(message)).text = _xml(text)


def _run_facts(run: RunRecord) -> dict[str, str]:
    facts = {"run": run.id, "suite_file": run.place, "exit_code": str(run.exit_code)}
    wanted = ("device", "device_name", "model")
    return facts | {key: str(run.provenance[key]) for key in wanted if key in run.provenance}


def _properties(element: ET.Element, values: dict[str, str]) -> None:
    properties = ET.SubElement(element, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=_xml(name), value=_xml(value))


def _count(element: ET.Element, suite: ET.Element) -> None:
    element.set("tests", str(len(suite.findall("testcase"))))
    for tag, attribute in _KINDS.items():
        element.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))


def _xml(text: str) -> str:
    """Untrusted text as XML may hold it."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", clean(text))
