"""A suite's history as columns of numbers, which the pages' scripts read.

A thousand runs of seven variants are tens of thousands of values: as one object a value they would
be megabytes. So every series is columns, and texts stand once in a table and are named by their
place in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from evalkit.records import COSTS, SURVIVAL, History, JsonObject, PastRun, Score
from evalkit.report import facts
from evalkit.report.site.looking_back import (
    changes,
    metric_title,
    revision,
    sentence,
    short,
    status,
    trend_metrics,
)
from evalkit.report.site.places import Places
from evalkit.report.words import ACCURACY

DIGITS = 6
"""Significant digits of values: more than a page shows, and a third of the bytes of all."""
_MOST_FACTS = 400
"""Facts that differ between runs, which the comparing page can tell."""
_LONGEST_FACT = 200
_LOG_FROM = 8.0
"""Largest value over smallest, from which a linear axis would squeeze the small ones together."""


@dataclass
class Texts:
    """A table of texts, each once."""

    listed: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """Where this text is in the table; it is added where it is new."""
        if text not in self.places:
            self.places[text] = len(self.listed)
            self.listed.append(text)
        return self.places[text]


def runs_columns(history: History, places: Places, texts: Texts) -> JsonObject:
    """What lists and tooltips say of each run, oldest first: a column each, texts by place."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("id", "url", "started", "tone", "status", "sentence", "git", "changed")
    }
    before = None
    for past in history.runs:
        run = past.outline
        tone, words = status(run)
        row = {
            "id": short(run.id),
            "url": _told_url(places.url(run), short(run.id)),
            "started": short(run.started, 32),
            "tone": texts.place(tone),
            "status": texts.place(words),
            "sentence": texts.place(sentence(run)),
            "git": texts.place(revision(run.provenance)),
            "changed": [texts.place(line) for line in changes(before, run)],
        }
        for name, value in row.items():
            columns[name].append(value)
        before = run
    return columns


def _told_url(url: str, run_id: str) -> str | None:
    """The address of a run's page; None where it follows from the run's id."""
    return None if url == f"{run_id}/index.html" and quote(run_id, safe="") == run_id else url


def baseline_marks(history: History) -> list[JsonObject]:
    """The runs that are baselines now: their place among the runs, and the baseline's name."""
    place = {past.outline.id: index for index, past in enumerate(history.runs)}
    return [
        {"run": place[promotion.run], "name": short(promotion.name)}
        for promotion in history.baselines
        if promotion.run in place
    ]


def variant_names(history: History) -> list[str]:
    """Every variant that was scored, those of the newest run first and in its order."""
    names: dict[str, None] = {}
    for past in reversed(history.runs):
        names |= {v.name: None for v in past.outline.variants if v.scores}
    return list(names)


def metric_columns(
    history: History, variants: Sequence[str], *, digits: int = DIGITS
) -> list[JsonObject]:
    """Every metric that is followed, with a series for each variant that has it.

    A series has the columns `run` (places among the runs, rising; the first alone where no run is
    left out), `value`, `low`, `high` (the 95 % interval, null where there is none) and `key`
    (equal: comparable; pairs of a place in the column and the key from there on). `breaks` are the
    runs from which on values are of something else, with what is different.

    Args:
        history: of a suite.
        variants: the names that series are told by, by their place.
        digits: significant ones of values; their differences have fewer.
    """
    metrics = dict.fromkeys(
        m for past in reversed(history.runs) for m in trend_metrics(past.outline)
    )
    return [_metric(history, metric, variants, digits) for metric in metrics]


def _metric(history: History, metric: str, variants: Sequence[str], digits: int) -> JsonObject:
    found = [_series(history, metric, (index, name), digits) for index, name in enumerate(variants)]
    series = [one for one, _ in found if one["value"]]
    broken: dict[int, dict[str, None]] = {}
    for _, breaks in found:
        for run, what in breaks:
            broken.setdefault(run, {}).update(dict.fromkeys(what))
    newest = next(
        variant.scores[metric]
        for past in reversed(history.runs)
        for variant in past.outline.variants
        if metric in variant.scores
    )
    values = [value for one in series for value in one["value"]]
    return {
        "name": short(metric),
        "title": metric_title(metric),
        "unit": short(newest.unit),
        "better": "higher" if newest.higher_is_better else "lower",
        "form": _form(metric, newest),
        "log": min(values) > 0 and max(values) / min(values) > _LOG_FROM,
        "series": series,
        "breaks": [[run, short(", ".join(broken[run]))] for run in sorted(broken)],
    }


def _form(metric: str, score: Score) -> str:
    """How the pages write a value and a difference of it."""
    if score.unit == ACCURACY:
        return "accuracy"
    if metric == SURVIVAL:
        return "share"
    if metric in COSTS:
        return "bytes"
    return "ratio" if score.kind == "perplexity" else "number"


def _series(
    history: History, metric: str, variant: tuple[int, str], digits: int
) -> tuple[JsonObject, list[tuple[int, list[str]]]]:
    index, name = variant
    columns: dict[str, list[Any]] = {key: [] for key in ("run", "value", "low", "high", "key")}
    keys: dict[str, int] = {}
    breaks = []
    last: tuple[str, Score] | None = None
    for place, past in enumerate(history.runs):
        score = _score(past, name, metric)
        if score is None:
            continue
        behind = past.scores[name][metric]
        low, high = facts.interval(score, clusters=behind.n_clusters) or (None, None)
        key = behind.comparison_key
        if last is not None and last[0] != key:
            breaks.append((place, _differing(last[1], score)))
        last = key, score
        row = (
            place,
            rounded(score.value, digits),
            rounded(low),
            rounded(high),
            keys.setdefault(key, len(keys)),
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return {"variant": index, **_without_the_obvious(columns)}, breaks


def _without_the_obvious(columns: dict[str, list[Any]]) -> JsonObject:
    """The columns of a series without what the script can tell by itself: a fifth of the bytes."""
    runs, keys = columns["run"], columns["key"]
    consecutive = bool(runs) and runs[-1] - runs[0] == len(runs) - 1
    starts = [at for at in range(len(keys)) if not at or keys[at] != keys[at - 1]]
    return {
        **columns,
        "run": runs[0] if consecutive else runs,
        "key": [[at, keys[at]] for at in starts],
    }


def _score(past: PastRun, variant: str, metric: str) -> Score | None:
    return facts.score_of(past.outline, variant, metric)


def _differing(old: Score, new: Score) -> list[str]:
    """The fields in which two scores were measured differently."""
    names = sorted({*old.comparison, *new.comparison})
    return [
        short(name).replace("_", " ")
        for name in names
        if old.comparison.get(name) != new.comparison.get(name)
    ] or ["the documents"]


def rounded(value: float | None, digits: int = DIGITS) -> float | None:
    """A number in so many significant digits; None for what is no number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


# ------------------------------------------------------------------------------- facts


def differing_facts(history: History, texts: Texts) -> JsonObject:
    """What was recorded of the runs and is not the same for all: a column of texts' places each.

    Git, packages, device, data, arguments and the resolved suite's settings; -1 where a run has no
    such fact. What all runs share cannot differ between two of them and is left out.
    """
    flat = [dict(_facts(past)) for past in history.runs]
    names = sorted({name for one in flat for name in one}, key=_order)
    columns: dict[str, list[int]] = {}
    left_out = 0
    for name in names:
        if len({one.get(name) for one in flat}) < 2:
            continue
        if len(columns) == _MOST_FACTS:
            left_out += 1
            continue
        columns[name] = [texts.place(one[name]) if name in one else -1 for one in flat]
    return {"columns": columns, "left_out": left_out}


_GROUPS = ("git", "packages", "provenance", "arguments", "suite")


def _order(name: str) -> tuple[int, str]:
    return _GROUPS.index(name.split(": ", 1)[0]), name


def _facts(past: PastRun) -> Iterator[tuple[str, str]]:
    run = past.outline
    if words := revision(run.provenance):
        yield "git: revision", words
    yield from _leaves(run.provenance.get("packages"), "packages: ")
    rest = {k: v for k, v in run.provenance.items() if k not in {"packages", "git"}}
    yield from _leaves(rest, "provenance: ")
    yield from _leaves(run.arguments, "arguments: ")
    yield from _leaves(run.suite_json, "suite: ")


def _leaves(tree: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            end = "" if prefix.endswith(": ") else "."
            yield from _leaves(value, f"{prefix}{end}{short(key)}"[:_LONGEST_FACT])
    elif tree is not None:
        yield prefix, short(tree if isinstance(tree, str) else json.dumps(tree, default=str))


def as_text(value: object) -> str:
    """JSON without a space, the same for the same value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
