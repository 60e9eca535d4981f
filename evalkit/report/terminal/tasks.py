"""lm-eval tasks on the terminal: one table of all of them, variant below variant."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.report.view import MetricRow, MetricTable
from evalkit.report.words import clean


def tasks_table(tables: Sequence[MetricTable], *, wide: bool) -> RenderableType:
    """Every task's metric with every variant under it.

    Args:
        tables: of tasks; at least one.
        wide: show how many samples there are, and how many tie.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("task", overflow="fold")
    grid.add_column("variant", overflow="fold")
    grid.add_column("value", justify="right", no_wrap=True)
    grid.add_column(_text(f"vs {tables[0].reference}"), justify="right")
    if wide:
        grid.add_column("samples", justify="right")
    grid.add_column("gates")
    for table in tables:
        for position, row in enumerate(table.rows):
            title = _text(table.title if position == 0 else "")
            grid.add_row(title, *_cells(row, wide=wide))
    directions = {f"{table.unit}: {table.direction}" for table in tables}
    caption = f"{'; '.join(sorted(directions))}; ± standard error"
    return Group(grid, _text(caption, "dim"))


def _cells(row: MetricRow, *, wide: bool) -> list[Text]:
    if row.problem:
        dashes = [_text("–")] * (3 if wide else 2)
        return [_text(row.name), *dashes, _text(row.problem.strip().partition("\n")[0], "red")]
    value = Text().append(row.value, "bold" if row.mark == "best" else None)
    if row.stderr:
        value.append(f" ± {row.stderr}", "dim")
    colour = {"good": "green", "bad": "red", "warn": "yellow"}.get(row.tone, "")
    cells = [_text(row.name), value, _text(row.change)]
    cells += [_text(row.tokens)] if wide else []
    return [*cells, _text(row.standing, colour)]


def _text(words: str, style: str = "") -> Text:
    """Untrusted words as text: rich reads no markup in it, the terminal no escape sequence."""
    return Text(clean(words), style=style)
