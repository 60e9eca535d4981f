"""What is measured more than once: other training seeds, and the same weights in other batches.

Pure: adds jobs to a plan, and gives their numbers keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from evalkit.digests import digest_json
from evalkit.errors import UsageError
from evalkit.plan import FOOTPRINT, SAMPLES, Plan
from evalkit.plan_jobs import RepeatJob, ScoreJob, TrainJob
from evalkit.plan_keys import recipe_key
from evalkit.records import BASELINE, DIVERGENCE, SURVIVAL
from evalkit.suite import AdapterSpec, PerplexitySpec, Suite, TaskSpec

Noise = Literal["score", "train"]
"""What a run is asked to measure beside its suite: the machine's noise, or training's."""

EXTRA_SEEDS = 2
"""That `--aa=train` trains beside the suite's own: three draws are the fewest with a spread worth
the name."""
_SEEDS = 2**32


def with_repeats(plan: Plan, noise: Noise | None) -> Plan:
    """Adds what the suite's `seeds` and the command line ask to be measured again.

    Args:
        plan: of the suite.
        noise: "score" measures one variant's scores again in other batches; "train" trains each
            adapter that has a single seed `EXTRA_SEEDS` times more, and scores what gates name.

    Raises:
        UsageError: there is nothing to measure so.
    """
    if noise == "train" and not plan.training:
        raise UsageError("--aa=train: this suite trains no adapter whose spread could be measured")
    if noise == "score" and not (plan.suite.metrics.perplexity or plan.suite.tasks):
        raise UsageError("--aa: this suite scores nothing that could be scored twice")
    seeds = _more_seeds(plan, noise)
    repeats = list(_seed_repeats(plan, seeds, plan.scoring))
    if noise == "score":
        repeats.append(_aa_repeat(plan))
    retraining = {job.name: job for repeat in repeats for job in repeat.training.values()}
    wanted = tuple(job for job in retraining.values() if job.repeat is not None)
    stored = tuple(_seed_repeats(plan, seeds, plan.left_out.scoring))
    left_out = replace(plan.left_out, repeats=stored)
    return replace(plan, retraining=wanted, repeats=tuple(repeats), left_out=left_out)


def repeat_keys(plan: Plan, repeat: RepeatJob, digests: Mapping[str, str]) -> dict[str, str]:
    """The key of every number that a repeat yields, by metric.

    Training's repeats have the key that the same adapter has as a variant's own: neither is
    computed twice.

    Args:
        plan: with the repeat.
        repeat: one of its `repeats`, or a stored draw.
        digests: of the adapters that the repeat's variant attaches here, by name.
    """
    keys = plan.reuse_keys(repeat.job, digests)
    # Texts and costs are shown once, what a merge did to the weights is no draw of anything, and
    # what divergence is measured from is gone by then.
    for name in (SAMPLES, SURVIVAL, FOOTPRINT, DIVERGENCE):
        keys.pop(name, None)
    if repeat.kind == "seed":
        return keys
    how = repeat.label
    return {metric: digest_json({"again": key, "how": how}) for metric, key in keys.items()}


def other_batches(spec: PerplexitySpec) -> PerplexitySpec:
    """The same measure in batches of another size: a quarter, or four times what holds one row."""
    tokens = spec.batch_tokens
    tokens = tokens // 4 if tokens > spec.max_length else tokens * 4
    return spec.model_copy(update={"batch_tokens": max(1, tokens)})


def other_requests(spec: TaskSpec) -> TaskSpec:
    """The same task in batches of another size: a quarter, or four requests instead of one."""
    size = spec.batch_size // 4 if spec.batch_size > 1 else 4
    return spec.model_copy(update={"batch_size": max(1, size)})


def family_key(plan: Plan, job: TrainJob) -> str:
    """What trainings of one recipe share whatever their seed."""
    spec = with_seed(job.spec, 0)
    key = recipe_key(spec, plan.suite, plan.sources, plan.environment)
    return digest_json({"but_for_seed": key})


def with_seed(spec: AdapterSpec, seed: int) -> AdapterSpec:
    """The same recipe with one other seed."""
    if spec.training is None:
        raise ValueError("only an adapter that is trained here has a seed")
    training = spec.training.model_copy(update={"seed": seed, "seeds": None})
    return spec.model_copy(update={"training": training})


def seed_of(job: TrainJob) -> int:
    """The seed that a training runs with."""
    return 0 if job.spec.training is None else job.spec.training.seed


def several_seeds(suite: Suite) -> dict[str, tuple[int, ...]]:
    """The adapters that the suite itself trains several times, with their other seeds."""
    return {
        name: spec.training.seeds[1:]
        for name, spec in suite.adapters.items()
        if spec.training is not None and spec.training.seeds and len(spec.training.seeds) > 1
    }


def gated_variants(suite: Suite) -> list[str]:
    """The variants that gates name, in the gates' order; all where there is no gate."""
    named = [name for gate in suite.gates for name in (gate.variant, gate.against)]
    known = [variant.name for variant in suite.variants]
    gated = dict.fromkeys(name for name in named if name is not None and name != BASELINE)
    return list(gated) if suite.gates else known


def _more_seeds(plan: Plan, noise: Noise | None) -> dict[str, tuple[int, ...]]:
    seeds = several_seeds(plan.suite)
    if noise == "train":
        for job in plan.training:
            first = seed_of(job)
            more = tuple((first + step) % _SEEDS for step in range(1, EXTRA_SEEDS + 1))
            seeds.setdefault(job.adapter, more)
    return seeds


def _seed_repeats(
    plan: Plan, seeds: Mapping[str, Sequence[int]], scoring: Sequence[ScoreJob]
) -> Iterator[RepeatJob]:
    """One repeat of each variant for each further seed of the adapters that it attaches."""
    stated, gated = several_seeds(plan.suite), gated_variants(plan.suite)
    ships = {job.adapter: job for job in (*plan.training, *plan.left_out.training)}
    for job in scoring:
        mine = [name for name in job.adapters if name in seeds and name in ships]
        if not mine or (job.variant.name not in gated and not set(mine) & set(stated)):
            continue
        for draw in zip(*(seeds[name] for name in mine), strict=False):
            drawn = dict(zip(mine, draw, strict=True))
            training = {name: _retraining(plan, ships[name], seed) for name, seed in drawn.items()}
            yield RepeatJob(job, "seed", draw_label(drawn), training)


def _retraining(plan: Plan, ships: TrainJob, seed: int) -> TrainJob:
    spec = with_seed(ships.spec, seed)
    key = recipe_key(spec, plan.suite, plan.sources, plan.environment)
    return TrainJob(ships.adapter, spec, key, repeat=seed)


def draw_label(seeds: Mapping[str, int]) -> str:
    """'seed 1', or 'first seed 1, second seed 11' where several adapters have unlike seeds."""
    if len(set(seeds.values())) == 1:
        return f"seed {next(iter(seeds.values()))}"
    return ", ".join(f"{name} seed {seed}" for name, seed in seeds.items())


def _aa_repeat(plan: Plan) -> RepeatJob:
    """Of the first variant that a gate names, among those that this run scores."""
    gated = gated_variants(plan.suite)
    jobs = {job.variant.name: job for job in plan.scoring}
    job = next((jobs[name] for name in gated if name in jobs), plan.scoring[0])
    return RepeatJob(job, "aa", aa_label(plan.suite))


def aa_label(suite: Suite) -> str:
    """'batches of 1,024 tokens, longest last', 'batches of 4 requests'."""
    tokens = {other_batches(spec).batch_tokens for spec in suite.metrics.perplexity.values()}
    requests = {other_requests(spec).batch_size for spec in suite.tasks}
    sizes = [f"{size:,} tokens" for size in sorted(tokens)]
    sizes += [f"{size} requests" for size in sorted(requests)]
    return f"batches of {' or '.join(sizes)}{', longest last' if tokens else ''}"
