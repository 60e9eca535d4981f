"""How far a variant's predictions are from a reference variant's, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, clustered by document."""

    value: float
    stderr: float | None
    """None where a single cluster leaves no spread to estimate from."""


@dataclass(frozen=True)
class Divergence:
    """What `llama-perplexity --kl-divergence` prints, with clustered standard errors.

    Percentiles are by name ("max", "99.9", "median", "0.1", "min"), interpolated between tokens.
    """

    n_tokens: int
    kl: Estimate
    """Mean of KL(reference ‖ variant) over scored positions, nats per token."""
    kl_percentiles: Mapping[str, float]
    kl_error_bound: float
    """How far `kl.value` can be off for the 16-bit reference, nats per token; 0 in lockstep."""
    same_top: Estimate
    """Share of positions where both find the same token likeliest."""
    delta_p: Estimate
    """Mean of p_variant − p_reference of the token that came, a fraction of one."""
    delta_p_rms: Estimate
    delta_p_percentiles: Mapping[str, float]
    perplexity: Estimate
    """The variant's, on these tokens."""
    perplexity_reference: Estimate
    ln_ratio: Estimate
    """Mean of ln PPL(variant) − ln PPL(reference), paired."""
    ratio: Estimate
    """PPL(variant)/PPL(reference)."""
    difference: Estimate
    """PPL(variant) − PPL(reference), paired."""
    correlation: float | None
    """Pearson's, of the two models' losses token by token; None where one never varies."""

    def readings(self) -> dict[str, float]:
        """Everything as flat numbers: "same_top", "same_top_stderr", "kl_99.9", ..."""
        found: dict[str, float | None] = {
            "n_tokens": float(self.n_tokens),
            "kl_error_bound": self.kl_error_bound,
            "correlation": self.correlation,
        }
        for name in _ESTIMATES:
            estimate: Estimate = getattr(self, name)
            found |= {name: estimate.value, f"{name}_stderr": estimate.stderr}
        found |= {f"kl_{name}": value for name, value in self.kl_percentiles.items()}
        found |= {f"delta_p_{name}": value for name, value in self.delta_p_percentiles.items()}
        return {name: value for name, value in found.items() if value is not None}


_ESTIMATES = (
    "kl",
    "same_top",
    "delta_p",
    "delta_p_rms",
    "perplexity",
    "perplexity_reference",
    "ln_ratio",
    "ratio",
    "difference",
)
