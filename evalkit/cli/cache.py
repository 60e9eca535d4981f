"""`evalkit cache`: weights, trained adapters and tokenised corpora on this disk."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options

KINDS = ("bases", "residuals", "quantized", "adapters", "tokens", "scratch")
"""`scratch` is empty, but for what a run that was killed left behind."""
_DAY = 86_400

commands = typer.Typer(
    help="List or delete weights, adapters and corpora kept on this disk.",
    epilog="Example: evalkit cache list",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.add_typer(commands, name="cache")


@commands.command("list", epilog="Example: evalkit cache list")
def list_entries(cache: options.CacheFolder = None) -> None:
    """List what the cache holds, with sizes."""
    from rich.console import Console
    from rich.table import Table

    from evalkit.machine import readable_bytes

    folder = options.cache_folder(cache)
    table = Table("kind", "entry", "size", "last used", box=None)
    total = 0
    for entry in _entries(folder):
        size = _size(entry)
        total += size
        used = time.strftime("%Y-%m-%d %H:%M", time.gmtime(_last_used(entry)))
        table.add_row(entry.parent.name, entry.name, readable_bytes(size), used)
    console = Console()
    console.print(f"{folder}: {readable_bytes(total)}", highlight=False, soft_wrap=True)
    if table.row_count:
        console.print(table)


@commands.command(epilog="Example: evalkit cache prune --older-than 30")
def prune(
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", help="Delete what was not used for so long.", min=0)
    ] = 30,
    cache: options.CacheFolder = None,
) -> None:
    """Delete entries that were not used for a while. Scores in the store are kept."""
    from evalkit.machine import readable_bytes

    freed = 0
    for entry in _entries(options.cache_folder(cache)):
        if time.time() - _last_used(entry) >= older_than * _DAY:
            freed += _size(entry)
            shutil.rmtree(entry)
    print(f"Freed {readable_bytes(freed)}")


def _entries(cache: Path) -> list[Path]:
    folders = [cache / kind for kind in KINDS]
    return sorted(
        e for folder in folders if folder.is_dir() for e in folder.iterdir() if e.is_dir()
    )


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())


def _last_used(entry: Path) -> float:
    """The latest time a file of the entry was read or written."""
    times = [max(f.stat().st_atime, f.stat().st_mtime) for f in entry.rglob("*") if f.is_file()]
    return max(times, default=entry.stat().st_mtime)
