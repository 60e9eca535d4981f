"""What the steps of a whole path did, in words: 'quantisation +29 %, fine-tuning −41 %'."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from evalkit.records import JsonObject, RunRecord, VariantRecord
from evalkit.report.attribution import EdgeEffect, edge_effect, effect_between
from evalkit.report.facts import primary_metric, storage_bits, variant_named, verbs, worst_first
from evalkit.report.recommendation import recommended
from evalkit.report.words import clean, joined, metric_words, short_change

_MOST_PATHS = 3


def path_words(run: RunRecord, variant: VariantRecord, metric: str) -> str:
    """The edges that lead to a variant, each with what it did.

    Args:
        run: the run.
        variant: where the path ends.
        metric: what the effects are on.

    Returns:
        'quantisation +29 %, fine-tuning −41 %, 4-bit merge +67 %'; '' where the path has no edge,
        or one of them was not measured.
    """
    line = lineage(run, variant)
    told = []
    for parent, child in pairwise(line):
        effect = edge_effect(run, child, metric)
        if effect is None:
            return ""
        told.append(f"{edge_kind(parent, child)} {_change(effect)}")
    return ", ".join(told)


def path_sentences(run: RunRecord) -> list[str]:
    """A sentence for each variant with a loss; without one, for the one to ship and the worst.

    'Perplexity on the way from fp16 to merged-4bit: quantisation +29 %, …; +27 % in all.'
    """
    metric = primary_metric(run)
    if metric is None:
        return []
    told = [_sentence(run, variant, metric) for variant in _told_variants(run, metric)]
    return [sentence for sentence in told if sentence][:_MOST_PATHS]


def lineage(run: RunRecord, variant: VariantRecord) -> list[VariantRecord]:
    """The variant's scored ancestors, the first one first, and itself last."""
    line = [variant]
    while (parent := variant_named(run, line[0].parent)) is not None:
        if any(parent.name == seen.name for seen in line):  # records that lead back to themselves
            break
        line.insert(0, parent)
    return line


def edge_kind(parent: VariantRecord, child: VariantRecord) -> str:
    """What kind of edge leads to a variant: 'quantisation', 'fine-tuning and 16-bit merge'.

    The steps' own words where the parent's path is not the beginning of the child's.
    """
    start = len(parent.path)
    if child.path[:start] != parent.path or start == len(child.path):
        return child.edge
    kinds = [_step_kind(child.path, position) for position in range(start, len(child.path))]
    return joined(kinds)


def _step_kind(path: Sequence[JsonObject], position: int) -> str:
    verb = verbs(path)[position]
    before = path[:position]
    if verb == "quantize":
        return "quantisation again" if "quantize" in verbs(before) else "quantisation"
    if verb == "merge":
        return f"{storage_bits(before)}-bit merge"
    if verb == "attach":
        adapters = {str(step["attach"]) for step in path if "attach" in step}
        name = f" ({path[position]['attach']})" if len(adapters) > 1 else ""
        return f"fine-tuning{name}"
    return {"dequantize": "dequantisation"}.get(verb, verb)


def _change(effect: EdgeEffect) -> str:
    seen = effect.measured
    assert seen.effect is not None
    return short_change(seen.effect, seen.effect_unit)


def _sentence(run: RunRecord, variant: VariantRecord, metric: str) -> str:
    words, line = path_words(run, variant, metric), lineage(run, variant)
    if not words:
        return ""
    whole = effect_between(run, line[0], variant, metric) if len(line) > 2 else None
    in_all = f"; {_change(whole)} in all" if whole is not None else ""
    what = metric_words(metric)
    sentence = f"{what} from {line[0].name} to {variant.name}: {words}{in_all}."
    return clean(sentence[:1].upper() + sentence[1:]).replace("\n", " ")


def _told_variants(run: RunRecord, metric: str) -> list[VariantRecord]:
    lost = dict.fromkeys(
        verdict.gate.variant
        for verdict in worst_first(run.verdicts)
        if verdict.verdict == "REGRESSED"
    )
    names = list(lost) or [variant.name for variant in recommended(run)[:1]]
    if not lost and (worst := _worst(run, metric)):
        names.append(worst)
    found = (variant_named(run, name) for name in dict.fromkeys(names))
    return [variant for variant in found if variant is not None]


def _worst(run: RunRecord, metric: str) -> str | None:
    scores = {v.name: v.scores[metric] for v in run.variants if metric in v.scores}
    if not scores:
        return None
    up = next(iter(scores.values())).higher_is_better
    ordered = sorted(scores, key=lambda name: scores[name].value, reverse=up)
    return ordered[-1]
