"""How to run a run again: the commands, from what the run recorded of itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.records import RunRecord

# Where a run's outputs and store lie is the reader's own matter; the rest moves what is computed.
_OPTIONS = {
    "overrides": "--set",
    "only": "--only",
    "baseline": "--baseline",
    "aa": "--aa",
    "bootstrap": "--bootstrap",
    "force": "--force",
    "trust_remote_code": "--trust-remote-code",
}
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "lm-eval")


def commands(run: RunRecord) -> list[tuple[str, str]]:
    """What to type, each with what it is for.

    Returns:
        (purpose, command) pairs; empty where the run does not say which suite it was of.
    """
    given = run.arguments.get("given")
    given = given if isinstance(given, Mapping) else {}
    place = run.place or given.get("suite")
    if not isinstance(place, str) or not place:
        return []
    told = []
    git = run.provenance.get("git")
    if isinstance(git, Mapping) and git.get("revision"):
        dirty = ", which had changes that were not committed" if git.get("dirty") else ""
        told.append((f"the same code{dirty}", f"git checkout {shlex.quote(str(git['revision']))}"))
    packages = run.provenance.get("packages")
    pinned = [
        f"{name}=={packages[name]}"
        for name in _PACKAGES
        if isinstance(packages, Mapping) and packages.get(name)
    ]
    if pinned:
        told.append(("the same packages", f"pip install {shlex.join(pinned)}"))
    told.append(("the same run", f"evalkit run {shlex.join([place, *_arguments(given)])}"))
    return told


def _arguments(given: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for key, option in _OPTIONS.items():
        value = given.get(key)
        if value is True:
            words.append(option)
        elif isinstance(value, str):
            words += _noise(value) if key == "aa" else [option, value]
        elif isinstance(value, Sequence):
            words += [word for item in value for word in (option, str(item))]
    return words


def _noise(value: str) -> list[str]:
    return ["--aa"] if value == "score" else [f"--aa={value}"]
