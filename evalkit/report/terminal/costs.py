"""What variants cost, and which one to ship, on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evalkit.report.advice import Advice
from evalkit.report.costs import ON_THE_FRONT, READ_ONCE, CostRow, CostTable
from evalkit.report.words import clean

_MARK = "◆"
_ALL_COLUMNS = 66
"""Columns of the terminal from which memory and the load time are shown."""


def costs_table(table: CostTable, *, width: int, wide: bool) -> RenderableType:
    """Bytes, load time and speeds, a row for each variant.

    Args:
        table: at least one row.
        width: of the terminal.
        wide: show bits per byte and parameters too.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("variant", overflow="fold")
    for title in _titles(width, wide=wide):
        grid.add_column(title, justify="right")
    for row in table.rows:
        name = Text().append(clean(row.name))
        if row.on_front:
            name.append(f" {_MARK}", "green")
        cells = (words or "–" for words in _figures(row, width, wide=wide))
        grid.add_row(name, *(Text(clean(words)) for words in cells))
    captions = [f"* {READ_ONCE}"]
    if table.has_front:
        captions.insert(0, f"{_MARK} {ON_THE_FRONT}")
    return Group(grid, *(Text(words, style="dim") for words in captions))


def advice_lines(found: Advice) -> list[Text]:
    """What to ship and why, and the command on a line of its own, to be copied."""
    lines = [Text(found.words)]
    if found.command is not None:
        lines.append(Text(f"  {clean(found.command)}"))
    return lines


def _titles(width: int, *, wide: bool) -> list[str]:
    titles = ["disk", "memory", "load s*", "scoring tok/s*", "decoding tok/s*"]
    if width < _ALL_COLUMNS:
        titles = [titles[0], *titles[3:]]
    return ["bits/byte", "parameters", *titles] if wide else titles


def _figures(row: CostRow, width: int, *, wide: bool) -> list[str]:
    figures = [row.disk, row.memory, row.load_seconds, row.scoring_speed, row.decode_speed]
    if width < _ALL_COLUMNS:
        figures = [figures[0], *figures[3:]]
    return [row.bits_per_byte, row.parameters, *figures] if wide else figures
