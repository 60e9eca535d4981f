"""What the suite's models share: their base, the types of fields, and references between parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from evalkit.paths import AdapterMethod, did_you_mean
from evalkit.suite.located import text_of

Where: TypeAlias = tuple[str | int, ...]
Found: TypeAlias = tuple[Where, str]
"""Something wrong: a dotted place, from where one looks, and what."""


class Spec(BaseModel):
    """Base of the suite's models: no unknown keys, and nothing changes after reading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        arbitrary_types_allowed=True,
    )
    more_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that a suite may write and that are gone when the model is built."""


# ----------------------------------------------------------------------------- types


def _text(value: object) -> str:
    value = text_of(value)
    if not isinstance(value, str):
        raise wrong(f"must be text, not {shown(value)}")
    if not value.strip():
        raise wrong("must not be empty")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise wrong("has characters that are not text")
    return value


def _prose(value: object) -> str:
    return "" if value is None or value == "" else _text(value)


def _name(value: object) -> str:
    return _matching(value, r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", "letters, digits, _ . + -")


def _key(value: object) -> str:
    return _matching(value, r"[A-Za-z0-9][A-Za-z0-9_+-]{0,99}", "letters, digits, _ + -")


def _matching(value: object, pattern: str, allowed: str) -> str:
    text = _text(value)
    if not re.fullmatch(pattern, text):
        raise wrong(f"{shown(text)!r} is no name (allowed: {allowed})")
    return text


_MOST = 2**53

Text = Annotated[str, BeforeValidator(_text)]
"""Text that is not empty. A number without quotes keeps the characters it was written with."""
Prose = Annotated[str, BeforeValidator(_prose)]
"""Text that may be empty."""
Name = Annotated[str, BeforeValidator(_name)]
"""A name that can be a folder's."""
Key = Annotated[str, BeforeValidator(_key)]
"""A name without dots, so that `--set` can reach it."""
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=_MOST)]
"""A whole number from 1."""
Whole = Annotated[int, Strict(), Field(ge=0, le=_MOST)]
"""A whole number from 0."""
Length = Annotated[int, Strict(), Field(ge=2, le=_MOST)]
"""Tokens in a window: a token is scored from the one before it."""
Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]

Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
    "lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit", "adafactor", "adagrad",
    "rmsprop", "sgd",
]  # fmt: skip
"""Those of Transformers that need no package beyond torch and bitsandbytes."""
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt",
]  # fmt: skip
"""Those of Transformers that need no settings of their own."""


def shown(value: object) -> str:
    """Return a value as an error shows it: short, on one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = "null" if value is None else str(text_of(value))
    text = text.lower() if isinstance(value, bool) else " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


# ----------------------------------------------------------------------------- references


@dataclass(frozen=True)
class Names:
    """What each part of a suite must know of the others: handed to validators as their context.

    Gathered from the raw suite before anything is validated, so that a mistake in one part does
    not hide those in another. A model that is built on its own has no such context, and then what
    it refers to is not checked.
    """

    dtype: str = "fp16"
    adapters: Mapping[str, AdapterMethod] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The settings of every data set, as written."""
    variants: Sequence[str] | None = ()
    """None where there are none to refer to: that is told, and not of every reference."""
    metrics: Sequence[str] = ()
    tasks: Sequence[str] = ()
    """The first parts of the tasks' metrics."""


def names_of(info: ValidationInfo) -> Names | None:
    """Return the suite's names, None for a model that is built on its own."""
    return info.context if isinstance(info.context, Names) else None


def _data_reference(name: str, info: ValidationInfo) -> str:
    names = names_of(info)
    what = unknown(name, names.data, what="data") if names is not None else None
    if what is not None:
        raise wrong(what)
    return name


DataReference = Annotated[Text, AfterValidator(_data_reference)]
"""The name of one of the suite's data sets."""


def _variant_reference(name: str, info: ValidationInfo) -> str:
    names = names_of(info)
    if names is None or names.variants is None:
        return name
    what = unknown(name, names.variants, what="variant")
    if what is not None:
        raise wrong(what)
    return name


VariantReference = Annotated[Text, AfterValidator(_variant_reference)]
"""The name of one of the suite's variants."""


def unknown(name: str, known: Sequence[str] | Mapping[str, object], *, what: str) -> str | None:
    """Return what is wrong with a reference to one of `known`, None when it is there."""
    if name in known:
        return None
    names = ", ".join(known) or "the suite has none"
    return f"unknown {what} '{shown(name)}'{did_you_mean(name, known)} (allowed: {names})"


def wrong(what: str) -> PydanticCustomError:
    """Return the error to raise inside a validator for one thing wrong at its own place."""
    return PydanticCustomError("problems", "see found", {"found": [((), what)]})


def refuse(found: Sequence[Found]) -> NoReturn:
    """Raise, inside a validator, everything it found wrong at and below its own place."""
    raise PydanticCustomError("problems", "see found", {"found": list(found)})
