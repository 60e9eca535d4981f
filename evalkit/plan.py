"""Turns a suite and its sources into jobs, and gives every number its keys. Pure: no I/O.

`reuse_key` covers everything that can move a number: an equal key means that the stored number is
the number. Names (of the suite, a variant, an adapter, a corpus) are in no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.digests import digest_json
from evalkit.judging.noise import computed_in
from evalkit.paths import Attach, Path, VariantGraph, merged_adapters, path_json
from evalkit.plan_jobs import LeftOut, ReferenceJob, RepeatJob, ScoreJob, TrainJob
from evalkit.plan_keys import (
    DIVERGENCE_REVISION,
    FOOTPRINT_REVISION,
    SCORING_PACKAGES,
    SCORING_REVISION,
    SURVIVAL_REVISION,
    TASK_PACKAGES,
    TASK_REVISION,
    Environment,
    environment_identity,
    packages_on,
    path_identity,
    recipe_key,
)
from evalkit.records import DIVERGENCE, SURVIVAL, JsonObject
from evalkit.sources import Sources
from evalkit.suite import PerplexitySpec, Suite, TaskSpec

SAMPLES = "samples"
"""The key under which generated samples are planned, beside the metrics' names."""
FOOTPRINT = "footprint"
"""The key under which what a variant costs is planned: all `COSTS` come of one measurement."""
_TASK = "task "
_NO_MATTER = {"token_losses": 64}
"""Of a perplexity's key, whatever the suite says: how much is kept with a number does not move it.
A stored number that keeps less than is asked for is no match all the same: see `find_stored`."""


@dataclass(frozen=True)
class Plan:
    """The jobs of a run, in an order that respects what needs what."""

    suite: Suite
    sources: Sources
    environment: Environment
    training: tuple[TrainJob, ...]
    scoring: tuple[ScoreJob, ...]
    graph: VariantGraph
    retraining: tuple[TrainJob, ...] = ()
    """Recipes of `training` with other seeds."""
    repeats: tuple[RepeatJob, ...] = ()
    reference: ReferenceJob | None = None
    """What divergence is measured from; None where the suite measures none."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What the suite has and this run does not compute."""

    @property
    def every_variant(self) -> tuple[ScoreJob, ...]:
        """The jobs of all variants, left out or not, in the suite's order."""
        jobs = {job.variant.name: job for job in (*self.scoring, *self.left_out.scoring)}
        return tuple(jobs[variant.name] for variant in self.suite.variants)

    def adapter_digests(self, trained: Mapping[str, str]) -> dict[str, str]:
        """Digest of every adapter that is known: the ready-made ones and those in `trained`."""
        ready = {name: source.digest for name, source in self.sources.adapters.items()}
        return {**ready, **trained}

    def reuse_keys(self, job: ScoreJob, digests: Mapping[str, str]) -> dict[str, str]:
        """The key of every number that the job yields, by metric, `task_key` and what is like it.

        Divergence has a key only where the adapters of its reference are known, and the reference
        itself has none.

        Args:
            job: one of `scoring`.
            digests: of every adapter that the job attaches, by name.

        Raises:
            KeyError: an adapter's digest is not known yet.
        """
        variant = self._variant_identity(job, digests)
        measures = self._measures()
        if merged_adapters(job.variant.path, self._full()):
            measures[SURVIVAL] = {SURVIVAL: SURVIVAL_REVISION}
        if self.suite.metrics.footprint:
            measures[FOOTPRINT] = {FOOTPRINT: FOOTPRINT_REVISION}
        if self.diverges(job) and all(name in digests for name in self._reference.job.adapters):
            measures[DIVERGENCE] = self._divergence_identity(digests)
        return {
            name: digest_json({"variant": variant, "measure": measure})
            for name, measure in measures.items()
        }

    @property
    def tokens_asked(self) -> dict[str, int]:
        """Of how many units each perplexity is to keep the tokens."""
        return {metric: spec.token_losses for metric, spec in self.suite.metrics.perplexity.items()}

    def diverges(self, job: ScoreJob) -> bool:
        """Whether a divergence is measured of this job's variant: of all but the reference."""
        reference = self.reference
        return reference is not None and reference.job.variant.name != job.variant.name

    def reference_key(self, digests: Mapping[str, str]) -> str:
        """What a divergence is measured from, by its content: names are in no key.

        Raises:
            KeyError: a digest of an adapter on the reference's path is not known yet.
        """
        return digest_json({"reference": self._variant_identity(self._reference.job, digests)})

    @property
    def _reference(self) -> ReferenceJob:
        if self.reference is None:
            raise ValueError("the suite measures no divergence")
        return self.reference

    def _divergence_identity(self, digests: Mapping[str, str]) -> JsonObject:
        spec = self._reference.spec
        return {
            "revision": DIVERGENCE_REVISION,
            "divergence": spec.model_dump(mode="json", exclude={"on", "reference"}),
            "data": self.sources.corpora[spec.on].digest,
            "max_tokens_per_document": self.suite.data[spec.on].max_tokens_per_document,
            "reference": self.reference_key(digests),
        }

    def _full(self) -> set[str]:
        """The adapters that are whole fine-tuned models."""
        return {name for name, spec in self.suite.adapters.items() if spec.method == "full"}

    def floor_keys(self, job: ScoreJob) -> dict[str, str]:
        """The key of the noise floor under every number of a job, by metric and `task_key`.

        It covers what is measured, the base, the dtypes that the job computes in, the device and
        the versions; not the job's other steps, nor its adapters.
        """
        machine = self.environment.machine
        circumstances = {
            "revision": SCORING_REVISION,
            "base": self.sources.weights.digest,
            "computed_in": computed_in(path_json(job.variant.path), machine.effective_dtypes()),
            **environment_identity(self.suite, self.environment, SCORING_PACKAGES),
        }
        return {
            name: digest_json({"floor": circumstances, "measure": measure})
            for name, measure in self._measures().items()
            if name != SAMPLES
        }

    def _measures(self) -> dict[str, JsonObject]:
        """What moves a number and is no part of its variant, by metric (and `SAMPLES`)."""
        measures = {
            metric: self._perplexity_identity(spec)
            for metric, spec in self.suite.metrics.perplexity.items()
        }
        samples = self.suite.metrics.samples
        if samples is not None:
            measures[SAMPLES] = {"samples": samples.model_dump(mode="json")}
        for spec in self.suite.tasks:
            measures[task_key(spec.name)] = self._task_identity(spec)
        return measures

    def _task_identity(self, spec: TaskSpec) -> JsonObject:
        # Where the files are moves nothing; what is in them does.
        paths = {"name", "include_path", "data"}
        return {
            "revision": TASK_REVISION,
            "task": spec.model_dump(mode="json", exclude=paths),
            "source": self.sources.tasks[spec.name].digest,
            "versions": {name: self.environment.versions[name] for name in TASK_PACKAGES},
        }

    def _variant_identity(self, job: ScoreJob, digests: Mapping[str, str]) -> JsonObject:
        packages = packages_on(SCORING_PACKAGES, job.variant.path, self.sources)
        return {
            "revision": SCORING_REVISION,
            "base": self.sources.weights.digest,
            "path": path_identity(job.variant.path, digests),
            **environment_identity(self.suite, self.environment, packages),
        }

    def _perplexity_identity(self, spec: PerplexitySpec) -> JsonObject:
        return {
            "perplexity": {**spec.model_dump(mode="json", exclude={"on"}), **_NO_MATTER},
            "data": self.sources.corpora[spec.on].digest,
            "max_tokens_per_document": self.suite.data[spec.on].max_tokens_per_document,
        }


def task_key(name: str) -> str:
    """The key under which a task is planned: all its metrics come of one computation."""
    return f"{_TASK}{name}"


def task_name(key: str) -> str | None:
    """The task of a `task_key`, None for another key."""
    return key.removeprefix(_TASK) if key.startswith(_TASK) else None


def make_plan(suite: Suite, sources: Sources, environment: Environment) -> Plan:
    """Plans one training job for each adapter that a variant needs, and one job a variant."""
    scoring = tuple(ScoreJob(variant, _attached(variant.path)) for variant in suite.variants)
    needed = {adapter for job in scoring for adapter in job.adapters}
    training = tuple(
        TrainJob(name, spec, recipe_key(spec, suite, sources, environment))
        for name, spec in suite.adapters.items()
        if name in needed and spec.from_ is None
    )
    graph = VariantGraph({variant.name: variant.path for variant in suite.variants})
    reference = _reference_job(suite, scoring)
    return Plan(suite, sources, environment, training, scoring, graph, reference=reference)


def _reference_job(suite: Suite, scoring: tuple[ScoreJob, ...]) -> ReferenceJob | None:
    spec = suite.metrics.divergence
    if spec is None:
        return None
    job = next(job for job in scoring if job.variant.name == spec.reference)
    return ReferenceJob(job, spec)


def _attached(path: Path) -> tuple[str, ...]:
    return tuple(step.adapter for step in path if isinstance(step, Attach))
