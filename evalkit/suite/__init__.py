"""The suite: the YAML that says which weights become what you deploy, and what is checked."""

from evalkit.suite.gates import GateSpec
from evalkit.suite.metrics import Metrics, PerplexitySpec, SamplesSpec
from evalkit.suite.specs import (
    AdapterSpec,
    DataSpec,
    LoraSpec,
    ModelSpec,
    Requires,
    TrainingSpec,
)
from evalkit.suite.suite import Suite, load_suite, suite_from_json
from evalkit.suite.variants import VariantSpec

__all__ = [
    "AdapterSpec",
    "DataSpec",
    "GateSpec",
    "LoraSpec",
    "Metrics",
    "ModelSpec",
    "PerplexitySpec",
    "Requires",
    "SamplesSpec",
    "Suite",
    "TrainingSpec",
    "VariantSpec",
    "load_suite",
    "suite_from_json",
]
