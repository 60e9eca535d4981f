"""What each step did, on the terminal: the edges of the variant graph, and one path in words."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.records import RunRecord
from evalkit.report.facts import primary_metric
from evalkit.report.path_effects import path_sentences
from evalkit.report.step_table import step_table
from evalkit.report.words import clean


def steps_table(run: RunRecord, *, wide: bool) -> RenderableType | None:
    """The primary metric's change along each edge, and what that comes to along one path.

    Args:
        run: the run.
        wide: show bits per byte too, where the metric is a perplexity.

    Returns:
        None where no edge can be compared.
    """
    metric = primary_metric(run)
    table = step_table(run, [metric]) if metric else None
    if table is None or not table.rows:
        return None
    shown = len(table.columns) if wide else 1
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("from → to", overflow="fold")
    grid.add_column("step", overflow="fold", ratio=1)
    for title in table.columns[:shown]:
        grid.add_column(Text(clean(f"{title}, 95 % CI")), justify="right")
    for row in table.rows:
        told = (
            "\n".join(part for part in (cell.change, cell.interval) if part)
            for cell in row.cells[:shown]
        )
        names = (f"{row.parent} → {row.variant}", row.steps)
        grid.add_row(*(Text(clean(words)) for words in (*names, *told)))
    # The rest are in the report.
    return Group(grid, *(Text(words, style="bold") for words in path_sentences(run)[:1]))
