"""How an adapter is trained: each key, its meaning and its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

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
    refuse,
    wrong,
)


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds:
        raise wrong("must not be empty")
    twice = next((seed for index, seed in enumerate(seeds) if seed in seeds[:index]), None)
    if twice is not None:
        raise wrong(f"has {twice} twice: the same seed trains the same adapter")
    return seeds


Seeds = Annotated[tuple[Seed, ...], AfterValidator(_distinct)]
"""Seeds, each a training of its own."""


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
