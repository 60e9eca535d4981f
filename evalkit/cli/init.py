"""`evalkit init`: a first suite, and the workflow that runs it on every pull request."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evalkit.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WORKFLOW = Path(".github/workflows/evalkit.yml")


class CiSystem(StrEnum):
    """Where a suite is run for every change."""

    github = "github"


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit init --ci github --name chat")(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to write: a repository's root.")
    ] = Path(),
    ci: Annotated[
        CiSystem | None, typer.Option("--ci", help="Write a workflow for this system too.")
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="The suite's and its file's name.")
    ] = "starter",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a first suite that runs as it is, and what runs it in CI.

    Nothing is written where a file is there already, unless --force is given.
    """
    files = starter_files(name, with_workflow=ci is CiSystem.github)
    _check(folder, list(files), force=force)
    for relative, text in files.items():
        target = folder / relative
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{target}: cannot be written: {error.strerror}") from None
        print(f"wrote {target}")
    print(f"\nTry it: evalkit run {folder / _suite_path(name)}")
    print("Its results lie in .evalkit/ and reports/: name both in .gitignore.")
    if ci is not None:
        print(f"Read the lines about EVALKIT_INSTALL in {folder / WORKFLOW} before you push.")


def starter_files(name: str, *, with_workflow: bool) -> dict[Path, str]:
    """The text of every file, by its path in the repository.

    Raises:
        UsageError: the name cannot be a file's.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r}: cannot name a suite (allowed: letters, digits, '.', '_' and '-', "
            "a letter or a digit first)"
        )
    files = {_suite_path(name): _starter("suite.yaml").replace("SUITE_NAME", f'"{name}"')}
    if with_workflow:
        path = _suite_path(name).as_posix()
        files[WORKFLOW] = _starter("github.yaml").replace("SUITE_PATH", path)
    return files


def _suite_path(name: str) -> Path:
    return Path("suites") / f"{name}.yaml"


def _starter(file: str) -> str:
    from importlib import resources

    return resources.files("evalkit").joinpath("starter", file).read_text(encoding="utf-8")


def _check(folder: Path, files: list[Path], *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder")
    there = [str(folder / file) for file in files if (folder / file).exists()]
    if there and not force:
        raise UsageError(
            f"{', '.join(there)}: there already, so nothing was written "
            "(--force overwrites; --name names another suite)"
        )
