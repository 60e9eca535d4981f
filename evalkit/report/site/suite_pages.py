"""The two pages of a suite: its trends with its runs, and any two of its runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from evalkit.records import History, JsonObject
from evalkit.report.site import trend_charts
from evalkit.report.site.columns import (
    Texts,
    baseline_marks,
    differing_facts,
    metric_columns,
    runs_columns,
    variant_names,
)
from evalkit.report.site.looking_back import changes, revision, sentence, short, status, when
from evalkit.report.site.pages import own_script, render
from evalkit.report.site.places import Places
from evalkit.report.view import Tone
from evalkit.report.words import counted

LISTED_RUNS = 200
"""Runs that the table has as HTML; the script adds the others when it is asked to."""

_PRECISE = 9
"""Significant digits of values of which the page shows differences."""


@dataclass(frozen=True)
class RunLine:
    """A run as one line of the table."""

    id: str
    url: str
    compare: str
    """Link to the comparison with the run before; empty for the first."""
    when: str
    tone: Tone
    status: str
    sentence: str
    revision: str
    changed: tuple[str, ...]
    baselines: tuple[str, ...]


def suite_page(history: History, places: Places) -> str:
    """A suite's trends, a chart a metric, and its runs, newest first."""
    variants = variant_names(history)
    texts = Texts()
    runs = runs_columns(history, places, texts)
    metrics = metric_columns(history, variants[: trend_charts.MOST_VARIANTS])
    data: JsonObject = {
        "runs": runs,
        "texts": texts.listed,
        "variants": [short(name) for name in variants[: trend_charts.MOST_VARIANTS]],
        "styles": [trend_charts.line_style(at) for at in range(len(variants))],
        "colors": {"light": trend_charts.LIGHT, "dark": trend_charts.DARK},
        "baselines": baseline_marks(history),
        "metrics": metrics,
        "specs": [trend_charts.trend_spec(log=log) for log in (False, True)],
        "configs": {scheme: trend_charts.config(scheme) for scheme in ("light", "dark")},
        "listed": LISTED_RUNS,
    }
    return render(
        "suite.html.j2",
        scripts=(trend_charts.bundle(), own_script("words.js", "trends.js")),
        data=data,
        suite=short(history.suite),
        lines=_lines(history, places),
        facts=_summary(history),
        baselines=[f"{short(each.name)}: {short(each.run)}" for each in history.baselines],
        metrics=metrics,
        left_out=max(0, len(variants) - trend_charts.MOST_VARIANTS),
        hidden=max(0, len(history.runs) - LISTED_RUNS),
    )


def compare_page(history: History, places: Places) -> str:
    """Any two runs of a suite, chosen by the reader and named after the `#` of the address."""
    texts = Texts()
    variants = variant_names(history)
    data: JsonObject = {
        "runs": runs_columns(history, places, texts),
        "variants": [short(name) for name in variants],
        "baselines": baseline_marks(history),
        "metrics": metric_columns(history, variants, digits=_PRECISE),
        "facts": differing_facts(history, texts),
        "texts": texts.listed,
    }
    return render(
        "compare.html.j2",
        scripts=(own_script("words.js", "compare.js"),),
        data=data,
        suite=short(history.suite),
        n_runs=counted(len(history.runs), "run"),
    )


def _lines(history: History, places: Places) -> Sequence[RunLine]:
    newest = list(range(len(history.runs) - 1, -1, -1))[:LISTED_RUNS]
    return [_line(history, places, at) for at in newest]


def _line(history: History, places: Places, at: int) -> RunLine:
    run = history.runs[at].outline
    before = history.runs[at - 1].outline if at else None
    tone, words = status(run)
    return RunLine(
        id=short(run.id),
        url=places.url(run),
        compare=_comparison(before.id, run.id) if before else "",
        when=when(run.started),
        tone=tone,
        status=words,
        sentence=sentence(run),
        revision=revision(run.provenance),
        changed=changes(before, run),
        baselines=tuple(short(each.name) for each in history.baselines if each.run == run.id),
    )


def _comparison(old: str, new: str) -> str:
    """The link that compares two runs, which the comparing page's script reads."""
    return f"compare.html#{quote(old, safe='')}..{quote(new, safe='')}"


def _summary(history: History) -> list[str]:
    first, last = history.runs[0].outline, history.runs[-1].outline
    span = [f"since {when(first.started)}"] if len(history.runs) > 1 else []
    return [counted(len(history.runs), "run"), f"newest {when(last.started)}", *span]
