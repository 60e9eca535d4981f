"""The skewness of an effect, as its clusters show it and as their lengths let one expect it. Pure.

Where lengths are uneven, the skewness of Σ z_c is in the few longest clusters, and a sample whose
long clusters happen to be no outliers shows none of it. Yet all clusters, the short ones too, tell
what shape their effects have. If cluster c's residual is σ(n_c)·ε_c with ε of one shape and
σ(n) ∝ n^−γ, third cumulants of independent terms add up to

    κ = γ₃(ε) · Σ n_c^{3(1−γ)} / (Σ n_c^{2(1−γ)})^{3/2},

which is the working model of R. M. Bell and D. F. McCaffrey, "Bias reduction in standard errors for
linear regression with multi-stage samples", *Survey Methodology* 28 (2002), taken to the third
moment. The exponent is estimated as A. C. Harvey does, "Estimating regression models with
multiplicative heteroscedasticity", *Econometrica* 44 (1976): by the slope of log |residual| on
log n. With equal lengths this is the sample's own skewness.
"""

from __future__ import annotations

import math

import numpy as np

from evalkit.statistics.ratios import Float64s

_LEAST_RESIDUAL = 1e-3
"""Of the root mean square: a residual that rounds to zero has no logarithm to learn from."""


def sample_skewness(influence: Float64s) -> float:
    """κ = Σz³/(Σz²)^(3/2) of the clusters' influence values, shape (G,); 0 where all are zero."""
    squares = float(influence @ influence)
    if squares == 0:
        return 0.0
    return float(((influence / math.sqrt(squares)) ** 3).sum())


def expected_skewness(influence: Float64s, counts: Float64s) -> float:
    """κ of an effect over clusters of these lengths, if effects have one shape at all lengths.

    Args:
        influence: what each cluster moves the effect by, shape (G,), finite.
        counts: what was counted in each, same shape, above zero.
    """
    residuals = influence * (counts.sum() - counts) / counts
    spread = math.sqrt(float(residuals @ residuals) / len(residuals))
    if spread == 0:
        return 0.0
    sizes = np.log(counts) - np.log(counts).mean()
    logarithms = np.log(np.maximum(np.abs(residuals), _LEAST_RESIDUAL * spread))
    unevenness = float(sizes @ sizes)
    slope = float(sizes @ logarithms) / unevenness if unevenness > 0 else 0.0
    # From effects that do not depend on length to those that a cluster's total does not depend on.
    decline = min(max(-slope, 0.0), 1.0)
    shape = residuals * counts**decline
    weights = counts ** (1.0 - decline)
    longest = float((weights**3).sum()) / math.pow(float(weights @ weights), 1.5)
    return sample_skewness(shape - shape.mean()) * math.sqrt(len(counts)) * longest
