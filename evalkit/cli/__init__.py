"""The command line. Errors end here: one message, the right exit code, no traceback."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from importlib import import_module

import typer
from typer._click.exceptions import ClickException

from evalkit.cli import options
from evalkit.cli.outputs import error_lines
from evalkit.errors import EvalkitError
from evalkit.masking import masked

VERBS = (
    "run", "plan", "runs", "report", "view", "gate",
    "compare", "baseline", "init", "export", "cache", "doctor",
)  # fmt: skip
"""Each has a module of its name."""
_HELP = "Evaluate quantised and fine-tuned language models, and block the ones that got worse."
INTERRUPTED = 130
DEBUG_FLAG = "--debug"


def command_line(first: str = "") -> typer.Typer:
    """The command line, with every verb, or with one alone where it comes first.

    typer looks at all parameters of everything that is registered, which takes a while, and imports
    pydantic for those of its own, which come before any verb.
    """
    known = first in VERBS
    app = typer.Typer(
        name="evalkit",
        help=_HELP,
        epilog="Example: evalkit run suites/quickstart.yaml",
        no_args_is_help=True,
        # Help and usage errors in plain text: rich's boxes take as long to import as all else.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=not known,
        add_help_option=not known,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for verb in (first,) if known else VERBS:
        import_module(f"evalkit.cli.{verb}").register(app)
    return app


def _root(
    debug: bool = typer.Option(False, DEBUG_FLAG, help="Show a traceback with an error."),
) -> None:
    pass


def main() -> None:
    """The console script's entry point: runs the command line and exits the process."""
    # What libraries make while they are imported stays; to look through it for garbage again and
    # again takes a tenth of a short command. Jobs look as usual (LocalExecutor).
    gc.set_threshold(300_000)
    # Threads of numpy's and scipy's OpenBLAS spin a while before they sleep, from when they are
    # made: a tenth of a short command's processor time. They read this when they are imported.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    code = run_command_line(sys.argv[1:])
    gc.freeze()  # nor is it looked through once more at the end, which takes a sixth
    sys.exit(code)


def run_command_line(arguments: list[str]) -> int:
    """Runs one command line in this process and returns its exit code."""
    try:
        app = command_line(*arguments[:1])
        result = app(args=options.with_plain_aa(arguments), standalone_mode=False)
    except EvalkitError as error:
        _show(error, debug=DEBUG_FLAG in arguments)
        return error.exit_code
    except ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except Exception as error:
        # Python would exit with 1 here, which says that a gate is not ok.
        _show(error, debug=DEBUG_FLAG in arguments)
        return EvalkitError.exit_code
    if result == INTERRUPTED:
        print("\nInterrupted. What was already scored is stored.", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _show(error: Exception, *, debug: bool) -> None:
    if debug:
        print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    elif isinstance(error, EvalkitError):
        print(f"error: {error}", file=sys.stderr)
        for line in error_lines(error):
            print(line, file=sys.stderr)
    else:
        what = f"unexpected {type(error).__name__}: {masked(str(error))}"
        print(f"error: {what} (evalkit --debug ... shows where)", file=sys.stderr)
