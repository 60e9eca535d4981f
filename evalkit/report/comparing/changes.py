"""What differs between two runs beside their numbers: packages, code, weights, data, settings."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.baselines import environment_changes, relaxed_budgets, source_changes
from evalkit.report.comparing.comparison import Side
from evalkit.report.facts import path_words

__all__ = ["changes", "settings_diff"]


def changes(old: Side, new: Side) -> tuple[str, ...]:
    """Everything that was recorded on both sides and is not the same, a line each.

    In this order: code, weights, data, packages and device, paths, training, gates.
    """
    told = [
        *source_changes(old.provenance, new.provenance),
        *environment_changes(old.provenance, new.provenance),
    ]
    if old.suite != new.suite:
        told.insert(0, f"suite {old.suite} → {new.suite}")
    told += _paths(old, new)
    told += _settings_below("adapters", old, new)
    told += [f"gates: {what}" for what in relaxed_budgets(new.gates, old.gates)]
    return tuple(told)


def settings_diff(old: Side, new: Side) -> tuple[str, ...]:
    """The resolved suites as a unified diff; empty where they are equal, or one side has none."""
    if old.settings is None or new.settings is None:
        return ()
    before, after = (
        json.dumps(side.settings, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
        for side in (old, new)
    )
    names = [f"{side.name}: {side.suite}" for side in (old, new)]
    return tuple(difflib.unified_diff(before, after, names[0], names[1], lineterm="", n=2))


def _paths(old: Side, new: Side) -> list[str]:
    told = []
    if old.variant is not None and new.variant is not None:
        pairs = [(old.variant, new.variant)]
    else:
        pairs = [(name, name) for name in new.paths]
    for before, after in pairs:
        if before not in old.paths or after not in new.paths:
            continue
        was, is_now = path_words(old.paths[before]), path_words(new.paths[after])
        if was != is_now:
            name = before if before == after else f"{before} → {after}"
            told.append(f"path of {name}: {was} → {is_now}")
    return told


def _settings_below(key: str, old: Side, new: Side) -> list[str]:
    """The leaves below one key of the suites that differ, by their dotted names."""
    if old.settings is None or new.settings is None:
        return []
    before, after = (dict(_leaves(_mapping(s.settings).get(key), key)) for s in (old, new))
    told = []
    for name in dict.fromkeys((*before, *after)):
        was, is_now = (leaves.get(name, "not set") for leaves in (before, after))
        if was != is_now:
            told.append(f"{name} {was} → {is_now}")
    return told


def _leaves(tree: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}")
    elif tree is not None:
        yield prefix, tree if isinstance(tree, str) else json.dumps(tree)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
