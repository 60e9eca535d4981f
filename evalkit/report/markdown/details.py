"""Divergence and survival as folded tables of Markdown."""

from __future__ import annotations

from evalkit.records import RunRecord
from evalkit.report.divergence_view import divergence_view
from evalkit.report.markdown.text import code, details, prose, table, within
from evalkit.report.survival_view import kinds_table

_NO_BREAK = "\N{NO-BREAK SPACE}"


def divergence_part(run: RunRecord, *, budget: int) -> str:
    """How far predictions moved; empty where it was not measured."""
    view = divergence_view(run)
    if view is None:
        return ""
    columns = [
        "variant",
        "mean KL",
        "median",
        "99 %",
        "max",
        "same top token",
        "RMS Δp",
        "PPL ratio",
    ]
    rows = []
    for row in view.rows:
        mean = f"{row.mean} ± {row.stderr}" if row.stderr else row.mean
        figures = [
            mean,
            row.median,
            row.high,
            row.highest,
            row.same_top,
            row.delta_p_rms,
            row.ratio,
        ]
        if row.problem:
            figures = [prose(row.problem, longest=200), *figures[1:]]
        rows.append([code(row.name), *(words.replace(" ", _NO_BREAK) for words in figures)])
    bound = f"; each mean is within {view.error_bound} of the exact one" if view.error_bound else ""
    caption = f"nats/token from {code(view.reference)}; ± standard error; {view.measured}{bound}"
    body = _table(columns, rows, budget)
    return details("How far predictions moved", f"{body}\n\n<sub>{caption}.</sub>")


def survival_part(run: RunRecord, *, budget: int) -> str:
    """What merges kept of their adapters, by kind of module; empty where none was measured."""
    found = kinds_table(run)
    if found is None:
        return ""
    columns, rows = found
    cells = [
        [code(row[0]), *(prose(words, longest=80).replace(" ", _NO_BREAK) for words in row[1:])]
        for row in rows
    ]
    body = _table([prose(name, longest=40) for name in columns], cells, budget)
    return details("What merges kept of their adapters", body)


def _table(columns: list[str], rows: list[list[str]], budget: int) -> str:
    lines = table(columns, rows, right=range(1, len(columns))).split("\n")
    kept, note = within(lines, budget, "variant")
    return "\n".join([*kept, *(["", note] if note else [])])
