"""A baseline as a JSON file that a repository can commit: sums, counts and hashes, no texts.

Sorted keys, one unit and one gate a line, the sums of a score on one line; the same baseline gives
the same bytes. Floats are written with the fewest digits that read back as the same float.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from evalkit.baselines.schema import BaselineFile
from evalkit.errors import EvalkitError, UsageError
from evalkit.records import Baseline, Gate, JsonObject, Score
from evalkit.statistics.answers import answers_digest

__all__ = ["SCHEMA", "baseline_text", "read_baseline", "write_baseline"]

SCHEMA: Final = 1
"""Raised when what was written before can no longer be read as it is."""

_KEPT = (
    "git", "packages", "python", "device", "device_name", "driver", "threads", "effective_dtypes",
    "model_digest",
)  # fmt: skip
_NOT_KEPT = ("tokens_per_second",)
"""Readings of the machine's load, not of the model: they would change every line of a diff."""
_DIGEST = 12
_EXACT = 2**53


# ------------------------------------------------------------------------- writing


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Writes a baseline as a file, whole or not at all, over an earlier one.

    Raises:
        UsageError: what is there is no baseline.
        EvalkitError: the file cannot be written.
    """
    if path.exists():
        try:
            read_baseline(path)
        except UsageError as error:
            raise UsageError(f"not written, for what is there is no baseline: {error}") from None
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(baseline_text(baseline), encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        what = f"{path}: the baseline cannot be written ({error.strerror or error})"
        raise EvalkitError(what) from error


def baseline_text(baseline: Baseline) -> str:
    """A baseline as the file's text."""
    units: dict[str, list[list[object]]] = {}
    scores: dict[str, dict[str, JsonObject]] = {}
    for variant, metrics in baseline.scores.items():
        for metric, score in metrics.items():
            rows = _unit_rows(score)
            key = hashlib.sha256(_compact(rows).encode()).hexdigest()[:_DIGEST]
            units[key] = rows
            scores.setdefault(variant, {})[metric] = _score_json(score, key)
    content = {
        "schema": SCHEMA,
        "suite": baseline.suite,
        "baseline": baseline.name,
        "run": baseline.run,
        "promoted": baseline.promoted,
        "forced": baseline.forced,
        "gates": [_gate_json(gate) for gate in baseline.gates],
        "provenance": _provenance(baseline.provenance),
        "scores": scores,
        "units": units,
    }
    return _laid_out(content) + "\n"


def _unit_rows(score: Score) -> list[list[object]]:
    """[id, count] of each unit, with its cluster behind where it is not its own."""
    rows = zip(score.unit_ids, score.counts.tolist(), score.clusters, strict=True)
    return [
        [unit, _number(count)] if cluster == unit else [unit, _number(count), cluster]
        for unit, count, cluster in rows
    ]


def _score_json(score: Score, units: str) -> JsonObject:
    readings = {key: _number(value) for key, value in score.extra.items() if math.isfinite(value)}
    return {
        "kind": score.kind,
        "value": score.value,
        "stderr": score.stderr,
        "unit": score.unit,
        "higher_is_better": score.higher_is_better,
        "comparison": dict(score.comparison),
        "extra": {key: value for key, value in readings.items() if key not in _NOT_KEPT},
        "units": units,
        "sums": score.sums.tolist(),
        **({"answers": answers} if (answers := answers_digest(score)) else {}),
    }


def _gate_json(gate: Gate) -> JsonObject:
    """The fields that say something; where it stood in the suite is not among them."""
    plain = asdict(Gate(gate.metric, gate.variant))
    return {
        key: value
        for key, value in asdict(replace(gate, place="")).items()
        if key in ("metric", "variant") or value != plain[key]
    }


def _provenance(provenance: Mapping[str, Any]) -> JsonObject:
    kept = {key: provenance[key] for key in _KEPT if provenance.get(key) is not None}
    for key in ("data", "tasks"):
        sources = provenance.get(key)
        if isinstance(sources, Mapping) and sources:
            kept[key] = {
                name: {"digest": source["digest"]}
                for name, source in sources.items()
                if isinstance(source, Mapping) and "digest" in source
            }
    return kept


def _number(value: float) -> float | int:
    """A whole number without its '.0'; minus zero stays what it is."""
    whole = float(value).is_integer() and abs(value) < _EXACT and repr(value) != "-0.0"
    return int(value) if whole else value


def _laid_out(value: object, indent: int = 0) -> str:
    """JSON with sorted keys: mappings and lists of lists open, all else on one line."""
    margin, inner = " " * indent, " " * (indent + 1)
    if isinstance(value, Mapping) and value:
        rows = (
            f"{inner}{json.dumps(key)}: {_laid_out(value[key], indent + 1)}"
            for key in sorted(value)
        )
        return "{\n" + ",\n".join(rows) + f"\n{margin}}}"
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(inner + _compact(item) for item in value) + f"\n{margin}]"
    return _compact(value)


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


# ------------------------------------------------------------------------- reading


def read_baseline(path: Path) -> Baseline:
    """Reads what `write_baseline` wrote.

    Raises:
        UsageError: there is no such file, it is no baseline, it is of a newer schema, or what is in
            it does not fit together.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        what = f"{path}:{error.lineno}: is no JSON ({error.msg}, column {error.colno})"
        raise UsageError(what) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no baseline ({error})") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(schema, int) or "baseline" not in raw:
        raise UsageError(f"{path}: is no baseline; `evalkit baseline export` writes one")
    if schema > SCHEMA:
        what = f"schema {schema}, and this evalkit reads up to {SCHEMA}"
        raise UsageError(f"{path}: was written by a newer evalkit ({what}): update it")
    try:
        file = BaselineFile.model_validate(raw)
        return file.baseline_record()
    except ValidationError as error:
        raise UsageError(_explained(path, error)) from error
    except (ValueError, OverflowError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _explained(path: Path, error: ValidationError) -> str:
    """The first few problems, each with its place in the file."""
    problems = [
        f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}"
        for item in error.errors(include_url=False, include_input=False)
    ]
    rest = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{path}: is no baseline of schema {SCHEMA}: {'; '.join(problems[:3])}{rest}"
