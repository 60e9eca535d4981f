"""Templates of pages, compiled once and kept beside their text as Python keeps its own modules.

Compiling them takes longer than filling them in. What is kept depends on a template's text, on
Python and on jinja2: no constant of a template passes through a function of this package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket


def template_environment(
    packages: list[str], shown: Callable[[object], object]
) -> jinja2.Environment:
    """An environment that escapes everything and knows every name that a template uses.

    Args:
        packages: whose folders `templates` are looked through, in this order.
        shown: what every expression passes through before it is escaped.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each, "templates") for each in packages]),
        bytecode_cache=_KeptBeside(packages[0]),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _KeptBeside(jinja2.FileSystemBytecodeCache):
    """Keeps code in `templates/__pycache__`, where whoever may write it may also write `.py`.

    Where that folder cannot be written, or Python is told to write no bytecode, nothing is kept.
    """

    def __init__(self, package: str) -> None:
        folder = Path(str(files(package) / "templates")) / "__pycache__"
        versions = f"{sys.implementation.cache_tag}.jinja2-{jinja2.__version__}"
        super().__init__(str(folder), f"%s.{versions}.cache")

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            super().load_bytecode(bucket)
        except Exception:  # of a file that was cut short: anything that pickle may raise
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        if sys.dont_write_bytecode:
            return
        try:
            Path(self.directory).mkdir(exist_ok=True)
            super().dump_bytecode(bucket)
        except OSError:  # read-only, or full: the page does not need it
            return
