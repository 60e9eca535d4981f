"""The suite: the YAML that says which weights become what you deploy, and what is checked."""

from evalkit.suite.divergence import DivergenceSpec
from evalkit.suite.gates import GateSpec
from evalkit.suite.lora import LoraSpec
from evalkit.suite.metrics import Metrics, SamplesSpec
from evalkit.suite.perplexity import PerplexitySpec
from evalkit.suite.specs import (
    AdapterSpec,
    DataSpec,
    ModelSpec,
    Requires,
)
from evalkit.suite.suite import Suite, load_suite, suite_from_json
from evalkit.suite.tasks import TaskSpec
from evalkit.suite.training import TrainingSpec
from evalkit.suite.variants import VariantSpec

__all__ = [
    "AdapterSpec",
    "DataSpec",
    "DivergenceSpec",
    "GateSpec",
    "LoraSpec",
    "Metrics",
    "ModelSpec",
    "PerplexitySpec",
    "Requires",
    "SamplesSpec",
    "Suite",
    "TaskSpec",
    "TrainingSpec",
    "VariantSpec",
    "load_suite",
    "suite_from_json",
]
