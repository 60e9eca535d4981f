"""Suites and gates as pytest's nodes, and what their outcomes are to pytest."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.errors import EvalkitError
from evalkit.pytest_plugin.running import report_for_pytest, run_for_pytest

if TYPE_CHECKING:
    from evalkit.records import Gate, RunRecord, Verdict
    from evalkit.suite import Suite

SESSION = "evalkit-session"


class Session:
    """Hooks that only a session with suites needs: registered when the first is collected."""

    def __init__(self) -> None:
        self.ran: list[SuiteFile] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Shows what evalkit explains itself as it is: a traceback is for what it does not.

        A skipped gate is told at its own line, and not at this plugin's.
        """
        report = yield
        if not isinstance(item, GateItem) or call.excinfo is None:
            return report
        if isinstance(call.excinfo.value, GateNotOkError | EvalkitError):
            report.longrepr = _Told(str(call.excinfo.value))  # type: ignore[assignment]
        elif isinstance(report.longrepr, tuple):
            file, line, _ = item.reportinfo()
            report.longrepr = (str(file), (line or 0) + 1, report.longrepr[2])
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The verdict of each suite in a sentence, and where to read more."""
        told = [file for file in self.ran if file.record is not None]
        if not told:
            return
        from evalkit.report.sentence import verdict_sentence

        terminalreporter.section("evalkit")
        for file in told:
            assert file.record is not None
            terminalreporter.write_line(f"{file.place}: {verdict_sentence(file.record)}")
            more = file.page or f"evalkit report {file.record.id}"
            terminalreporter.write_line(f"  the whole report: {more}")


class SuiteFile(pytest.File):
    """A suite. It runs once, before the first of its gates that was not deselected."""

    record: RunRecord | None = None
    page: Path | None = None
    _suite: Suite
    _error: EvalkitError | None = None
    _told_jobs = False

    @property
    def place(self) -> str:
        """The file as a user would name it from here."""
        relative = os.path.relpath(self.path)
        return str(self.path) if relative.startswith(os.pardir) else relative

    def collect(self) -> Iterator[GateItem]:
        """One item for each gate.

        Raises:
            CollectError: the suite is wrong; every mistake with its line.
        """
        from evalkit.report.gate_text import gate_names
        from evalkit.suite import load_suite

        try:
            self._suite = load_suite(self.place, overrides=self.config.getoption("evalkit_set"))
        except EvalkitError as error:
            raise self.CollectError(str(error)) from None
        gates = self._suite.gates
        for index, (name, gate) in enumerate(zip(gate_names(gates), gates, strict=True)):
            yield GateItem.from_parent(self, name=name, index=index, gate=gate)

    def setup(self) -> None:
        """Runs the suite, the first time only.

        Raises:
            EvalkitError: nothing could start; for every gate the same.
        """
        if self._error is not None:
            raise self._error
        if self.record is not None:
            return
        try:
            self.record = run_for_pytest(self._suite, self.config)
            self.page = report_for_pytest(self.record, self.config)
        except EvalkitError as error:
            self._error = error
            raise
        session = self.config.pluginmanager.get_plugin(SESSION)
        assert session is not None
        session.ran.append(self)

    def teardown(self) -> None:
        """Fails where a job failed that no gate is about: the run is not ok then.

        Raises:
            EvalkitError: names the jobs.
        """
        from evalkit.report.gate_text import failed_jobs

        if self.record is None or self._told_jobs:
            return
        self._told_jobs = True
        jobs = failed_jobs(self.record)
        if jobs:
            raise EvalkitError("\n".join(f"{job.name} failed: {job.error}" for job in jobs))


class GateItem(pytest.Item):
    """A gate: passes, fails, or is skipped, as its verdict says."""

    def __init__(self, *, index: int, gate: Gate, **node: Any) -> None:
        super().__init__(**node)
        self.index = index
        self.gate = gate

    @property
    def verdict(self) -> Verdict:
        """What the gate came to, once the suite has run."""
        record = self._file.record
        assert record is not None
        return record.verdicts[self.index]

    @property
    def _file(self) -> SuiteFile:
        assert isinstance(self.parent, SuiteFile)
        return self.parent

    def setup(self) -> None:
        """An error, not a failure, where the gate's job came to nothing."""
        if self.verdict.verdict == "ERRORED":
            raise GateNotOkError(self._report())

    def runtest(self) -> None:
        """What the verdict is to pytest.

        `expect: regressed` is a strict xfail. An INCONCLUSIVE that the gate lets pass is skipped.
        """
        from evalkit.report.gate_text import figures

        verdict, record = self.verdict, self._file.record
        assert record is not None
        self.user_properties += [("verdict", verdict.verdict), *figures(record, verdict).items()]
        if verdict.ok and self.gate.expect == "regressed":
            # With --runxfail this returns, and the loss is a failure like any other.
            pytest.xfail(_one_line(verdict))
        elif verdict.warned:
            pytest.skip(_one_line(verdict))
        elif verdict.ok:
            return
        raise GateNotOkError(self._report())

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The gate's place in its suite."""
        from evalkit.report.gate_text import split_place

        line = split_place(self.gate.place)[1]
        return self.path, line - 1 if line is not None else None, self.name

    def _report(self) -> str:
        from evalkit.report.gate_text import gate_report

        assert self._file.record is not None
        return gate_report(self._file.record, self.verdict)


class GateNotOkError(Exception):
    """A gate is not ok; the message is its report."""


class _Told:
    """A failure's text, shown as it is and repeated in pytest's short summary."""

    def __init__(self, text: str) -> None:
        self.reprcrash = SimpleNamespace(message=text)

    def __str__(self) -> str:
        return str(self.reprcrash.message)

    def toterminal(self, writer: Any) -> None:
        """Writes the lines; pytest asks for it."""
        for line in str(self).splitlines():
            writer.line(line)


def _one_line(verdict: Verdict) -> str:
    from evalkit.report.gate_text import headline
    from evalkit.report.words import first_line

    return first_line(verdict.message, longest=300) or headline(verdict)
