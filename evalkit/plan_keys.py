"""What of a variant, a recipe and a machine can move a number: the pieces that keys are made of.

Pure: no I/O.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.digests import digest_json
from evalkit.machine import Machine
from evalkit.paths import Attach, Path, Quantize, path_json
from evalkit.records import JsonObject
from evalkit.sources import Sources
from evalkit.suite import AdapterSpec, Suite

SCORING_REVISION = 3
"""Raised when our own code changes a score of the same variant."""
TASK_REVISION = 1
"""Raised when our own code changes a score of the same task."""
SURVIVAL_REVISION = 3
"""Raised when our own code measures survival otherwise."""
DIVERGENCE_REVISION = 2
"""Raised when our own code measures divergence otherwise."""
FOOTPRINT_REVISION = 1
"""Raised when our own code measures costs otherwise."""
TRAINING_REVISION = 2
"""Raised when our own code changes what a recipe trains."""
SCORING_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")
SOME_PACKAGES = ("torchao", "gguf")
"""Compute where a path quantises with the one, and where the other expands the base's own file."""
TASK_PACKAGES = ("lm_eval", "datasets")
TRAINING_PACKAGES = (*SCORING_PACKAGES, "trl", "accelerate", "datasets")


@dataclass(frozen=True)
class Environment:
    """What can move a number and is neither in the suite nor in its sources."""

    machine: Machine
    versions: Mapping[str, str]
    trust_remote_code: bool = False


def recipe_key(spec: AdapterSpec, suite: Suite, sources: Sources, environment: Environment) -> str:
    """The key of what training yields: base, path it is trained on, data, every field, versions."""
    if spec.on_path is None or spec.data is None:
        raise ValueError("only an adapter that is trained here has a recipe")
    packages = packages_on(TRAINING_PACKAGES, spec.on_path, sources)
    # Which other seeds there are does not move what this one trains.
    # Nor does how often a checkpoint is kept on the way.
    training = spec.training and {
        **spec.training.model_dump(mode="json", exclude={"seeds"}),
        "save_steps": None,
    }
    return digest_json(
        {
            "revision": TRAINING_REVISION,
            "base": sources.weights.digest,
            "on": path_identity(spec.on_path, {}),
            "data": sources.corpora[spec.data].digest,
            "lora": spec.lora.model_dump(mode="json") if spec.lora else None,
            "training": training,
            **environment_identity(suite, environment, packages),
        }
    )


def path_identity(path: Path, digests: Mapping[str, str]) -> list[JsonObject]:
    """A path's steps as JSON, with each adapter's name replaced by the digest of its content."""
    return [
        {"attach": digests[step.adapter]} if isinstance(step, Attach) else encoded
        for step, encoded in zip(path, path_json(path), strict=True)
    ]


def packages_on(names: tuple[str, ...], path: Path, sources: Sources) -> tuple[str, ...]:
    """The packages that compute along a path, beside those that compute along every one."""
    kinds = {step.type for step in path if isinstance(step, Quantize)}
    computing = ("torchao-int8" in kinds, sources.weights.kind == "gguf")
    return (*names, *itertools.compress(SOME_PACKAGES, computing))


def environment_identity(
    suite: Suite, environment: Environment, packages: tuple[str, ...]
) -> JsonObject:
    """The machine, the dtypes it really computes in, and the versions of these packages."""
    machine = environment.machine
    return {
        "dtypes": machine.effective_dtypes(),
        "device": machine.name,
        "driver": machine.driver,
        "threads": machine.threads,
        "device_map": suite.model.device_map,
        **({} if suite.model.gpus is None else {"gpus": suite.model.gpus}),
        "trust_remote_code": environment.trust_remote_code,
        "versions": {name: environment.versions[name] for name in packages},
    }
