"""Where each page lies below the site's folder, for good: a link that was sent must not break."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from evalkit.records import RunRecord
from evalkit.report.html import report_path

_TAKEN = "index.html"


def suite_folder(suite: str) -> str:
    """The folder that a suite's runs lie in: its name, made safe; other names may share it."""
    return _parts(suite, "run")[0]


def suite_folders(suites: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """The folder of each suite's own pages, by the suite's name.

    It is the folder of its runs, unless a suite before has taken that one; then a digest of the
    name is added. Letter case makes no difference: some file systems see none.

    Args:
        suites: names, in the order of their first run.
        known: what an earlier build chose, which stays.
    """
    chosen = {suite: known[suite] for suite in suites if suite in known}
    taken = {_TAKEN, *(folder.casefold() for folder in chosen.values())}
    for suite in suites:
        if suite in chosen:
            continue
        folder = suite_folder(suite)
        if folder.casefold() in taken:
            folder += (
                "-" + hashlib.sha256(suite.encode("utf-8", "backslashreplace")).hexdigest()[:8]
            )
        taken.add(folder.casefold())
        chosen[suite] = folder
    return {suite: chosen[suite] for suite in suites}


@dataclass(frozen=True)
class Places:
    """Links from the pages of one suite."""

    folder: str
    """Of the suite's own pages."""

    def run_page(self, run: RunRecord) -> str:
        """A run's page below the site's folder, with forward slashes."""
        return "/".join(_parts(run.suite, run.id))

    def url(self, run: RunRecord) -> str:
        """A run's page, from its suite's page."""
        suite, folder, file = _parts(run.suite, run.id)
        start = "" if suite == self.folder else f"../{quote(suite)}/"
        return f"{start}{quote(folder)}/{file}"

    def back(self, run: RunRecord) -> str:
        """The suite's page, from a run's page."""
        suite = _parts(run.suite, run.id)[0]
        return "../index.html" if suite == self.folder else f"../../{quote(self.folder)}/index.html"


def _parts(suite: str, run: str) -> tuple[str, str, str]:
    found = report_path(_named(suite, run), Path()).parts
    return found[0], found[1], found[2]


def _named(suite: str, run: str) -> RunRecord:
    return RunRecord(
        id=run, suite=suite, started="", seconds=None, exit_code=None, suite_text="",
        suite_json={}, arguments={}, provenance={}, variants=(), adapters=(), verdicts=(),
    )  # fmt: skip


def inside(folder: Path, page: str) -> Path:
    """A page's path below a folder, from its name with forward slashes."""
    return folder.joinpath(*page.split("/"))


__all__ = ["Places", "inside", "suite_folder", "suite_folders"]
