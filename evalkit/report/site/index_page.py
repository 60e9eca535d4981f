"""The first page: every suite with what its newest run came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from evalkit.records import History
from evalkit.report.site.looking_back import sentence, short, status, when
from evalkit.report.site.pages import render
from evalkit.report.site.places import Places
from evalkit.report.view import Tone
from evalkit.report.words import counted

_RECENT = 30
_HEIGHTS: dict[Tone, int] = {"good": 8, "plain": 8, "warn": 13, "bad": 18}


@dataclass(frozen=True)
class Bar:
    """One of the newest runs as a small bar: the taller, the worse."""

    x: int
    height: int
    tone: Tone


@dataclass(frozen=True)
class SuiteCard:
    """One suite on the first page."""

    name: str
    url: str
    tone: Tone
    status: str
    sentence: str
    when: str
    started: str
    n_runs: str
    baselines: tuple[str, ...]
    bars: tuple[Bar, ...]
    bars_label: str


def suite_card(history: History, places: Places) -> SuiteCard:
    """A suite as the first page shows it; its history must have a run."""
    newest = history.runs[-1].outline
    tone, words = status(newest)
    recent = [status(past.outline)[0] for past in history.runs[-_RECENT:]]
    ok = sum(each in {"good", "warn"} for each in recent)
    return SuiteCard(
        name=short(history.suite),
        url=f"{quote(places.folder)}/index.html",
        tone=tone,
        status=words,
        sentence=sentence(newest),
        when=when(newest.started),
        started=newest.started,
        n_runs=counted(len(history.runs), "run")
        + (" in all" if len(history.runs) > len(recent) else ""),
        baselines=tuple(f"{short(each.name)}: {short(each.run)}" for each in history.baselines),
        bars=tuple(Bar(6 * at, _HEIGHTS[each], each) for at, each in enumerate(recent)),
        bars_label=f"{ok} of {len(recent)} ok",
    )


def index_page(cards: Sequence[SuiteCard]) -> str:
    """The page; the suite that ran last comes first."""
    ordered = sorted(cards, key=lambda card: (card.started, card.name), reverse=True)
    return render("index.html.j2", cards=ordered)
