"""What a suite says of the divergence from a reference variant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from evalkit.suite.fields import (
    Count,
    DataReference,
    Flag,
    Length,
    Spec,
    VariantReference,
    names_of,
    refuse,
)
from evalkit.suite.perplexity import PerplexitySpec, found_in_data, found_in_windows


class DivergenceSpec(Spec):
    """How far each variant's predictions are from those of one of them."""

    on: DataReference
    """The name of the data."""
    reference: VariantReference
    """The variant that all others are compared with."""
    tokens: Annotated[Count, Field(le=1_000_000)] = 8192
    """Compare at most so many tokens, shared out between the documents. The reference keeps two
    bytes for each of them and each word of the vocabulary."""
    protocol: Literal["documents", "stream", "chunks"] = "documents"
    """As that of perplexity."""
    max_length: Length = 1024
    """Tokens in a window; `n_ctx` of `chunks`."""
    score_on: Literal["all", "completion"] = "all"
    """`completion` takes prompts as context only: for `protocol: documents`."""
    batch_tokens: Count = 4096
    """Tokens in one forward pass."""
    lockstep: Flag = False
    """Keep the reference in memory beside each variant, and write nothing."""

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> DivergenceSpec:
        found = found_in_windows(self.protocol, self.max_length, self.score_on)
        names = names_of(info)
        if names is not None:
            found += found_in_data(self.on, self.protocol, self.score_on, names.data[self.on])
        if found:
            refuse(found)
        return self

    def windows(self) -> PerplexitySpec:
        """Return the same tokens as a perplexity's settings."""
        return PerplexitySpec(
            on=self.on,
            protocol=self.protocol,
            max_length=self.max_length,
            tokens=self.tokens,
            score_on=self.score_on,
            token_losses=0,
            batch_tokens=self.batch_tokens,
        )
