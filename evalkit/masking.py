"""Credentials out of texts that are printed, stored or shown: tokens, passwords in URLs, secrets.

What looks like a credential becomes `***`, and so does the value of every environment variable
whose name says that it is a secret. It rather hides too much than too little, and is no promise:
a password that looks like a word, and is in no such variable, is not known to be one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "***"
SHORTEST = 8
"""Characters of a secret in the environment: shorter ones are in half of all texts."""

_IN_URL = re.compile(r"(\w:/{1,2})[^\s/@'\"]*:[^\s@'\"]*(?=@)|(\w:/{1,2})[^\s/@:'\"]{12,}(?=@)")
_IN_QUERY = re.compile(
    r"((?:api_?key|access_?key|auth|password|passwd|pwd|secret|signature|token)=)[^&\s'\",;)]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bBearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gh[oprsu]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|xox[abeprs]-[\w-]{10,}"
    r"|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
)
_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)"
    r"(_[A-Z0-9]+)?$",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """A text without credentials.

    Known are `scheme://user:password@host`, tokens of common services by their form (`hf_…`,
    `ghp_…`, `sk-…`), `token=…` and the like in URLs, and the values of environment variables
    that are named as secrets (`HF_TOKEN`, `DB_PASSWORD`).
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    text = _IN_URL.sub(lambda match: (match[1] or match[2]) + HIDDEN, text)
    text = _IN_QUERY.sub(rf"\1{HIDDEN}", text)
    return _TOKENS.sub(HIDDEN, _BEARER.sub(rf"\1{HIDDEN}", text))


def masked_json(value: Any) -> Any:
    """JSON with every text in it masked; what is under no text stays as it is."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_json(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [masked_json(below) for below in value]
    return value


def _secrets() -> tuple[str, ...]:
    named = (value for name, value in os.environ.items() if _SECRET_NAME.search(name))
    return _longest_first(tuple(value for value in named if len(value) >= SHORTEST))


@lru_cache(maxsize=4)
def _longest_first(values: tuple[str, ...]) -> tuple[str, ...]:
    """One secret may be the beginning of another; a folder's name is none."""
    secrets = (value for value in values if not value.startswith("/"))
    return tuple(sorted(secrets, key=len, reverse=True))
