"""`evalkit compare`: what changed between two runs, and what it did to every score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli import options

if TYPE_CHECKING:
    from evalkit.report.comparing.comparison import Side
    from evalkit.store import Store

_BASELINE = "baseline"
_SIDE = "A run (an id, its beginning, or 'latest'), 'baseline', or a baseline's file; with :VARIANT"


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit compare baseline latest:nf4")(compare)


def compare(
    old: Annotated[str, typer.Argument(metavar="A", help=f"{_SIDE}.", show_default=False)],
    new: Annotated[
        str, typer.Argument(metavar="B", help="What is compared with A.", show_default=False)
    ],
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write it as JSON; '-' is standard output."),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", help="How many documents that moved are named.", min=0)
    ] = 5,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The baseline that 'baseline' means.")
    ] = "main",
    database: options.Database = None,
) -> None:
    """Compare two runs or variants: every score, and what changed.

    B is compared with A, document by document, each score with its interval. Without :VARIANT all
    variants of one name are compared. Nothing passes or fails here: exit code 0, or 2 where there
    is no such run.
    """
    from rich.console import Console

    from evalkit.report.comparing.comparison import compare_sides
    from evalkit.report.comparing.text import render_comparison

    sides = _sides(options.open_store(database), old, new, name)
    found = compare_sides(*sides, most_moved=top)
    render_comparison(found, Console(stderr=json_file == "-"), most_moved=top)
    if json_file is None:
        return
    import json

    from evalkit.report.comparing.json import comparison_json

    text = json.dumps(comparison_json(found), indent=2, ensure_ascii=False, allow_nan=False)
    if json_file == "-":
        print(text)
    else:
        Path(json_file).write_text(text + "\n", encoding="utf-8")


def _sides(store: Store, old: str, new: str, name: str) -> tuple[Side, Side]:
    """Both sides; `baseline` is that of the other side's suite.

    Raises:
        UsageError: one of them is nowhere, or says nothing of a suite.
    """
    from evalkit.errors import UsageError

    words = [_parts(old), _parts(new)]
    sides = [None if head == _BASELINE else _side(store, head, variant) for head, variant in words]
    suite = next((side.suite for side in sides if side is not None), None)
    if suite is None:
        raise UsageError("'baseline' is that of the other side's suite: name a run or a file there")
    first, second = (
        side or _promoted(store, suite, name, variant)
        for side, (_, variant) in zip(sides, words, strict=True)
    )
    return first, second


def _parts(text: str) -> tuple[str, str | None]:
    """A side's run or file, and its variant; a path may hold colons of its own."""
    head, colon, variant = text.rpartition(":")
    if not colon or text.lower().endswith(".json"):
        return text, None
    return head, variant


def _side(store: Store, head: str, variant: str | None) -> Side:
    from evalkit.report.comparing.comparison import side_of_baseline, side_of_run

    if head.lower().endswith(".json"):
        from evalkit.baselines.file import read_baseline

        return side_of_baseline(read_baseline(Path(head)), variant, place=head)
    return side_of_run(store.load_run(head), variant)


def _promoted(store: Store, suite: str, name: str, variant: str | None) -> Side:
    from evalkit.errors import UsageError
    from evalkit.report.comparing.comparison import side_of_baseline

    baseline = store.find_baseline(suite, name)
    if baseline is None:
        raise UsageError(
            f"suite {suite} has no baseline {name!r}; `evalkit baseline promote RUN` makes one"
        )
    return side_of_baseline(baseline, variant)
