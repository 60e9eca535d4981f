"""What a variant answered to all samples of a task as one digest: enough to see the same. Pure."""

from __future__ import annotations

import hashlib
import json

from evalkit.records import Score


def answers_digest(score: Score) -> str:
    """A digest of every answer with its log-likelihoods, bit by bit.

    Returns:
        SHA-256 in hexadecimal; empty where there are no samples, or one without log-likelihoods:
        equal texts prove nothing about the weights.
    """
    if score.answers:
        return score.answers
    outcomes = score.outcomes
    if not outcomes or not all(outcome.log_likelihoods for outcome in outcomes):
        return ""
    rows = [[o.gold, o.choice, o.correct, o.tied, *o.log_likelihoods] for o in outcomes]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
