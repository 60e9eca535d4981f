"""The samples that task definitions read: local files and their columns, data sets of a hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.corpora.files import read_rows
from evalkit.errors import DataError, NetworkError
from evalkit.paths import did_you_mean
from evalkit.tasks.definitions import Definition

LOCAL_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""What `datasets` calls the format of a file."""
HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer."""
_FIELDS = ("doc_to_text", "doc_to_target", "doc_to_choice")


def data_files(
    config: Mapping[str, Any], folder: Path, definition: Path, *, name: str
) -> Iterator[tuple[str | None, Path]]:
    """The local files of a definition, each with its split where that is said.

    Args:
        config: the definition's, with what the suite lays over it.
        folder: what relative names are relative to.
        definition: its file, for messages.
        name: of the task in the suite, for messages.

    Raises:
        DataError: no file is named, or one is not there.
    """
    if config.get("dataset_path") not in LOCAL_FORMATS.values():
        return
    kwargs = config.get("dataset_kwargs") or {}
    named = kwargs.get("data_files") if isinstance(kwargs, Mapping) else None
    if named is None:
        raise DataError(
            f"tasks.{name}.data: missing: {definition} reads a file that the suite names, as with "
            f"--set tasks.{name}.data=FILE.jsonl"
        )
    for split, files in named.items() if isinstance(named, Mapping) else [(None, named)]:
        for name in files if isinstance(files, list) else [files]:
            if "://" in str(name):
                continue
            pattern = folder / str(name)
            found = [pattern] if pattern.is_file() else _matches(folder, str(name))
            if not found:
                raise DataError(f"{definition}: data_files: there is no file {pattern}")
            yield from ((None if split is None else str(split), file) for file in found)


def _matches(folder: Path, pattern: str) -> list[Path]:
    if not any(sign in pattern for sign in "*?[") or Path(pattern).is_absolute():
        return []
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def sample_columns(file: Path) -> list[str]:
    """The columns of a file of samples; empty where the format does not tell without `datasets`.

    Raises:
        DataError: it is not of its format (with the line), or holds no samples.
    """
    if file.suffix.lower() not in LOCAL_FORMATS:
        return []
    if file.suffix.lower() == ".json" and not file.read_bytes().lstrip().startswith(b"["):
        # One object a line, or samples under a key: `datasets` finds out.
        return []
    rows = read_rows(file)
    if not rows:
        raise DataError(f"{file}: holds no samples")
    return list(dict.fromkeys(column for row in rows for column in row.values))


def check_columns(
    definition: Definition, file: Path, columns: list[str], *, cluster: str | None, place: str
) -> None:
    """Refuses a file that lacks a column which the definition, or `cluster`, needs.

    lm-eval takes a name that is no column as the text itself, and scores every sample against it.

    Raises:
        DataError: with the column, and those that are there.
    """
    if not columns:
        return
    there = f"(columns of {file}: {', '.join(columns)})"
    if cluster is not None and cluster not in columns:
        near = did_you_mean(cluster, columns)
        raise DataError(f"{place}.cluster: no column '{cluster}'{near} {there}")
    if definition.config.get("process_docs") is not None:
        return
    for field in _FIELDS:
        for column in sorted(_columns_of(definition.config.get(field)) - set(columns)):
            near = did_you_mean(column, columns)
            raise DataError(
                f"{definition.file}: {field}: wants the column '{column}'{near} {there}"
            )


def _columns_of(field: object) -> set[str]:
    """The columns that a template, or the name of one, refers to."""
    import jinja2
    from jinja2 import meta

    if not isinstance(field, str) or field.startswith("!function"):
        return set()
    if re.fullmatch(r"[A-Za-z_]\w*", field):
        return {field}
    if " is defined" in field or "default(" in field:
        return set()
    try:
        return set(meta.find_undeclared_variables(jinja2.Environment().parse(field)))
    except jinja2.TemplateSyntaxError:
        return set()


# ----------------------------------------------------------------------------- hub


def hub_commit(dataset: str, *, place: str) -> str:
    """The commit of a hub data set: what the hub has now, else what the local cache has.

    Args:
        dataset: its id.
        place: of the task in the suite, for messages.

    Returns:
        The commit; 'cached' where only `datasets` keeps it, without one.

    Raises:
        NetworkError: it is not here, and the hub cannot be asked.
        DataError: the hub does not have it.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    cached = _cached_commit(dataset)
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            return str(HfApi().dataset_info(dataset, timeout=HUB_TIMEOUT).sha)
        except HFValidationError as error:
            raise DataError(f"{place}: its data, {dataset!r}, is no hub id") from error
        except HfHubHTTPError as error:
            reason = _first_line(error)
            if error.response.status_code < 500 and cached is None:
                raise DataError(f"{place}: its data, {dataset}: {reason}") from error
        except Exception as error:
            # The HTTP client below the hub's library has changed names between its releases.
            reason = _first_line(error)
    if cached is None:
        raise NetworkError(
            f"{place}: its data, {dataset}, is not in the local cache and cannot be downloaded "
            f"({reason}). Run where the hub can be reached, or give a definition of your own that "
            "reads a local file: `include_path` and `data`"
        )
    return cached


def _cached_commit(dataset: str) -> str | None:
    from huggingface_hub import constants

    reference = Path(constants.HF_HUB_CACHE) / f"datasets--{dataset.replace('/', '--')}" / "refs"
    if (reference / "main").is_file():
        return (reference / "main").read_text(encoding="utf-8").strip()
    home = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    return "cached" if (Path(home) / dataset.replace("/", "___")).is_dir() else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
