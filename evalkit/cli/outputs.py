"""Where verdicts go beside the terminal: the files that were asked for, and GitHub's pages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EvalkitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from evalkit.records import RunRecord

STANDARD_OUTPUT = "-"
SUMMARY_LIMIT = 1024 * 1024
"""Bytes of one step's summary; GitHub refuses a longer one whole."""


@dataclass(frozen=True)
class Outputs:
    """What is to be written about a run. A file is a path, or '-' for standard output."""

    json_file: str | None = None
    junit_file: str | None = None
    markdown_file: str | None = None
    reports: Path | None = None
    """The folder of HTML reports; None writes none."""

    def check(self) -> None:
        """Finds out, before anything is computed, whether everything can be written.

        Folders that a file lies in are made; files that are there are left as they are.

        Raises:
            UsageError: a path that cannot be written, or that is named twice.
        """
        given = self._files()
        for option, file in given.items():
            if file != STANDARD_OUTPUT:
                _check_file(option, Path(file))
        places: dict[str, str] = {}
        for option, file in given.items():
            place = file if file == STANDARD_OUTPUT else str(Path(file).resolve())
            if place in places:
                raise UsageError(f"{places[place]} and {option} name the same place: {file}")
            places[place] = option
        if self.reports is not None:
            check_folder("--reports", self.reports)

    def console(self) -> Console:
        """Where people read: standard error while standard output is a file's place."""
        from rich.console import Console

        return Console(stderr=STANDARD_OUTPUT in self._files().values())

    def write(self, record: RunRecord) -> None:
        """Writes every file that was asked for. One that fails does not keep the others away.

        Raises:
            EvalkitError: names what could not be written, and how to write it from the store.
        """
        failed = []
        for option, file in self._files().items():
            text = _TEXTS[option](record)
            if file == STANDARD_OUTPUT:
                sys.stdout.write(text)
                continue
            try:
                Path(file).write_text(text, encoding="utf-8")
            except OSError as error:
                failed.append(
                    f"{option} {file}: cannot be written: {error.strerror}. The run is stored: "
                    f"evalkit report {record.id} {option} FILE"
                )
        if failed:
            raise EvalkitError("\n".join(failed))

    def _files(self) -> dict[str, str]:
        files = {
            "--json": self.json_file,
            "--junit": self.junit_file,
            "--markdown": self.markdown_file,
        }
        return {option: file for option, file in files.items() if file is not None}


def show_run(record: RunRecord, outputs: Outputs, *, to_github: bool) -> None:
    """Prints a run and writes its report and its files.

    Args:
        record: the run.
        outputs: what is written; checked before the run began.
        to_github: inside GitHub Actions also annotates the suite and adds to the step's summary.
    """
    from evalkit.report.html import write_report
    from evalkit.report.terminal.summary import render_run

    console = outputs.console()
    render_run(record, console)
    if to_github:
        for line in _annotations(record):
            print(line, file=console.file)
        _add_to_summary(record)
    try:
        outputs.write(record)
    finally:
        if outputs.reports is not None:
            page = write_report(record, outputs.reports)
            console.print(f"Report: {page}", style="dim", highlight=False, soft_wrap=True)


def error_lines(error: EvalkitError) -> Iterator[str]:
    """Inside GitHub Actions, the annotations of what stopped a command; nothing elsewhere."""
    if _in_github():
        from evalkit.report.annotations import error_annotations

        yield from error_annotations(error, root=_workspace())


def _json(record: RunRecord) -> str:
    import json

    from evalkit.report.json.run import run_json

    return json.dumps(run_json(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _junit(record: RunRecord) -> str:
    from evalkit.report.junit import junit_xml

    return junit_xml(record)


def _markdown(record: RunRecord) -> str:
    from evalkit.report.markdown.summary import markdown

    return markdown(record)


_TEXTS: dict[str, Callable[[RunRecord], str]] = {
    "--json": _json,
    "--junit": _junit,
    "--markdown": _markdown,
}


# ------------------------------------------------------------------------------ GitHub


def _in_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _workspace() -> Path:
    return Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())


def _annotations(record: RunRecord) -> list[str]:
    if not _in_github():
        return []
    from evalkit.report.annotations import annotation_lines

    return annotation_lines(record, root=_workspace())


def _add_to_summary(record: RunRecord) -> None:
    """Appends to `$GITHUB_STEP_SUMMARY` where it is set; a summary that fails fails nothing."""
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return
    text = (_markdown(record) + "\n").encode()
    try:
        with Path(name).open("ab") as file:
            if file.tell() + len(text) <= SUMMARY_LIMIT:
                file.write(text)
                return
        problem = "it is full"
    except OSError as error:
        problem = str(error.strerror)
    print(f"note: nothing was added to $GITHUB_STEP_SUMMARY: {problem}", file=sys.stderr)


# ------------------------------------------------------------------------------ checks


def _check_file(option: str, path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file in it")
    existed = path.exists()
    if existed and not path.is_file():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from None


def check_folder(option: str, folder: Path) -> None:
    """Finds out, before anything is computed, whether a folder is one or can be made.

    Raises:
        UsageError: something else is in its place, or it cannot be written to.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"{option} {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {folder}: {existing} cannot be written to")
