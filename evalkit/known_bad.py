"""Packages that are known to go wrong, each with what happens. Imports none of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SWITCH = "has_avx512bf16"
"""What bitsandbytes asks before it repacks 4-bit weights in place."""


@dataclass(frozen=True)
class KnownBad:
    """A package whose presence, in some versions, is a hazard."""

    package: str
    bad: Callable[[tuple[int, ...]], bool]
    """Of its version, as numbers."""
    level: Literal["note", "bad"]
    what: str


KNOWN_BAD = (
    KnownBad(
        "torch",
        lambda version: version < (2, 6),
        "bad",
        "torch.load runs code out of a file even with weights_only=True (CVE-2025-32434)",
    ),
    KnownBad(
        "datasets",
        lambda version: version < (4,),
        "bad",
        "runs the script that a data set on the hub brings along; 4.0 and newer do not",
    ),
    KnownBad(
        "kernels",
        lambda version: True,
        "note",
        "while it is installed, transformers may fetch kernels from a hub when it is imported; "
        "set HF_HUB_OFFLINE=1, or uninstall it",
    ),
    KnownBad(
        "optimum-quanto",
        lambda version: True,
        "note",
        "peft's merge_and_unload does nothing to its layers, without an error; evalkit refuses to "
        "quantise with it",
    ),
)


def known_bad() -> Iterator[tuple[str, Literal["note", "bad"], str]]:
    """Subject, level and sentence of everything installed here that is known to go wrong."""
    from evalkit.machine import package_versions  # every command imports this module

    versions = package_versions(tuple(entry.package for entry in KNOWN_BAD))
    for entry in KNOWN_BAD:
        version = versions[entry.package]
        if version != "absent" and entry.bad(numbers(version)):
            yield entry.package, entry.level, f"{version}: {entry.what}"


def numbers(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' as (2, 13, 0)."""
    return tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())


def has_switch() -> bool:
    """Whether the installed bitsandbytes asks `SWITCH`: read in its source, to be quick.

    Where bitsandbytes is absent, nothing repacks anything.
    """
    spec = importlib.util.find_spec("bitsandbytes")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        return True
    try:
        return SWITCH in (Path(places[0]) / "nn" / "modules.py").read_text(encoding="utf-8")
    except OSError:
        return False
