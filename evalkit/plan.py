"""Turns a suite and its sources into jobs, and gives every number its keys. Pure: no I/O.

`reuse_key` covers everything that can move a number: an equal key means that the stored number is
the number. Names (of the suite, a variant, an adapter, a corpus) are in no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.digests import digest_json
from evalkit.machine import Machine
from evalkit.paths import Attach, Path, VariantGraph, path_json
from evalkit.records import JsonObject
from evalkit.sources import Sources
from evalkit.suite import AdapterSpec, PerplexitySpec, Suite, VariantSpec

SCORING_REVISION = 1
"""Raised when our own code changes a score of the same variant."""
TRAINING_REVISION = 1
"""Raised when our own code changes what a recipe trains."""
SCORING_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")
TRAINING_PACKAGES = (*SCORING_PACKAGES, "trl", "accelerate", "datasets")
SAMPLES = "samples"
"""The key under which generated samples are planned, beside the metrics' names."""


@dataclass(frozen=True)
class Environment:
    """What can move a number and is neither in the suite nor in its sources."""

    machine: Machine
    versions: Mapping[str, str]
    trust_remote_code: bool = False


@dataclass(frozen=True)
class TrainJob:
    """Fine-tune one adapter."""

    adapter: str
    spec: AdapterSpec
    recipe_key: str

    @property
    def name(self) -> str:
        """'train guanaco'."""
        return f"train {self.adapter}"


@dataclass(frozen=True)
class ScoreJob:
    """Build one variant and measure everything that the suite asks of it."""

    variant: VariantSpec
    adapters: tuple[str, ...]
    """The adapters that its path attaches, in order."""

    @property
    def name(self) -> str:
        """'score nf4+adapter'."""
        return f"score {self.variant.name}"


@dataclass(frozen=True)
class Plan:
    """The jobs of a run, in an order that respects what needs what."""

    suite: Suite
    sources: Sources
    environment: Environment
    training: tuple[TrainJob, ...]
    scoring: tuple[ScoreJob, ...]
    graph: VariantGraph

    def adapter_digests(self, trained: Mapping[str, str]) -> dict[str, str]:
        """Digest of every adapter that is known: the ready-made ones and those in `trained`."""
        ready = {name: source.digest for name, source in self.sources.adapters.items()}
        return {**ready, **trained}

    def reuse_keys(self, job: ScoreJob, digests: Mapping[str, str]) -> dict[str, str]:
        """The key of every number that the job yields, by metric (and `SAMPLES`).

        Args:
            job: one of `scoring`.
            digests: of every adapter that the job attaches, by name.

        Raises:
            KeyError: an adapter's digest is not known yet.
        """
        variant = self._variant_identity(job, digests)
        keys = {
            metric: digest_json({"variant": variant, "measure": self._perplexity_identity(spec)})
            for metric, spec in self.suite.metrics.perplexity.items()
        }
        samples = self.suite.metrics.samples
        if samples is not None:
            measure = {"samples": samples.model_dump(mode="json")}
            keys[SAMPLES] = digest_json({"variant": variant, "measure": measure})
        return keys

    def _variant_identity(self, job: ScoreJob, digests: Mapping[str, str]) -> JsonObject:
        return {
            "revision": SCORING_REVISION,
            "base": self.sources.weights.digest,
            "path": path_identity(job.variant.path, digests),
            **_environment_identity(self.suite, self.environment, SCORING_PACKAGES),
        }

    def _perplexity_identity(self, spec: PerplexitySpec) -> JsonObject:
        return {
            "perplexity": spec.model_dump(mode="json", exclude={"on"}),
            "data": self.sources.corpora[spec.on].digest,
            "max_tokens_per_document": self.suite.data[spec.on].max_tokens_per_document,
        }


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
    return Plan(suite, sources, environment, training, scoring, graph)


def recipe_key(spec: AdapterSpec, suite: Suite, sources: Sources, environment: Environment) -> str:
    """The key of what training yields: base, path it is trained on, data, every field, versions."""
    if spec.on_path is None or spec.data is None:
        raise ValueError("only an adapter that is trained here has a recipe")
    return digest_json(
        {
            "revision": TRAINING_REVISION,
            "base": sources.weights.digest,
            "on": path_identity(spec.on_path, {}),
            "data": sources.corpora[spec.data].digest,
            "lora": spec.lora.model_dump(mode="json") if spec.lora else None,
            "training": spec.training.model_dump(mode="json") if spec.training else None,
            **_environment_identity(suite, environment, TRAINING_PACKAGES),
        }
    )


def path_identity(path: Path, digests: Mapping[str, str]) -> list[JsonObject]:
    """A path's steps as JSON, with each adapter's name replaced by the digest of its content."""
    return [
        {"attach": digests[step.adapter]} if isinstance(step, Attach) else encoded
        for step, encoded in zip(path, path_json(path), strict=True)
    ]


def _environment_identity(
    suite: Suite, environment: Environment, packages: tuple[str, ...]
) -> JsonObject:
    machine = environment.machine
    return {
        "dtypes": machine.effective_dtypes(),
        "device": machine.name,
        "driver": machine.driver,
        "threads": machine.threads,
        "device_map": suite.model.device_map,
        "trust_remote_code": environment.trust_remote_code,
        "versions": {name: environment.versions[name] for name in packages},
    }


def _attached(path: Path) -> tuple[str, ...]:
    return tuple(step.adapter for step in path if isinstance(step, Attach))
