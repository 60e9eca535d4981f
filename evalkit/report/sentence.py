"""The verdict of a run in one sentence, made from its records and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.records import BASELINE, COSTS, SURVIVAL, RunRecord, VariantRecord, Verdict
from evalkit.report.facts import (
    carries_adapter,
    comparable,
    job_status,
    score_of,
    shown_metrics,
    standing,
    storage_bits,
    twin_without_adapter,
    variant_named,
    verbs,
)
from evalkit.report.recommendation import recommended
from evalkit.report.survival_notes import lost_adapter
from evalkit.report.words import (
    against_words,
    budget_words,
    clean,
    cost_figure,
    counted,
    effect_words,
    figure,
    first_line,
    interval_words,
    joined,
    limit_figure,
    metric_words,
    rule_words,
)

_MOST_CLAUSES = 2
# A merged variant this near to its twin without the adapter, as a fraction of what the adapter
# gained, is said to be back at the twin's level.
_GONE = 0.1


def verdict_sentence(run: RunRecord) -> str:
    """What may be shipped and what lost what, as plain text.

    It recommends the variants that are stored in the fewest bits among those that pass their gates
    or are what others are measured against; where adapters are evaluated, only variants that carry
    one. It states an effect only where a verdict has it.
    """
    unscored = [v for v in run.variants if job_status(v) != "scored"]
    if not run.verdicts:
        sentence = _unjudged(run, unscored)
    elif all(verdict.ok for verdict in run.verdicts):
        sentence = _all_ok(run)
    else:
        sentence = _not_ok(run)
    said = {v.gate.variant for v in run.verdicts if not v.ok}
    broken = [v for v in unscored if v.name not in said] if run.verdicts else []
    clauses = [sentence, *(_failure(variant) for variant in broken[:_MOST_CLAUSES])]
    if len(broken) > _MOST_CLAUSES:
        clauses.append(f"{len(broken) - _MOST_CLAUSES} more variants were not scored")
    # Names and messages are untrusted, and terminals print this as it is.
    words = clean("; ".join(clauses)).replace("\n", " ")
    return words if words.endswith("…") else f"{words}."


# --------------------------------------------------------------------------- all is well


def _all_ok(run: RunRecord) -> str:
    losses = [v for v in run.verdicts if v.verdict == "REGRESSED"]
    unsettled = [v for v in run.verdicts if v.verdict == "INCONCLUSIVE"]
    ship = recommended(run)
    clauses = [f"Ship {joined([variant.name for variant in ship[:3]], 'or')}"] if ship else []
    if ship and not losses:
        clauses[0] += _evidence(run, ship[0])
    elif not ship:
        clauses.append("Every gate is ok, but no variant passes one that would let it ship")
    clauses += [
        f"{_advice(run, verdict)}: {_effect(run, verdict)}{_back(run, verdict)}"
        for verdict in losses[:1]
    ]
    if losses[1:]:
        noun = "a known loss" if len(losses) == 2 else "known losses"
        clauses.append(f"{noun} too: {joined([_brief(verdict) for verdict in losses[1:]])}")
    if unsettled:
        names = joined(list(dict.fromkeys(verdict.gate.variant for verdict in unsettled)))
        clauses.append(f"not settled by this many documents: {names}")
    return "; ".join(_unique(clauses))


def _brief(verdict: Verdict) -> str:
    """'requantized (+67 % over nf4+adapter)'."""
    gate = verdict.gate
    if gate.against is None or verdict.effect is None:
        return gate.variant
    return f"{gate.variant} ({effect_words(verdict)} over {against_words(gate)})"


def _evidence(run: RunRecord, variant: VariantRecord) -> str:
    """': its perplexity is 2.9 % (95 % CI 1.9–3.9 %) above nf4+adapter's, within ...'."""
    own = [v for v in run.verdicts if v.gate.variant == variant.name and v.effect is not None]
    if not own:
        return ""
    return f": {_effect(run, own[0])}{_within(own[0])}"


def _within(verdict: Verdict) -> str:
    budget = verdict.gate.max_increase or verdict.gate.max_decrease
    return f", within the budget of {budget_words(budget)}" if budget else ""


def _advice(run: RunRecord, verdict: Verdict) -> str:
    """What not to do, from what the losing path does."""
    variant = variant_named(run, verdict.gate.variant)
    steps = verbs(variant.path) if variant else []
    quantized = False
    for position, verb in enumerate(steps):
        if verb == "merge" and quantized and variant is not None:
            bits = storage_bits(variant.path[:position])
            return f"do not merge the adapter into {bits}-bit weights"
        if verb == "quantize" and "dequantize" in steps[:position]:
            return "do not quantise dequantised weights again"
        quantized = verb == "quantize" or (quantized and verb != "dequantize")
    return f"do not ship {verdict.gate.variant}"


def _effect(run: RunRecord, verdict: Verdict) -> str:
    """'merged-4bit raises perplexity by 67 % (95 % CI 62–72 %) over nf4+adapter'."""
    gate = verdict.gate
    metric = metric_words(gate.metric)
    if gate.against is None:
        return _limit(run, verdict)
    if verdict.effect is None:
        return f"{gate.variant} against {against_words(gate)} in {metric}"
    interval = interval_words(verdict)
    bracket = f" (95 % CI {interval})" if interval else ""
    if verdict.effect == 0:
        return f"{gate.variant} has {against_words(gate)}'s {metric}"
    if verdict.effect > 0:
        return (
            f"{gate.variant} {lost_adapter(score_of(run, gate.variant, SURVIVAL))}raises {metric} "
            f"by {effect_words(verdict, signed=False)}{bracket} "
            f"over {against_words(gate)}"
        )
    lowered = effect_words(verdict, signed=False).lstrip("\N{MINUS SIGN}")
    if interval:
        bracket = f" (95 % CI of the change {interval_words(verdict, signed=True)})"
    return f"{gate.variant} lowers {metric} by {lowered}{bracket} below {against_words(gate)}"


def _limit(run: RunRecord, verdict: Verdict) -> str:
    gate = verdict.gate
    score = score_of(run, gate.variant, gate.metric)
    value = score.value if score is not None else verdict.effect
    limit = gate.minimum if gate.minimum is not None else gate.maximum
    if value is None or limit is None:
        return f"{gate.variant}: {rule_words(gate)}"
    relation = "above" if value > limit else "below" if value < limit else "at"
    bound = f"{relation} the limit of {limit_figure(gate.metric, limit)}"
    if cost := cost_figure(gate.metric, value):
        return f"{gate.variant} comes to {cost} ({COSTS[gate.metric].title}), {bound}"
    return f"{gate.variant} has a {metric_words(gate.metric)} of {figure(value)}, {bound}"


def _back(run: RunRecord, verdict: Verdict) -> str:
    """' and is back at nf4's level' where the values say that nothing of the adapter is left."""
    metric = verdict.gate.metric
    variant = variant_named(run, verdict.gate.variant)
    twin = twin_without_adapter(run, variant) if variant and carries_adapter(variant.path) else None
    merged, with_adapter = (
        score_of(run, n, metric) for n in (verdict.gate.variant, verdict.gate.against)
    )
    bare = twin.scores.get(metric) if twin else None
    if twin is None or merged is None or with_adapter is None or bare is None:
        return ""
    if not comparable(merged, bare) or not comparable(merged, with_adapter):
        return ""
    against = variant_named(run, verdict.gate.against)
    if against is None or not carries_adapter(against.path):
        return ""
    gained = bare.value - with_adapter.value
    if gained == 0 or abs((bare.value - merged.value) / gained) > _GONE:
        return ""
    return f" and is back at {twin.name}'s level"


# ----------------------------------------------------------------------------- it is not


def _not_ok(run: RunRecord) -> str:
    bad = [verdict for verdict in run.verdicts if not verdict.ok]
    order = ("ERRORED", "REGRESSED", "PASS", "IMPROVED", "INCONCLUSIVE", "INCOMPARABLE", "MISSING")
    bad.sort(key=lambda verdict: order.index(verdict.verdict))
    verb = "is" if len(bad) == 1 else "are"
    total = counted(len(run.verdicts), "gate")
    clauses = _unique([_reason(run, verdict) for verdict in bad])
    rest = len(clauses) - _MOST_CLAUSES
    shown = "; ".join(clauses[:_MOST_CLAUSES]) + (f"; and {rest} more" if rest > 0 else "")
    sentence = f"Not ready: {len(bad)} of {total} {verb} not ok: {shown}"
    passing = [v.name for v in run.variants if standing(run, v.name) == "passes"]
    if passing:
        pronoun = "its" if len(passing) == 1 else "their"
        pass_verb = "passes" if len(passing) == 1 else "pass"
        sentence += f"; {joined(passing)} {pass_verb} {pronoun} gates"
    return sentence


def _reason(run: RunRecord, verdict: Verdict) -> str:
    gate = verdict.gate
    if verdict.verdict == "ERRORED":
        variant = variant_named(run, gate.variant)
        if variant is not None and job_status(variant) != "scored":
            return _failure(variant)
        reference = variant_named(run, gate.against)
        if reference is not None and job_status(reference) != "scored":
            return _failure(reference)
        return f"{gate.variant} was not judged: {first_line(verdict.message)}"
    if verdict.verdict == "REGRESSED":
        budget = gate.max_increase or gate.max_decrease
        beyond = f", beyond the budget of {budget_words(budget)}" if budget else ""
        return f"{_effect(run, verdict)}{beyond}{_back(run, verdict)}"
    if verdict.verdict in {"PASS", "IMPROVED"}:
        return f"the known loss of {gate.variant} is gone, so its `expect: regressed` must go"
    if verdict.verdict == "INCONCLUSIVE":
        return f"too little data to tell whether {gate.variant} keeps {rule_words(gate)}"
    if gate.against == BASELINE and verdict.verdict == "MISSING":
        return f"there is no baseline to judge the {metric_words(gate.metric)} of {gate.variant} by"
    against = f" with {against_words(gate)}" if gate.against else ""
    if verdict.verdict == "INCOMPARABLE":
        return f"{gate.variant} cannot be compared{against} in {metric_words(gate.metric)}"
    return f"nothing was measured to judge {gate.variant}{against} in {metric_words(gate.metric)}"


def _failure(variant: VariantRecord) -> str:
    error = variant.job.error if variant.job else None
    because = f": {first_line(error)}" if error else ""
    return f"{variant.name} was not scored{because}"


# --------------------------------------------------------------------------- not judged


def _unjudged(run: RunRecord, unscored: Sequence[VariantRecord]) -> str:
    scored = len(run.variants) - len(unscored)
    if run.gates and unscored:
        start = f"Not judged: {scored} of {counted(len(run.variants), 'variant')} scored"
    elif run.gates:
        start = f"Not judged yet: {counted(scored, 'variant')} scored"
    else:
        start = "No gates, so nothing says what may be shipped"
    failures = [_failure(variant) for variant in unscored if variant.job and variant.job.error]
    return "; ".join([start, *_extremes(run), *failures[:_MOST_CLAUSES]])


def _extremes(run: RunRecord) -> list[str]:
    """'perplexity is lowest for nf4+adapter (11.14) and highest for nf4 (18.86)', a metric each."""
    clauses = []
    for metric in shown_metrics(run):
        scores = {v.name: v.scores[metric] for v in run.variants if metric in v.scores}
        ordered = sorted(scores, key=lambda name: scores[name].value)
        low, high = ordered[0], ordered[-1]
        if scores[low].value == scores[high].value:
            continue
        if not all(comparable(scores[low], score) for score in scores.values()):
            continue
        clauses.append(
            f"{metric_words(metric)} is lowest for {low} ({figure(scores[low].value)}) "
            f"and highest for {high} ({figure(scores[high].value)})"
        )
    return clauses[:_MOST_CLAUSES]


def _unique(clauses: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(clauses))
