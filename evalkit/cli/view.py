"""`evalkit view`: the pages of all runs, built and served to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options
from evalkit.cli.report import build_site
from evalkit.errors import UsageError

LOCAL = "127.0.0.1"
_LOOPBACK = (LOCAL, "localhost", "::1")


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit view --port 8321")(view)


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where the pages are written.")
    ] = Path("reports"),
    port: Annotated[
        int, typer.Option("--port", help="0 takes any that is free.", min=0, max=65535)
    ] = 8321,
    host: Annotated[str, typer.Option("--host", help="The address that is listened on.")] = LOCAL,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Let other machines read the reports, for --host.",
        ),
    ] = False,
    pages: options.WholePages = 5,
    database: options.Database = None,
) -> None:
    """Serve the pages of all runs to this machine until Ctrl-C."""
    if host not in _LOOPBACK and not allow_remote:
        raise UsageError(
            f"--host {host}: others could read every report, and nothing asks them for a password "
            f"(allowed: {', '.join(_LOOPBACK)}; any other with --allow-remote)"
        )
    from evalkit.report.site.serving import open_server

    with open_server(folder, host, port) as server:
        print(build_site(folder, pages, database))
        print(f"Serving {folder} at {server.url} (Ctrl-C ends it)", flush=True)
        server.serve_forever()
