"""A run on the terminal: the sentence, the gates and the variants, as wide as the terminal is."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.records import DIVERGENCE, RunRecord
from evalkit.report import facts as records
from evalkit.report.advice import advice
from evalkit.report.baseline_notes import promotion_hint, relaxed_notes
from evalkit.report.costs import cost_table
from evalkit.report.notes import notes_of
from evalkit.report.sentence import verdict_sentence
from evalkit.report.terminal.costs import advice_lines, costs_table
from evalkit.report.terminal.divergence import divergence_table
from evalkit.report.terminal.steps import steps_table
from evalkit.report.terminal.tasks import tasks_table
from evalkit.report.view import (
    GateRow,
    MetricRow,
    MetricTable,
    Tone,
    gate_rows,
    metric_table,
)
from evalkit.report.words import clean

_STYLES: dict[Tone, str] = {"good": "green", "bad": "red", "warn": "yellow", "plain": ""}
_WIDE = 100
"""Columns from which every column of the tables is shown."""
_NARROW = 72
"""Columns below which gates are listed one below the other, not side by side."""


def render_run(run: RunRecord, console: Console) -> None:
    """Prints a run: a table a metric, the gates, the notes, and last the sentence and what to ship.

    They come last because that is where a terminal leaves the eye. Names and messages are
    never read as markup, and control characters in them are replaced.
    """
    wide = console.width >= _WIDE
    tables = [metric_table(run, metric) for metric in records.shown_metrics(run)]
    for table in tables:
        if not table.is_task and table.metric != DIVERGENCE:
            console.print(_variants(table, wide=wide))
            console.print()
    if divergence := divergence_table(run, wide=wide):
        console.print(divergence)
        console.print()
    if tasks := [table for table in tables if table.is_task]:
        console.print(tasks_table(tasks, wide=wide))
        console.print()
    if not tables:
        for variant in run.variants:
            error = variant.job.error if variant.job else None
            console.print(_text(f"{variant.name}: {error or 'not scored'}", "red"))
    if costs := cost_table(run):
        console.print(costs_table(costs, width=console.width, wide=wide))
        console.print()
    gates = gate_rows(run)
    if gates:
        listed = console.width < _NARROW
        console.print(_listed_gates(gates) if listed else _gates(gates, wide=wide))
        console.print()
    if steps := steps_table(run, wide=wide):
        console.print(steps)
        console.print()
    relaxed = relaxed_notes(run)
    for note in relaxed:
        console.print(_text(f"relaxed: {note}", "yellow"))
    for note in notes_of(run):
        if note not in relaxed:
            console.print(_text(f"note: {note}", "dim"))
    console.print()
    tone = "red" if any(not gate.ok for gate in gates) else ""
    console.print(_text(verdict_sentence(run), f"bold {tone}".strip()))
    for line in advice_lines(advice(run)) if run.verdicts else ():
        # Not wrapped: a command is there to be copied.
        console.print(line, soft_wrap=line.plain.startswith(" "))
    if hint := promotion_hint(run):
        # Not wrapped: a command is there to be copied.
        console.print(_text("To make this run the baseline:"))
        console.print(_text(f"  {hint}"), soft_wrap=True)


def _variants(table: MetricTable, *, wide: bool) -> RenderableType:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("variant", overflow="fold")
    grid.add_column(_text(table.title), justify="right", no_wrap=True)
    grid.add_column(_text(f"vs {table.reference}"), justify="right")
    if wide:
        grid.add_column("bits/byte", justify="right")
        grid.add_column("tokens", justify="right")
        grid.add_column("stored as")
    grid.add_column("gates")
    for row in table.rows:
        grid.add_row(*_variant_cells(row, wide=wide))
    caption = f"{table.unit}, {table.direction}; ± standard error; {table.measured}"
    return Group(grid, _text(caption, "dim"))


def _variant_cells(row: MetricRow, *, wide: bool) -> list[Text]:
    if row.problem:
        cells = [_text(row.name), _text("–"), _text("–")]
        cells += [_text("–"), _text("–"), _text(row.stored)] if wide else []
        return [*cells, _text(_first(row.problem), "red")]
    value = Text().append(row.value, "bold" if row.mark == "best" else None)
    if row.stderr:
        value.append(f" ± {row.stderr}", "dim")
    cells = [_text(row.name), value, _text(row.change)]
    cells += [_text(row.bits_per_byte), _text(row.tokens), _text(row.stored)] if wide else []
    return [*cells, _text(row.standing, _STYLES[row.tone])]


def _gates(gates: list[GateRow], *, wide: bool) -> RenderableType:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("gate", overflow="fold", ratio=1)
    grid.add_column("change" if wide else "change, 95 % CI", justify="right")
    if wide:
        grid.add_column("95 % CI", justify="right", no_wrap=True)
    for gate in gates:
        verdict = _verdict(gate)
        if gate.remark:
            verdict.append(f"\n  {clean(gate.remark)}", "dim")
        rule = _text(f"{gate.variant}: {gate.rule}")
        if _tells_more(gate):
            rule.append(f"\n{clean(gate.message)}", "dim")
        effect = [_text(gate.effect), _text(gate.interval)]
        if not wide:
            effect = [_text("\n".join(part for part in (gate.effect, gate.interval) if part))]
        grid.add_row(verdict, rule, *effect)
    return grid


def _listed_gates(gates: list[GateRow]) -> RenderableType:
    blocks: list[Text] = []
    for gate in gates:
        block = _verdict(gate)
        block.append(f" {clean(gate.remark)}" if gate.remark else "", "dim")
        block.append(f"\n  {clean(gate.variant)}: {clean(gate.rule)}", "")
        if gate.effect:
            interval = f" (95 % CI {gate.interval})" if gate.interval else ""
            block.append(f"\n  change {gate.effect}{interval}", "")
        if _tells_more(gate):
            block.append(f"\n  {clean(gate.message)}", "dim")
        blocks.append(block)
    return Group(*blocks)


def _tells_more(gate: GateRow) -> bool:
    """A message repeats the effect and the budget: only what went wrong is worth its lines."""
    return bool(gate.message) and (not gate.ok or gate.tone == "warn")


def _verdict(gate: GateRow) -> Text:
    # The style is a span of its own: a Text's base style would also cover what is appended.
    return Text().append(
        clean(f"{'✓' if gate.ok else '✗'} {gate.verdict}"), _STYLES[gate.tone] or None
    )


def _first(message: str) -> str:
    return message.strip().partition("\n")[0]


def _text(words: str, style: str = "") -> Text:
    """Untrusted words as text: rich reads no markup in it, the terminal no escape sequence."""
    return Text(clean(words), style=style)
