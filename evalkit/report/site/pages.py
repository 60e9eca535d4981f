"""Templates to pages: text is escaped, data is data, and only our own script may run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from evalkit.report.compiled import template_environment
from evalkit.report.html.scripts import data_block
from evalkit.report.words import clean

_POLICY = (
    "default-src 'none'; {scripts}style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
LONGEST_TEXT = 2_000
"""Characters of any one text that a page over many runs shows."""


def render(
    template: str, *, scripts: Sequence[str] = (), data: object = None, **context: Any
) -> str:
    """A page as text.

    Args:
        template: its file below `templates/`.
        scripts: the scripts that the page runs, in this order, and nothing else may run.
        data: what they read, as JSON.
        context: what the template shows.
    """
    sources = " ".join(f"'{script_hash(script)}'" for script in scripts)
    return (
        environment()
        .get_template(template)
        .render(
            policy=_POLICY.format(scripts=f"script-src {sources}; " if scripts else ""),
            scripts=[Markup(script) for script in scripts],
            data=None if data is None else data_block(data),
            **context,
        )
    )


def script_hash(script: str) -> str:
    """What a content security policy calls this script.

    Raises:
        ValueError: HTML would end the script early or read it as other bytes.
    """
    if any(part in script.lower() for part in ("</script", "<!--", "\r")):
        raise ValueError("a script for a page must hold neither '</script', '<!--' nor a return")
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def own_script(*names: str) -> str:
    """Scripts of `templates/`, one after the other, as one module."""
    folder = files("evalkit.report.site") / "templates"
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


@cache
def environment() -> jinja2.Environment:
    """The site's templates, and the run page's style sheet, which all pages share."""
    return template_environment(["evalkit.report.site", "evalkit.report.html"], _printable)


def _printable(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return clean(value, longest=LONGEST_TEXT)
    return value
