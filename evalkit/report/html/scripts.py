"""The page's own script, the digest that lets it alone run, and the data that it reads."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources

from markupsafe import Markup

__all__ = ["data_block", "page_script", "script_digest"]


@cache
def page_script() -> Markup:
    """The text of the script, as it stands between its tags."""
    text = resources.files("evalkit.report.html").joinpath("templates/report.js").read_text("utf-8")
    if "</script" in text or "<!--" in text:
        raise ValueError("report.js would end its own element")
    return Markup(text)


@cache
def script_digest() -> str:
    """'sha256-…': what a Content-Security-Policy allows the script by."""
    digest = hashlib.sha256(str(page_script()).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def data_block(value: object) -> Markup:
    """JSON for a `<script type="application/json">`: no character of it can end the element.

    Args:
        value: lists, dicts, texts and finite numbers; texts come cleaned.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
