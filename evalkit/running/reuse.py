"""What a run takes from the store instead of computing it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.executors.tasks import Outcome
from evalkit.paths import describe, path_json
from evalkit.plan import FOOTPRINT, SAMPLES, Plan, task_key, task_name
from evalkit.records import COSTS, JobRecord, VariantRecord
from evalkit.store import Store, StoredSamples, StoredScore, VariantResult


def planned_variants(plan: Plan) -> tuple[VariantRecord, ...]:
    """The plan's variants before anything is measured, in the suite's order."""
    graph = plan.graph
    return tuple(
        VariantRecord(
            name=job.variant.name,
            path=path_json(job.variant.path),
            parent=graph.nearest_ancestor(job.variant.name),
            edge=describe(graph.edge(job.variant.name)),
            job=None,
            scores={},
        )
        for job in plan.every_variant
    )


@dataclass
class StoredNumbers:
    """What the store already knows of one job's numbers."""

    keys: Mapping[str, str]
    scores: dict[str, StoredScore] = field(default_factory=dict)
    """By metric, as this run calls it."""
    samples: StoredSamples | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """What must be computed."""
        known = {self.key_name(metric) for metric in self.scores}
        known |= {SAMPLES} if self.samples else set()
        return tuple(name for name in self.keys if name not in known)

    @property
    def run(self) -> str:
        """The newest run that anything is taken from."""
        runs = {score.run for score in self.scores.values()}
        return max(runs | ({self.samples.run} if self.samples else set()))

    def key_name(self, metric: str) -> str:
        """Under which of `keys` a metric is computed: its own, its task's, or all costs'."""
        if metric in COSTS:
            return FOOTPRINT
        return metric if metric in self.keys else task_key(metric.partition("/")[0])

    def result(
        self, variant: VariantRecord, job: JobRecord, outcome: Outcome | None = None
    ) -> VariantResult:
        """What the store should hold: the reused numbers, and those of the outcome."""
        scores = outcome.scores if outcome is not None else {}
        samples = outcome.samples if outcome is not None else ()
        return VariantResult(
            name=variant.name,
            path=variant.path,
            parent=variant.parent,
            edge=variant.edge,
            job=job,
            scores={
                metric: (self.keys[self.key_name(metric)], score)
                for metric, score in scores.items()
            },
            reused={metric: score.id for metric, score in self.scores.items()},
            samples=samples,
            samples_key=self.keys[SAMPLES] if samples else None,
            reused_samples=self.samples.id if self.samples is not None else None,
        )


def find_stored(
    store: Store, keys: Mapping[str, str], tokens: Mapping[str, int] | None = None
) -> StoredNumbers:
    """What the store already knows under these keys.

    Args:
        store: where to look.
        keys: `Plan.reuse_keys` of one job.
        tokens: `Plan.tokens_asked`, by metric: a score that keeps the tokens of fewer units, and
            has more, is no match, for the report would lack them. None takes any.
    """
    tokens = tokens or {}
    found = StoredNumbers(keys)
    known = store.find_scores([key for name, key in keys.items() if name != SAMPLES])
    for name, key in keys.items():
        if name == SAMPLES:
            found.samples = store.find_samples(key)
        else:
            for metric, score in known[key].items():
                if score.kept_units >= min(tokens.get(name, 0), score.units):
                    found.scores[_renamed(metric, name)] = score
    return found


def _renamed(metric: str, name: str) -> str:
    """What this run calls a stored metric: names are in no key, so another may have computed it."""
    if name == FOOTPRINT:
        return metric
    task = task_name(name)
    return name if task is None else f"{task}/{metric.partition('/')[2]}"
