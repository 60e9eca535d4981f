"""A comparison of two runs on the terminal: the sentence, the scores, what changed, what moved."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.records import COSTS
from evalkit.report.comparing.changes import changes, settings_diff
from evalkit.report.comparing.comparison import RunComparison
from evalkit.report.comparing.metrics import Direction, MetricChange
from evalkit.report.words import (
    MINUS,
    bytes_words,
    change_words,
    clean,
    counted,
    figure,
    joined,
    metric_words,
    percent,
)

__all__ = ["comparison_sentence", "render_comparison"]

_STYLES: dict[Direction, str] = {
    "better": "green",
    "worse": "red",
    "no clear change": "",
    "identical": "dim",
    "incomparable": "yellow",
}
_NARROW = 84
"""Columns below which scores are listed one below the other."""
_MOST_DIFF_LINES = 60
_FEW_CLUSTERS = 20


def comparison_sentence(comparison: RunComparison) -> str:
    """What came of it, in one sentence."""
    if not comparison.metrics:
        what = "Nothing but costs" if comparison.costs else "Nothing"
        return f"{what} was measured on both sides."
    found: Counter[str] = Counter(change.direction for change in comparison.metrics)
    if found["incomparable"] == len(comparison.metrics):
        first = comparison.metrics[0]
        what = f"{_name(first)} differs in {', '.join(first.differs)}"
        return clean(f"Nothing can be compared: {what}.")
    if found["identical"] == len(comparison.metrics):
        count = len(comparison.metrics)
        which = {1: "The score is", 2: "Both scores are"}.get(count, f"All {count} scores are")
        return f"{which} bit-identical."
    if len(comparison.metrics) == 1:
        return clean(_told(comparison.metrics[0]))
    parts = [
        f"{found[direction]} {words}"
        for direction, words in (
            ("worse", "got worse"),
            ("better", "got better"),
            ("no clear change", "without a clear change"),
            ("identical", "bit-identical"),
            ("incomparable", "cannot be compared"),
        )
        if found[direction]
    ]
    total = counted(len(comparison.metrics), "score")
    told = ""
    if largest := _largest(comparison, "worse") or _largest(comparison, "better"):
        noun = "loss" if largest.direction == "worse" else "gain"
        told = f"; the largest {noun} is the {_name(largest)}: {_effect_words(largest)}"
    return clean(f"Of {total}, {joined(parts)}{told}.")


def render_comparison(comparison: RunComparison, console: Console, *, most_moved: int) -> None:
    """Prints a comparison. Names are untrusted: no markup and no control characters are read."""
    worse = any(change.direction == "worse" for change in comparison.metrics)
    console.print(_text(comparison_sentence(comparison), "bold red" if worse else "bold"))
    console.print()
    console.print(_text(f"old  {_side(comparison, 'old')}"))
    console.print(_text(f"new  {_side(comparison, 'new')}"))
    console.print()
    if comparison.metrics:
        console.print(_listed(comparison) if console.width < _NARROW else _table(comparison))
        console.print(_text(_caption(comparison), "dim"))
    _print_costs(comparison, console)
    for where, names in (("old", comparison.only_old), ("new", comparison.only_new)):
        if names:
            console.print(_text(f"only {where}: {', '.join(names)}", "dim"))
    _print_changes(comparison, console)
    if most_moved:
        _print_moved(comparison, console, most_moved)
    _print_diff(comparison, console)


def _side(comparison: RunComparison, which: str) -> str:
    side = comparison.old if which == "old" else comparison.new
    variant = f", {side.variant}" if side.variant else ""
    return f"{side.name} of suite {side.suite}{variant}"


def _table(comparison: RunComparison) -> RenderableType:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("score", overflow="fold")
    for title in ("old", "new", "change"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("95 % CI", justify="right")
    grid.add_column("")
    for change in comparison.metrics:
        effect, interval = _effect(change)
        cells = [_name(change), figure(change.old), figure(change.new), effect, interval]
        grid.add_row(*map(_text, cells), _text(_remark(change), _STYLES[change.direction]))
    return grid


def _listed(comparison: RunComparison) -> RenderableType:
    blocks = []
    for change in comparison.metrics:
        effect, interval = _effect(change)
        block = _text(_name(change))
        block.append(f"\n  {figure(change.old)} → {figure(change.new)}")
        block.append(f"  {effect}" if effect else "")
        block.append(f" (95 % CI {interval})" if interval else "")
        block.append(f"\n  {clean(_remark(change))}", _STYLES[change.direction] or None)
        blocks.append(block)
    return Group(*blocks)


def _caption(comparison: RunComparison) -> str:
    sizes = dict.fromkeys(
        counted(change.n_units, change.noun) for change in comparison.metrics if change.n_units
    )
    measured = f"paired on {joined(list(sizes))}; " if sizes else ""
    return f"new against old, {measured}intervals are not adjusted for their number"


def _print_costs(comparison: RunComparison, console: Console) -> None:
    """Bytes beside the scores, neither better nor worse; equal ones in one line."""
    if not comparison.costs:
        return
    moved = [cost for cost in comparison.costs if cost.effect]
    console.print()
    console.print(_text("Costs" if moved else "Costs: the same bytes", "bold"))
    for cost in moved:
        share = percent(cost.new / cost.old - 1, signed=True) if cost.old else "new"
        sizes = " → ".join(bytes_words(round(size)) for size in (cost.old, cost.new))
        console.print(
            _text(f"  {COSTS[cost.metric].title} of {_variants(cost)}: {sizes} ({share})")
        )


def _print_changes(comparison: RunComparison, console: Console) -> None:
    told = changes(comparison.old, comparison.new)
    console.print()
    title = "What changed" if told else "Nothing else that was recorded changed"
    console.print(_text(title, "bold"))
    for line in told:
        console.print(_text(f"  {line}"))


def _print_moved(comparison: RunComparison, console: Console, most: int) -> None:
    """The units of the score that changed most: of several, one is enough to start from."""
    change = _most_changed(comparison)
    if change is None or not change.moved:
        return
    console.print()
    unit = "nats per token" if change.kind == "perplexity" else change.unit
    console.print(_text(f"What moved most in the {_name(change)} ({unit})", "bold"))
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column(change.noun, overflow="fold")
    for title in ("old", "new", "change", "tokens" if change.kind == "perplexity" else "weight"):
        grid.add_column(title, justify="right", no_wrap=True)
    for moved in change.moved[:most]:
        change_text = f"{moved.change:+.3f}".replace("-", MINUS)
        cells = (f"{moved.old:.3f}", f"{moved.new:.3f}", change_text, f"{moved.count:g}")
        grid.add_row(_text(moved.unit), *map(_text, cells))
    console.print(grid)
    for moved in change.moved[:most]:
        if moved.text:
            console.print(_text(f"  {moved.unit}: {moved.text}", "dim"))
    others = sum(bool(each.moved) for each in comparison.metrics) - 1
    if others:
        hint = f"{counted(others, 'more score')} moved: see --json, or compare A:VARIANT B:VARIANT"
        console.print(_text(hint, "dim"))


def _print_diff(comparison: RunComparison, console: Console) -> None:
    lines = settings_diff(comparison.old, comparison.new)
    if not lines:
        return
    console.print()
    console.print(_text("Settings, as resolved", "bold"))
    for line in lines[:_MOST_DIFF_LINES]:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console.print(_text(line, style), soft_wrap=True)
    if len(lines) > _MOST_DIFF_LINES:
        console.print(_text(f"{len(lines) - _MOST_DIFF_LINES} more lines in --json", "dim"))


def _name(change: MetricChange) -> str:
    """'perplexity of nf4', 'perplexity of fp16 → nf4'."""
    return f"{metric_words(change.metric)} of {_variants(change)}"


def _variants(change: MetricChange) -> str:
    return " → ".join(dict.fromkeys([change.old_variant, change.new_variant]))


def _told(change: MetricChange) -> str:
    """'The perplexity of nf4 got worse: +3.2 % (95 % CI …)'."""
    verb = {"better": "got better", "worse": "got worse"}
    did = verb.get(change.direction, "shows no clear change")
    return f"The {_name(change)} {did}: {_effect_words(change)}."


def _effect_words(change: MetricChange) -> str:
    effect, interval = _effect(change)
    return f"{effect} (95 % CI {interval})" if interval else effect


def _effect(change: MetricChange) -> tuple[str, str]:
    if change.effect is None or change.direction == "identical":
        return "", ""
    return change_words(change.effect, change.low, change.high, change.effect_unit)


def _remark(change: MetricChange) -> str:
    if change.differs:
        return f"cannot be compared: they differ in {', '.join(change.differs)}"
    few = 0 < change.effective_clusters < _FEW_CLUSTERS and change.direction != "identical"
    parts = [change.direction, "few clusters" if few else ""]
    if change.gained or change.lost:
        parts.append(f"{change.gained} gained, {change.lost} lost")
    return ", ".join(filter(None, parts))


def _largest(comparison: RunComparison, direction: Direction) -> MetricChange | None:
    found = [change for change in comparison.metrics if change.direction == direction]
    return max(found, key=lambda change: abs(change.effect or 0.0), default=None)


def _most_changed(comparison: RunComparison) -> MetricChange | None:
    for direction in ("worse", "better", "no clear change"):
        if found := _largest(comparison, direction):
            return found
    return None


def _text(words: str, style: str = "") -> Text:
    return Text(clean(words), style=style)
