"""The shape, the flavour and the first weights of a LoRA adapter, as a suite writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from evalkit.paths import did_you_mean
from evalkit.suite.fields import (
    Count,
    Flag,
    Found,
    NotNegative,
    Positive,
    Spec,
    Text,
    refuse,
    shown,
    wrong,
)
from evalkit.suite.located import text_of


def _target_modules(value: object) -> object:
    if isinstance(value, list | tuple) and value:
        return tuple(value)
    value = text_of(value)
    if value == "all-linear":
        return value
    near = did_you_mean(str(value), ["all-linear"])
    raise wrong(f"must be all-linear or a list of layers' names, not {shown(value)}{near}")


class LoraSpec(Spec):
    """The shape of a LoRA adapter; the names are PEFT's."""

    r: Count = 16
    """Rank."""
    alpha: Positive = 32.0
    """Scaling: the update is multiplied by alpha / r."""
    dropout: Annotated[NotNegative, Field(lt=1)] = 0.0
    """Of the adapter's input, in training."""
    target_modules: Annotated[
        Literal["all-linear"] | tuple[Text, ...], BeforeValidator(_target_modules)
    ] = "all-linear"
    """`all-linear`, or a list of the names of the layers to adapt."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
    use_rslora: Flag = False
    """Scale by alpha / √r instead: rank-stabilised LoRA."""
    use_dora: Flag = False
    """Train magnitude and direction apart: weight-decomposed LoRA."""
    flavour: Literal["lora", "qa-lora"] = "lora"
    """`qa-lora` sees its input pooled over each group of the `group4` weights it is trained on
    (`on: group4`), and merges into them without a loss: the zeros move, the codes stay."""
    init: Literal["default", "pissa", "loftq"] = "default"
    """The first weights. `default` starts as no change. `loftq` starts as what quantising lost,
    so the adapter belongs on weights quantised in the same way. `pissa` starts as the largest
    singular parts of the 16-bit weights, and their residual becomes the base, in training and
    wherever the adapter is attached."""

    @model_validator(mode="after")
    def _consistent(self) -> LoraSpec:
        found: list[Found] = []
        if self.flavour == "qa-lora" and self.use_dora:
            found.append((("use_dora",), "goes without 'flavour: qa-lora', which needs zeros"))
        if self.flavour == "qa-lora" and self.init != "default":
            found.append((("init",), "goes without 'flavour: qa-lora', which is pooled"))
        if self.init != "default" and self.use_dora:
            found.append((("init",), f"cannot be {self.init} with use_dora"))
        if found:
            refuse(found)
        return self
