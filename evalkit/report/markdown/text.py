"""Untrusted words as GitHub-flavoured Markdown: shown as they are, and doing nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from evalkit.report.words import clean, counted

_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"
_MARKUP = re.compile(r"([\\`*_\[\]|~])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "<span>$</span>"})
# GitHub links a mention and a reference wherever they stand in the rendered text, so an escape or
# an entity does not help: a character between does.
_LINKED = re.compile(r"(@|#|\bGH-)(?=[A-Za-z0-9])")
_ADDRESS = re.compile(r"(?i)\b(https?:|ftp:|mailto:|www\.)(?=\S)")


def prose(text: str, *, longest: int = 2_000) -> str:
    """Text for a paragraph or a cell of a table: one line, nothing in it is markup or a link."""
    words = " ".join(clean(text, longest=longest).split())
    words = _LINKED.sub(rf"\1{_ZERO_WIDTH_SPACE}", words)
    words = _ADDRESS.sub(rf"\1{_ZERO_WIDTH_SPACE}", words)
    return _MARKUP.sub(r"\\\1", words).translate(_ENTITIES)


def code(text: str, *, longest: int = 120) -> str:
    """A name in code type, for a paragraph or a cell of a table."""
    words = " ".join(clean(text, longest=longest).split())
    if "`" in words or "|" in words:
        # A pipe between backticks is escaped in a table and must not be elsewhere.
        return f"<code>{prose(words, longest=longest)}</code>"
    return f"`{words}`" if words else ""


def block(text: str) -> str:
    """Lines as they are, in a fence that none of them can close."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{clean(text)}\n{fence}"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, right: Iterable[int]) -> str:
    """A table of cells that are Markdown already; the columns in `right` are right-aligned."""
    names, aligned = list(columns), set(right)
    rule = ["--:" if index in aligned else "---" for index in range(len(names))]
    lines = [names, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def within(lines: Iterable[str], budget: int, noun: str) -> tuple[list[str], str]:
    """As many lines as fit into `budget` characters, and a note on those that do not."""
    kept: list[str] = []
    size = left_out = 0
    for line in lines:
        size += len(line) + 1
        if left_out or size > budget:
            left_out += 1
        else:
            kept.append(line)
    note = (
        f"… and {counted(left_out, f'more {noun}')}: the HTML report has all." if left_out else ""
    )
    return kept, note


def details(summary: str, body: str) -> str:
    """A part that is folded away until a reader opens it."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
