"""Divergence on the terminal: how far each variant's predictions are from the reference's."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.records import RunRecord
from evalkit.report.divergence_view import DivergenceRow, divergence_view
from evalkit.report.words import clean


def divergence_table(run: RunRecord, *, wide: bool) -> RenderableType | None:
    """The compact table of divergence; None where none was measured.

    Args:
        run: the run.
        wide: show the largest divergence, Δp and the ratio of perplexities too.
    """
    view = divergence_view(run)
    if view is None:
        return None
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("variant", overflow="fold")
    grid.add_column("mean KL", justify="right", no_wrap=True)
    for title in ("median", "99 %", "same top", *(("max", "RMS Δp", "PPL ratio") if wide else ())):
        grid.add_column(title, justify="right")
    for row in view.rows:
        grid.add_row(*_cells(row, wide=wide))
    bound = f"; each mean is within {view.error_bound} of the exact one" if view.error_bound else ""
    caption = f"nats/token from {view.reference}; ± standard error; {view.measured}{bound}"
    return Group(grid, _text(caption, "dim"))


def _cells(row: DivergenceRow, *, wide: bool) -> list[Text]:
    if row.problem:
        dashes = [_text("–")] * (6 if wide else 3)
        return [_text(row.name), _text(row.problem.strip().partition("\n")[0], "red"), *dashes]
    mean = Text(row.mean)
    if row.stderr:
        mean.append(f" ± {row.stderr}", "dim")
    figures = [row.median, row.high, row.same_top]
    figures += [row.highest, row.delta_p_rms, row.ratio] if wide else []
    return [_text(row.name), mean, *(_text(figure) for figure in figures)]


def _text(words: str, style: str = "") -> Text:
    """Untrusted words as text: rich reads no markup in it, the terminal no escape sequence."""
    return Text(clean(words), style=style)
