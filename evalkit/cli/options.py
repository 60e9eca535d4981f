"""The options that several verbs share, each said once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from evalkit.executors.tasks import Executor
    from evalkit.store import Store
    from evalkit.suite import Suite

SuiteFile = Annotated[
    Path, typer.Argument(metavar="SUITE", help="The suite's YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the suite: --set data.test=FILE. May be repeated.",
    ),
]
Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        envvar="EVALKIT_DB",
        help="The store: a file, or a database URL.  [default: .evalkit/evalkit.db]",
        show_default=False,
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        envvar="EVALKIT_CACHE",
        help="Converted weights and trained adapters.  [default: the user's cache folder]",
        show_default=False,
    ),
]
ReportsFolder = Annotated[
    Path, typer.Option("--reports", metavar="DIR", help="Where HTML reports are written.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Let a model run the code that comes with it."),
]
ExecutorChoice = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--executor",
        help="Where jobs run: one after another in this process, or on the nodes of a Ray cluster.",
    ),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="With --executor ray: the cluster, or 'auto'.  [default: RAY_ADDRESS, else a cluster "
        "of this machine alone]",
        show_default=False,
    ),
]
Shards = Annotated[
    int,
    typer.Option(
        "--shards",
        metavar="N",
        min=1,
        help="With --executor ray: share out the scoring of each variant over N workers. The "
        "numbers stay the same.",
    ),
]
AA = "--aa"
MeasureNoise = Annotated[
    Literal["score", "train"] | None,
    typer.Option(
        AA,
        metavar="[=train]",
        help="Score one variant twice, in other batches, and keep the machine's noise floor. "
        "--aa=train trains each adapter with two more seeds, and keeps the spread.",
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the run as JSON; '-' is standard output."),
]
JunitFile = Annotated[
    str | None,
    typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML, for CI systems."),
]
MarkdownFile = Annotated[
    str | None,
    typer.Option("--markdown", metavar="FILE", help="Write a summary for a pull request."),
]
BaselineChoice = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="NAME|FILE",
        help="What gates with 'against: baseline' compare with: a promoted baseline's name, or an "
        "exported file.  [default: the suite's newest 'main']",
        show_default=False,
    ),
]
RunId = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run's id, or the beginning of it, or 'latest'.")
]
WholePages = Annotated[
    int,
    typer.Option(
        "--pages",
        metavar="N",
        help="With many runs: draw the missing pages of each suite's N newest runs whole.",
        min=0,
    ),
]


def with_plain_aa(arguments: list[str]) -> list[str]:
    """The arguments with `--aa` alone written as `--aa=score`: else it would take the next one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [f"{AA}=score" if a == AA and i < end else a for i, a in enumerate(arguments)]


def open_store(database: str | None, *, create: bool = False) -> Store:
    """The store at this URL, or the default one; only what writes makes a new one."""
    from evalkit.store import Store

    return Store.open(database, create=create)


@contextmanager
def executor(choice: str, address: str | None, shards: int) -> Iterator[Executor]:
    """Where jobs run, while the block lasts.

    Raises:
        UsageError: options of a cluster, and none that has jobs run there.
        MissingPackageError: Ray is not installed.
        MachineError: there is no cluster at the address.
    """
    from evalkit.errors import UsageError
    from evalkit.executors.local import LocalExecutor

    if choice == "local":
        if address is not None or shards != 1:
            raise UsageError("--address and --shards are for --executor ray: give that too")
        yield LocalExecutor(owns_process=True)
        return
    from evalkit.executors.ray import RayExecutor

    with RayExecutor(address=address, shards=shards) as cluster:
        yield cluster


def read_suite(path: Path, overrides: list[str] | None) -> Suite:
    """The validated suite, with `--set` applied."""
    from evalkit.suite import load_suite

    return load_suite(path, overrides=overrides or [])


def cache_folder(cache: Path | None) -> Path:
    """The cache folder that was asked for, or the default one."""
    from evalkit.machine import default_cache

    return cache or default_cache()
