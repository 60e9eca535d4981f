"""A run of some of a suite's variants: what they need is computed, the rest is left out. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from evalkit.errors import UsageError
from evalkit.paths import did_you_mean
from evalkit.plan import Plan
from evalkit.plan_jobs import LeftOut
from evalkit.suite import Suite


def check_only(suite: Suite, only: Collection[str]) -> None:
    """Refuses names that no variant has.

    Raises:
        UsageError: with the nearest name, and all that there are.
    """
    known = [variant.name for variant in suite.variants]
    for name in only:
        if name not in known:
            near = did_you_mean(name, known)
            raise UsageError(
                f"--only: {suite.place} has no variant {name!r}{near} (allowed: {', '.join(known)})"
            )


def narrow(plan: Plan, only: Collection[str]) -> Plan:
    """A plan of the variants in `only`, with the adapters that they and their reference attach.

    Args:
        plan: of the whole suite.
        only: names of its variants; none means all.
    """
    if not only:
        return plan
    scoring = tuple(job for job in plan.scoring if job.variant.name in only)
    needed = {name for job in scoring for name in job.adapters}
    reference = plan.reference
    if reference is not None and any(plan.diverges(job) for job in scoring):
        needed |= set(reference.job.adapters)
    left_out = LeftOut(
        training=tuple(job for job in plan.training if job.adapter not in needed),
        scoring=tuple(job for job in plan.scoring if job.variant.name not in only),
    )
    training = tuple(job for job in plan.training if job.adapter in needed)
    return replace(plan, training=training, scoring=scoring, left_out=left_out)
