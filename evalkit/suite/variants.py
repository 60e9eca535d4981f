"""Variants, and the paths that adapters are trained on: from what a suite writes to steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationInfo

from evalkit.paths import (
    PRESETS,
    PRESETS_WITH_ADAPTER,
    AdapterMethod,
    Attach,
    Load,
    Path,
    PathError,
    StepProblem,
    check,
    did_you_mean,
    normalise,
    path_json,
    preset_path,
)
from evalkit.records import BASELINE
from evalkit.suite.fields import Found, Name, Spec, Where, names_of, refuse, shown, wrong
from evalkit.suite.located import text_of
from evalkit.suite.problems import read_model


def read_path(value: object, *, dtype: str, adapters: Mapping[str, AdapterMethod] | None) -> Path:
    """Return the normalised path that a suite writes as a preset's name or a list of steps.

    Args:
        value: as written; a path that is normalised already is returned as it is.
        dtype: the load dtype of a path without `load`.
        adapters: the suite's adapters with their method; None checks the form alone.

    Raises:
        PydanticCustomError: it is no path, or not a legal one: every problem, each at the step
            as written.
    """
    if isinstance(value, tuple) and value and isinstance(value[0], Load):
        return value
    value = _plain_text(value)
    steps = _steps(value, list(adapters or ()))
    try:
        path = normalise(steps, dtype=dtype)
    except PathError as error:
        refuse(_found(error.problems, value, added=0))
    problems = check(path, adapters=adapters) if adapters is not None else []
    if problems:
        refuse(_found(problems, value, added=len(path) - len(steps)))
    return path


def _plain_text(value: object) -> object:
    """Return a raw path with its numbers as the text they were written as."""
    if isinstance(value, Mapping):
        return {key: _plain_text(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_text(below) for below in value]
    return text_of(value)


def _steps(value: object, adapters: Sequence[str]) -> Sequence[object]:
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise wrong(f"must be a preset's name or a list of steps, not {shown(value)}")
    try:
        steps = preset_path(value, adapters)
    except PathError as error:
        raise wrong(error.problems[0].what) from None
    if steps is None:
        near = did_you_mean(value, PRESETS)
        allowed = f"a list of steps, or one of {', '.join(PRESETS)}"
        raise wrong(f"unknown preset '{shown(value)}'{near} (allowed: {allowed})")
    return steps


def _found(problems: Sequence[StepProblem], value: object, *, added: int) -> list[Found]:
    """Place problems at the steps as written: a preset is one word, and has none."""
    found: list[Found] = []
    for problem in problems:
        at_step = isinstance(value, list) and problem.index is not None
        found.append((((problem.index or 0) - added,) if at_step else (), problem.what))
    return found


def _read_variant_path(value: object, info: ValidationInfo) -> Path:
    names = names_of(info)
    if names is None:
        return read_path(value, dtype="fp16", adapters=None)
    return read_path(value, dtype=names.dtype, adapters=names.adapters)


def _read_training_path(value: object, info: ValidationInfo) -> Path | None:
    """Return the path to the weights that an adapter is trained on."""
    if value is None:
        return None
    names = names_of(info)
    dtype = names.dtype if names is not None else "fp16"
    bare = "adapter trained here is put on weights with nothing attached"
    if isinstance(value, str) and value in PRESETS_WITH_ADAPTER:
        raise wrong(f"'{value}' has an adapter attached: an {bare}")
    path = read_path(value, dtype=dtype, adapters=None)
    attached = [index for index, step in enumerate(path) if isinstance(step, Attach)]
    if attached:
        added = len(path) - len(value) if isinstance(value, list) else 0
        refuse(_found([StepProblem(i, f"an {bare}") for i in attached], value, added=added))
    return read_path(value, dtype=dtype, adapters={})


def _as_json(path: Path | None) -> list[dict[str, Any]] | None:
    return None if path is None else list(path_json(path))


VariantPath = Annotated[Path, PlainValidator(_read_variant_path), PlainSerializer(_as_json)]
"""A preset's name, or a list of steps: normalised and legal."""
TrainingPath = Annotated[
    Path | None, PlainValidator(_read_training_path), PlainSerializer(_as_json)
]
"""The same, with no `attach` in it."""


class VariantSpec(Spec):
    """One variant to score: its name and its normalised path."""

    name: Name
    path: VariantPath


def read_variants(value: object, info: ValidationInfo) -> tuple[VariantSpec, ...]:
    """Return the variants of a suite's list, each a preset's name or `NAME: PATH`.

    Raises:
        PydanticCustomError: every one that is wrong, or has the name of one before it.
    """
    if isinstance(value, tuple) and all(isinstance(item, VariantSpec) for item in value):
        return value
    if not isinstance(value, list) or not value:
        raise wrong("must be a list of at least one variant")
    variants: list[VariantSpec] = []
    found: list[Found] = []
    for index, item in enumerate(value):
        entry = variant_entry(item)
        if entry is None:
            found.append(((index,), "must be a preset's name, or one name with its path"))
            continue
        name, path, where = entry
        if name == BASELINE:
            what = f"'{BASELINE}' is what gates call the promoted run: name the variant otherwise"
            found.append(((index,), what))
        if name in (variant.name for variant in variants):
            found.append(((index,), f"there is a variant named '{shown(name)}' already"))
        problems: list[Found] = []
        fields = {"name": name, "path": path}
        variant = read_model(VariantSpec, fields, names=names_of(info), at=(), found=problems)
        variants.extend([variant] if variant is not None else [])
        found.extend(((index, *where, *place[1:]), what) for place, what in problems)
    if found:
        refuse(found)
    return tuple(variants)


def variant_entry(item: object) -> tuple[str, object, Where] | None:
    """Return (name, path, where the path is below the item) as written; None if neither form."""
    item = text_of(item)
    if isinstance(item, str):
        return item, item, ()
    if isinstance(item, Mapping) and len(item) == 1:
        name, path = next(iter(item.items()))
        return str(name), path, (str(name),)
    return None


def variants_json(variants: Sequence[VariantSpec]) -> list[dict[str, Any]]:
    """Return variants as a suite would write them, with every path written out."""
    return [{variant.name: _as_json(variant.path)} for variant in variants]
