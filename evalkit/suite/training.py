"""How an adapter is shaped and trained: each key, its meaning and its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from evalkit.paths import did_you_mean
from evalkit.suite.fields import (
    Count,
    Flag,
    Found,
    Length,
    NotNegative,
    Optimizer,
    Positive,
    Scheduler,
    Seed,
    Spec,
    Text,
    refuse,
    shown,
    wrong,
)
from evalkit.suite.located import text_of


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds:
        raise wrong("must not be empty")
    twice = next((seed for index, seed in enumerate(seeds) if seed in seeds[:index]), None)
    if twice is not None:
        raise wrong(f"has {twice} twice: the same seed trains the same adapter")
    return seeds


Seeds = Annotated[tuple[Seed, ...], AfterValidator(_distinct)]
"""Seeds, each a training of its own."""


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


class TrainingSpec(Spec):
    """How an adapter, or the whole model, is fine-tuned. Give `steps` or `epochs`."""

    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter; `full` every weight of a model that is not quantised."""
    steps: Count | None = None
    """Optimizer steps."""
    epochs: Positive | None = None
    """Passes over the data."""
    batch_size: Count = 1
    """Sequences in one forward pass."""
    gradient_accumulation: Count = 1
    """Forward passes in one optimizer step."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass: slower, in less memory."""
    learning_rate: Positive = 2e-4
    """At its highest, after the warm-up."""
    max_length: Length = 1024
    """Tokens in a sequence."""
    optimizer: Optimizer = "adamw_torch"
    """The names are Transformers'."""
    scheduler: Scheduler = "linear"
    """How the learning rate goes on after the warm-up; the names are Transformers'."""
    warmup: NotNegative = 0.0
    """Under 1 a share of all steps, else a number of steps."""
    weight_decay: NotNegative = 0.0
    """Of the optimizer."""
    max_grad_norm: NotNegative = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    packing: Flag = False
    """Fill every sequence with several documents."""
    completion_only: Flag = False
    """Learn completions alone, with prompts as context."""
    save_steps: Count | None = None
    """Keep a checkpoint every so many steps."""
    seed: Seed = 0
    """Of the adapter's first weights, the order of the data, and dropout."""
    seeds: Seeds | None = None
    """Train once for each; the first is the adapter that ships. Gates then cover training too."""

    @model_validator(mode="before")
    @classmethod
    def _first_seed(cls, value: object) -> object:
        if not isinstance(value, dict) or value.get("seed") is not None:
            return value
        seeds = value.get("seeds")
        if not isinstance(seeds, list | tuple) or not seeds or type(seeds[0]) is not int:
            return value
        return {**value, "seed": max(0, seeds[0])}

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSpec:
        found: list[Found] = []
        if (self.steps is None) == (self.epochs is None):
            found.append(((), "give either steps or epochs"))
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            found.append((("warmup",), "must be a share under 1, or a whole number of steps"))
        if self.seeds is not None and self.seed != self.seeds[0]:
            what = f"{self.seed} is not the first of 'seeds', {self.seeds[0]}: leave it out"
            found.append((("seed",), what))
        if found:
            refuse(found)
        return self
