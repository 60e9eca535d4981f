"""What a suite measures on every variant, beside tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from evalkit.suite.divergence import DivergenceSpec
from evalkit.suite.fields import Count, Flag, Spec, Text
from evalkit.suite.perplexity import PerplexitySpec, perplexity_json, read_perplexity


class SamplesSpec(Spec):
    """Texts that every variant goes on with, greedily. They are shown, and gate nothing."""

    prompts: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The beginnings."""
    max_new_tokens: Count = 64
    """The longest continuation."""


class Metrics(Spec):
    """What is measured on every variant, beside tasks."""

    perplexity: Annotated[
        dict[str, PerplexitySpec],
        PlainValidator(read_perplexity),
        PlainSerializer(perplexity_json),
    ] = Field(default_factory=dict)
    """Settings of one corpus, or a mapping of names to such settings; the metric of a named one
    is `perplexity/NAME`."""
    divergence: DivergenceSpec | None = None
    """How far each variant's predictions are from those of one of them."""
    samples: SamplesSpec | None = None
    """Texts to generate."""
    footprint: Flag = True
    """Measure what each variant costs: bytes, load time, tokens a second."""
    reload_check: Flag = True
    """Save each variant that is more than loaded, load it again, and compare what both make of
    512 tokens."""
    leakage: Literal["warn", "refuse", "ignore"] = "warn"
    """What to do where documents that are scored are also in the data that an adapter was trained
    on, exactly or nearly: say so in the report, refuse to run, or not look."""
