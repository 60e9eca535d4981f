"""Scores to plan gates with: of earlier runs on the same data, or of a pilot on part of it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from evalkit.executors.tasks import Executor
from evalkit.judging.evidence import evidence_of
from evalkit.judging.outlook import Basis
from evalkit.paths import path_json
from evalkit.plan import Plan
from evalkit.records import Baseline, RunRecord, Score, VariantRecord
from evalkit.runner import run_suite
from evalkit.running.options import RunOptions, Watcher
from evalkit.running.repeats import gated_variants
from evalkit.store import Store
from evalkit.suite import AdapterSpec, PerplexitySpec, Suite

_RUNS = 10
"""Newest runs of a suite that are looked at."""


def stored_bases(plan: Plan, store: Store, baseline: Baseline | None) -> Iterator[Basis]:
    """The newest runs of this suite, each with the scores that were taken of the same data.

    Args:
        plan: of the suite as it is now.
        store: where earlier runs are.
        baseline: what gates with `against: baseline` are judged by.
    """
    summaries = [run for run in store.list_runs(5 * _RUNS) if run.suite == plan.suite.name]
    for summary in summaries[:_RUNS]:
        record = store.load_run(summary.id)
        scores = {variant.name: _same_measure(plan, variant) for variant in record.variants}
        evidence = replace(evidence_of(record, baseline=baseline), scores=scores, errors={})
        yield Basis(evidence, f"run {record.id}", {})


def _same_measure(plan: Plan, variant: VariantRecord) -> dict[str, Score]:
    """A variant's scores that were taken as the plan takes them, of the same path."""
    paths = {job.variant.name: path_json(job.variant.path) for job in plan.scoring}
    if paths.get(variant.name) != variant.path:
        return {}
    return {
        metric: score
        for metric, score in variant.scores.items()
        if _is_measured_so(plan, score, plan.suite.metrics.perplexity.get(metric))
    }


def _is_measured_so(plan: Plan, score: Score, spec: PerplexitySpec | None) -> bool:
    if spec is None:
        return score.kind != "perplexity"
    wanted = {
        "data": plan.sources.corpora[spec.on].digest,
        "protocol": spec.protocol,
        "max_length": str(spec.max_length),
        "tokens": str(spec.tokens or "all"),
        "score_on": spec.score_on,
    }
    return wanted.items() <= dict(score.comparison).items()


# ----------------------------------------------------------------------------- pilot


def run_pilot(
    plan: Plan,
    options: RunOptions,
    documents: int,
    *,
    untrained: Collection[str],
    baseline: Baseline | None,
    executor: Executor,
    watcher: Watcher,
) -> Basis | None:
    """Scores what gates name on the first documents, and keeps nothing of it.

    Args:
        plan: of the suite.
        options: the cache to use.
        documents: how many of each corpus, and how many samples of each task.
        untrained: adapters that are not there yet: what attaches one is left out.
        baseline: what gates with `against: baseline` are judged by.
        executor: where jobs run.
        watcher: who looks on.

    Returns:
        The scores, or None where every gate needs an adapter that is not trained.
    """
    suite = pilot_suite(plan, documents, untrained=untrained)
    if suite is None:
        return None
    with tempfile.TemporaryDirectory(prefix="evalkit-pilot-") as folder:
        store = Store.open(str(Path(folder) / "pilot.db"))
        record = _run(suite, replace(options, noise=None), store, executor, watcher)
        store.close()
    evidence = evidence_of(record, baseline=baseline)
    growth = {
        metric: len(plan.sources.corpora[spec.on].documents) / _taken(plan, spec, documents)
        for metric, spec in plan.suite.metrics.perplexity.items()
    }
    return Basis(evidence, f"a pilot of the first {documents}", growth)


def _run(
    suite: Suite, options: RunOptions, store: Store, executor: Executor, watcher: Watcher
) -> RunRecord:
    return run_suite(suite, options, store=store, executor=executor, watcher=watcher)


def pilot_suite(plan: Plan, documents: int, *, untrained: Collection[str]) -> Suite | None:
    """The suite cut down to what its gates compare, on the first documents; None without any.

    A budget of tokens shrinks with the documents, so that each is as long as in the run.
    """
    suite, gated = plan.suite, gated_variants(plan.suite)
    names = {
        job.variant.name
        for job in plan.scoring
        if job.variant.name in gated and not set(job.adapters) & set(untrained)
    }
    if not names:
        return None
    perplexity = {
        metric: _shortened(plan, spec, documents)
        for metric, spec in suite.metrics.perplexity.items()
    }
    metrics = suite.metrics.model_copy(
        update={
            "perplexity": perplexity,
            "divergence": None,
            "samples": None,
            "footprint": False,
            "reload_check": False,
        }
    )
    # Under names of their own: what adapters are trained on stays as it is.
    first = {
        _first(spec.on): suite.data[spec.on].model_copy(
            update={"limit": min(documents, suite.data[spec.on].limit or documents)}
        )
        for spec in suite.metrics.perplexity.values()
    }
    return suite.model_copy(
        update={
            "variants": tuple(v for v in suite.variants if v.name in names),
            "metrics": metrics,
            "data": {**suite.data, **first},
            "adapters": {name: _once(spec) for name, spec in suite.adapters.items()},
            "tasks": tuple(
                spec.model_copy(update={"limit": min(documents, spec.limit or documents)})
                for spec in suite.tasks
            ),
            "gates": (),
        }
    )


def _taken(plan: Plan, spec: PerplexitySpec, documents: int) -> int:
    return min(documents, len(plan.sources.corpora[spec.on].documents))


def _first(name: str) -> str:
    return f"first documents of {name}"


def _shortened(plan: Plan, spec: PerplexitySpec, documents: int) -> PerplexitySpec:
    share = _taken(plan, spec, documents) / len(plan.sources.corpora[spec.on].documents)
    tokens = None if spec.tokens is None else max(1, round(spec.tokens * share))
    return spec.model_copy(update={"on": _first(spec.on), "tokens": tokens})


def _once(spec: AdapterSpec) -> AdapterSpec:
    if spec.training is None:
        return spec
    return spec.model_copy(update={"training": spec.training.model_copy(update={"seeds": None})})
