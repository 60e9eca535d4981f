"""A baseline on the terminal: what it holds, its gates, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalkit.records import Baseline
from evalkit.report.facts import unit_noun
from evalkit.report.words import clean, counted, figure, rule_words, stderr_figure

_NARROW = 72


def render_baseline(baseline: Baseline, console: Console) -> None:
    """Prints a baseline. Names are untrusted: no markup and no control characters are read."""
    _say(console, f"Baseline {baseline.name} of suite {baseline.suite}", "bold")
    forced = ", by force: the run was not whole, or a gate of it not ok" if baseline.forced else ""
    when = baseline.promoted.replace("T", " ")[:19]
    _say(console, f"run {baseline.run}, promoted {when} UTC{forced}")
    for line in _environment(baseline.provenance):
        _say(console, line, "dim")
    console.print()
    console.print(_scores(baseline, wide=console.width >= _NARROW))
    if baseline.gates:
        console.print()
    for gate in baseline.gates:
        expect = f", expect: {gate.expect}" if gate.expect else ""
        warn = ", inconclusive: warn" if gate.inconclusive == "warn" else ""
        _say(console, f"gate  {gate.variant}: {rule_words(gate)}{expect}{warn}")


def _scores(baseline: Baseline, *, wide: bool) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("variant", overflow="fold")
    grid.add_column("metric", overflow="fold")
    grid.add_column("value", justify="right", no_wrap=True)
    if wide:
        grid.add_column("measured on")
    for variant, metrics in baseline.scores.items():
        for metric, score in metrics.items():
            stderr = (
                "" if score.stderr is None else f" ± {stderr_figure(score.stderr, score.value)}"
            )
            cells = [variant, metric, f"{figure(score.value)}{stderr}"]
            units = len(score.unit_ids)
            cells += [counted(units, unit_noun(score)) if units else "weights"] if wide else []
            grid.add_row(*(Text(clean(cell)) for cell in cells))
    return grid


def _environment(provenance: Mapping[str, Any]) -> list[str]:
    lines = []
    device = provenance.get("device_name") or provenance.get("device")
    if device:
        lines.append(str(device))
    packages = provenance.get("packages")
    if isinstance(packages, Mapping):
        told = ("torch", "transformers", "peft", "bitsandbytes")
        lines.append(", ".join(f"{name} {packages[name]}" for name in told if name in packages))
    git = provenance.get("git")
    if isinstance(git, Mapping) and git.get("revision"):
        dirty = ", with changes" if git.get("dirty") else ""
        lines.append(f"git {str(git['revision'])[:12]}{dirty}")
    return lines


def _say(console: Console, words: str, style: str = "") -> None:
    console.print(Text(clean(words), style=style))
