"""What surrounds a call of lm-eval: a sandbox for templates, a folder, errors in one sentence."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from evalkit.errors import DataError, EvalkitError, NetworkError

if TYPE_CHECKING:
    from evalkit.suite import TaskSpec


@contextlib.contextmanager
def working_in(folder: Path | None) -> Iterator[None]:
    """Relative files of a definition are relative to the folder that it lies in."""
    if folder is None:
        yield
        return
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def sandboxed(utils: ModuleType, *, trusted: bool) -> Iterator[None]:
    """Templates that can reach nothing which leads to code; lm-eval's own are run as they are.

    lm-eval compiles a template anew for each sample: here each is compiled once.

    Args:
        utils: lm-eval's module of that name, which holds the one Jinja environment.
        trusted: templates may do what they like.
    """
    from jinja2.sandbox import SandboxedEnvironment

    plain = utils.env
    kind = type(plain) if trusted else SandboxedEnvironment
    environment = kind(
        loader=plain.loader,
        undefined=plain.undefined,
        keep_trailing_newline=plain.keep_trailing_newline,
    )
    environment.filters.update(plain.filters)
    environment.from_string = functools.cache(environment.from_string)  # type: ignore[method-assign]
    utils.env = environment  # type: ignore[attr-defined]
    try:
        yield
    finally:
        utils.env = plain  # type: ignore[attr-defined]


@contextlib.contextmanager
def explained(spec: TaskSpec, *, loading: bool = True) -> Iterator[None]:
    """What lm-eval, datasets and Jinja raise over a definition, in one sentence.

    Args:
        spec: the task.
        loading: everything that is raised is the definition's or the data's fault.
    """
    import jinja2

    where = f"tasks.{spec.name}"
    try:
        yield
    except EvalkitError:
        raise
    except jinja2.exceptions.SecurityError as error:
        raise DataError(
            f"{where}: a template of its definition reaches for code ({error}). Only the command "
            "line may allow that: add --trust-remote-code"
        ) from error
    except jinja2.exceptions.UndefinedError as error:
        raise DataError(f"{where}: its definition wants what the samples lack: {error}") from error
    except ConnectionError as error:
        raise NetworkError(f"{where}: its data cannot be downloaded: {_line(error)}") from error
    except Exception as error:
        if not loading:
            raise
        cause = error.__cause__ or error.__context__ or error
        what = f"{type(error).__name__}: {_line(error)}"
        because = f" ({_line(cause)})" if cause is not error else ""
        raise DataError(f"{where}: lm-eval cannot load it: {what}{because}") from error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
