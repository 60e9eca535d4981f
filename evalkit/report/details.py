"""The rows behind the table of values: the graph, the jobs, the provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evalkit.records import JobRecord, RunRecord, Score, VariantRecord
from evalkit.report import facts as records
from evalkit.report.attribution import EdgeEffect, edge_effects
from evalkit.report.strips import loss_history, sparkline
from evalkit.report.view import Tone, change_words, standing_tone
from evalkit.report.words import bytes_words, duration, figure, score_figure

_LONGEST_LIST = 12
# The path, the notes and the checks have places of their own; a traceback is for `--debug`.
_TOLD_ELSEWHERE = {"path", "notes", "checks", "traceback", "recipe_but_for_seed"}


@dataclass(frozen=True)
class Node:
    """A variant in the graph, with the edge that leads to it."""

    name: str
    edge: str
    value: str
    change: str
    interval: str
    """The change's 95 % interval, paired by document."""
    tone: Tone
    status: str
    stop_tone: Tone = "plain"
    """How the variant's own gates went."""
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class JobCard:
    """A job with everything that it recorded about itself."""

    name: str
    status: str
    error: str
    facts: tuple[tuple[str, str], ...]
    curve: str = ""
    curve_words: str = ""


def graph(run: RunRecord, metric: str) -> list[Node]:
    """The variants as trees, each under its nearest scored ancestor.

    A variant whose parent is unknown, or would lead back to itself, is a root.
    """
    names = {variant.name for variant in run.variants}
    effects = {edge.variant: edge for edge in edge_effects(run, metric)}
    children: dict[str | None, list[VariantRecord]] = {}
    for variant in run.variants:
        parent = variant.parent if variant.parent in names else None
        children.setdefault(parent, []).append(variant)
    seen: set[str] = set()

    def grow(variant: VariantRecord) -> Node:
        seen.add(variant.name)
        below = [child for child in children.get(variant.name, []) if child.name not in seen]
        return _node(run, variant, metric, effects, tuple(grow(child) for child in below))

    roots = [grow(variant) for variant in children.get(None, [])]
    return roots + [grow(variant) for variant in run.variants if variant.name not in seen]


def job_card(name: str, job: JobRecord) -> JobCard:
    """Status, time and every recorded fact of a job."""
    losses = loss_history(job.facts)
    hidden = _TOLD_ELSEWHERE | ({"losses"} if losses else set())
    origin = f" from {job.reused_from}" if job.reused_from else ""
    return JobCard(
        name=name,
        status=f"{job.status}{origin}, {duration(job.seconds)}",
        error=job.error or "",
        facts=tuple(flat({k: v for k, v in job.facts.items() if k not in hidden})),
        curve=sparkline(losses),
        curve_words=f"{figure(losses[0])} to {figure(losses[-1])}" if losses else "",
    )


def job_table(run: RunRecord) -> tuple[list[tuple[str, str]], list[JobCard]]:
    """What every scoring job recorded alike, and each job with only what it recorded otherwise."""
    cards = [job_card(v.name, v.job) for v in run.variants if v.job is not None]
    every = [set(card.facts) for card in cards]
    common = set.intersection(*every) if len(every) > 1 else set()
    shared = [pair for card in cards[:1] for pair in card.facts if pair in common]
    own = [
        replace(card, facts=tuple(pair for pair in card.facts if pair not in common))
        for card in cards
    ]
    return shared, own


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A tree of JSON as (dotted key, value) pairs, long lists summarised."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and len(value) > _LONGEST_LIST:
            ends = f"{scalar_words(value[0])} … {scalar_words(value[-1])}"
            pairs.append((name, f"{len(value):,} values, {ends}"))
        elif isinstance(value, int) and str(key).endswith(("bytes", "memory")):
            pairs.append((name, bytes_words(value)))
        else:
            pairs.append((name, scalar_words(value)))
    return pairs


def scalar_words(value: object) -> str:
    """A JSON value as a reader would write it."""
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {scalar_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(scalar_words(item) for item in value)
    return str(value)


def _node(
    run: RunRecord,
    variant: VariantRecord,
    metric: str,
    effects: Mapping[str, EdgeEffect],
    below: tuple[Node, ...],
) -> Node:
    effect = effects.get(variant.name)
    score = variant.scores.get(metric)
    parent = records.score_of(run, variant.parent, metric)
    return Node(
        name=variant.name,
        edge=variant.edge or records.path_words(variant.path),
        value=score_figure(score.value, score.unit) if score else "",
        change=change_words(score, parent) if score and parent else "",
        interval=effect.words[1] if effect else "",
        tone=_change_tone(score, parent),
        status="" if score else records.job_status(variant),
        stop_tone=standing_tone(records.standing(run, variant.name)),
        children=below,
    )


def _change_tone(score: Score | None, parent: Score | None) -> Tone:
    difference = records.change(score, parent) if score and parent else None
    if score is None or difference is None or abs(difference) < 0.005:
        return "plain"
    return "good" if (difference > 0) == score.higher_is_better else "bad"
