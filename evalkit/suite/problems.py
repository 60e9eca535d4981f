"""pydantic's errors in the words of a suite: where, what, what is allowed, the nearest known."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from evalkit.paths import did_you_mean
from evalkit.suite.fields import Found, Names, Where, shown

Model = TypeVar("Model", bound=BaseModel)

_PHRASES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def read_model(
    model: type[Model], value: object, *, names: Names | None, at: Where, found: list[Found]
) -> Model | None:
    """Return a part of a suite as its model; None, and more in `found`, where it is wrong.

    Args:
        model: the part's model.
        value: the part as written.
        names: what it may refer to.
        at: its dotted place, put before every place in `found`.
        found: where problems are added.
    """
    try:
        return model.model_validate(value, context=names, by_alias=True, by_name=False)
    except ValidationError as error:
        found.extend(((*at, *where), what) for where, what in problems_of(error, root=model))
        return None


def problems_of(error: ValidationError, *, root: type[BaseModel]) -> list[Found]:
    """Return everything wrong in a validation error of the model `root`."""
    found: list[Found] = []
    for item in error.errors(include_url=False):
        where: Where = tuple(part for part in item["loc"] if part != "[key]")
        if item["type"] == "problems":
            found.extend(((*where, *below), what) for below, what in item["ctx"]["found"])
        else:
            found.append((where, _told(cast(dict[str, Any], item), where, root)))
    return found


def _told(item: Mapping[str, Any], where: Where, root: type[BaseModel]) -> str:
    kind, value, context = item["type"], shown(item["input"]), item.get("ctx", {})
    if kind == "extra_forbidden":
        keys = keys_at(root, where[:-1])
        return f"unknown key{did_you_mean(str(where[-1]), keys)} (allowed: {', '.join(keys)})"
    if kind == "missing":
        return "missing"
    if kind == "too_short":
        return "must not be empty"
    if kind == "literal_error":
        allowed = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"cannot be '{value}'{did_you_mean(value, allowed.split(', '))} (allowed: {allowed})"
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        return f"must be {sign} {context[key]:.16g}, not {value}"
    if kind in _PHRASES:
        return f"must be {_PHRASES[kind]}, not {value}"
    return str(item["msg"])


def keys_at(root: type[BaseModel], where: Where) -> list[str]:
    """Return the keys that a suite may write at a dotted place below a model."""
    model = root
    for part in where:
        fields = model.model_fields.items()
        field = next((field for name, field in fields if part in (name, field.alias)), None)
        below = _model_in(field.annotation) if field is not None else None
        model = below or model
    fields = model.model_fields.items()
    names = [field.alias or name for name, field in fields if not field.exclude]
    return [*names, *getattr(model, "more_keys", ())]


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `dict[str, Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (dict, tuple, Union, UnionType, Annotated):
        models = (_model_in(argument) for argument in get_args(annotation))
        return next((model for model in models if model is not None), None)
    return None
