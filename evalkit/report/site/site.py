"""Builds the site: which pages there are, and which of them have to be written."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from evalkit.records import History, PastRun, RunRecord
from evalkit.report.html import render_html
from evalkit.report.site.files import (
    Manifest,
    is_there,
    is_whole,
    read_manifest,
    write_if_changed,
    write_manifest,
)
from evalkit.report.site.index_page import SuiteCard, index_page, suite_card
from evalkit.report.site.light_page import light_page
from evalkit.report.site.places import Places, inside, suite_folders
from evalkit.report.site.suite_pages import compare_page, suite_page

WHOLE_PAGES = 5
"""Runs of each suite, the newest, whose missing pages are drawn whole."""

_LIGHT = "light "
"""Begins the stamp of a light page in the manifest."""


class Runs(Protocol):
    """Where runs come from: the store."""

    def list_suites(self) -> tuple[str, ...]:
        """The names of all suites, by their first run."""

    def load_history(self, suite: str) -> History:
        """Every run of a suite, without what lies behind its values."""

    def load_run(self, reference: str) -> RunRecord:
        """A whole run."""


@dataclass(frozen=True)
class SiteResult:
    """What a build came to."""

    suites: int
    runs: int
    written: int
    """Files that are new or that say something else than before."""
    unchanged: int


@dataclass
class _Build:
    """One build under way."""

    runs: Runs
    folder: Path
    whole_pages: int
    before: Manifest
    now: Manifest = field(default_factory=Manifest)
    written: int = 0
    unchanged: int = 0

    def write(self, page: str, text: str) -> None:
        """Writes a page where it says something new, and counts it."""
        self.count(changed=write_if_changed(inside(self.folder, page), text))

    def count(self, *, changed: bool) -> None:
        """Counts a page."""
        self.written += changed
        self.unchanged += not changed


def write_site(runs: Runs, folder: Path, *, whole_pages: int = WHOLE_PAGES) -> SiteResult:
    """Writes an index of all suites, and for each its trends, a comparison and its runs' pages.

    A run's page that is there stays. Of those that are missing, the newest of each suite and those
    of baselines are drawn whole; the others get a light page, which a whole one replaces later.
    The same runs give the same bytes, and a file whose bytes are right is not touched. Pages of
    runs that the store no longer has are left alone: links to them last.

    Args:
        runs: the store.
        folder: of the site; made where it is not there.
        whole_pages: how many of the newest runs of each suite have a whole page.

    Raises:
        EvalkitError: a file cannot be written.
    """
    build = _Build(runs, folder, whole_pages, read_manifest(folder))
    build.now.folders = suite_folders(runs.list_suites(), build.before.folders)
    cards: list[SuiteCard] = []
    total = 0
    for suite, name in build.now.folders.items():
        history = runs.load_history(suite)
        places = Places(name)
        _write_suite(build, history, places)
        _write_runs(build, history, places)
        total += len(history.runs)
        cards.append(suite_card(history, places))
    build.write("index.html", index_page(cards))
    build.now.folders = {**build.before.folders, **build.now.folders}
    write_manifest(folder, build.now)
    return SiteResult(len(cards), total, build.written, build.unchanged)


def _write_suite(build: _Build, history: History, places: Places) -> None:
    """A suite's own two pages; neither is rendered where nothing that they show has changed."""
    stamp = _digest(places.folder, repr(history.baselines), *(past.stamp for past in history.runs))
    pages = {
        f"{places.folder}/index.html": suite_page,
        f"{places.folder}/compare.html": compare_page,
    }
    for page, render in pages.items():
        if build.before.pages.get(page) == stamp and is_there(inside(build.folder, page)):
            build.count(changed=False)
        else:
            build.write(page, render(history, places))
        build.now.pages[page] = stamp


def _write_runs(build: _Build, history: History, places: Places) -> None:
    whole = _drawn_whole(history, build.whole_pages)
    for past, before in zip(history.runs, (None, *history.runs), strict=False):
        page = places.run_page(past.outline)
        path = inside(build.folder, page)
        known = build.before.pages.get(page)
        if is_whole(path) and (known in (None, past.stamp) or known.startswith(_LIGHT)):
            # Drawn by `evalkit run`, by `evalkit report`, or before, of what the run still is.
            build.count(changed=False)
            build.now.pages[page] = past.stamp
        elif past.outline.id in whole or is_whole(path):
            build.write(page, render_html(build.runs.load_run(past.outline.id), build.folder))
            build.now.pages[page] = past.stamp
        else:
            _write_light(build, past, before, places)


def _write_light(build: _Build, past: PastRun, before: PastRun | None, places: Places) -> None:
    page = places.run_page(past.outline)
    stamp = _LIGHT + _digest(places.folder, past.stamp, before.stamp if before else "")
    if build.before.pages.get(page) == stamp and is_there(inside(build.folder, page)):
        build.count(changed=False)
    else:
        build.write(page, light_page(past, before, places))
    build.now.pages[page] = stamp


def _drawn_whole(history: History, newest: int) -> set[str]:
    """Ids of the runs whose pages are worth the time. A run that goes on draws its own."""
    ended = [past.outline.id for past in history.runs if past.outline.exit_code is not None]
    promoted = {promotion.run for promotion in history.baselines}
    return {*ended[len(ended) - min(newest, len(ended)) :], *promoted.intersection(ended)}


def _digest(*parts: str) -> str:
    return hashlib.sha256(
        "\0".join((_code_digest(), *parts)).encode("utf-8", "replace")
    ).hexdigest()[:32]


@cache
def _code_digest() -> str:
    """What made the pages: evalkit's version, and this room as it is."""
    try:
        version = importlib.metadata.version("evalkit-lm")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    digest = hashlib.sha256(version.encode())
    for content in _own_files():
        digest.update(content)
    return digest.hexdigest()


def _own_files() -> Sequence[bytes]:
    room = files("evalkit.report.site")
    style = files("evalkit.report.html") / "templates" / "report.css"
    listed = [*room.iterdir(), *(room / "templates").iterdir()]
    ours = sorted((each for each in listed if each.is_file()), key=lambda each: each.name)
    return [each.read_bytes() for each in (*ours, style)]
