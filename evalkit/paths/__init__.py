"""Variants as paths of steps: presets, normal form, legality, the graph. Pure."""

from evalkit.paths.checks import (
    check,
)
from evalkit.paths.quantize import (
    DTYPES,
    QUANT_NAMES,
    Dtype,
    Quantize,
    QuantType,
    did_you_mean,
)
from evalkit.paths.steps import (
    VERBS,
    AdapterMethod,
    Attach,
    Dequantize,
    Load,
    Merge,
    Path,
    PathError,
    Step,
    StepProblem,
    describe,
    normalise,
    path_from_json,
    path_json,
    step_json,
)
from evalkit.paths.variants import (
    PRESETS,
    PRESETS_WITH_ADAPTER,
    VariantGraph,
    merged_adapters,
    preset_path,
    shared_beginnings,
)

__all__ = [
    "DTYPES",
    "PRESETS",
    "PRESETS_WITH_ADAPTER",
    "QUANT_NAMES",
    "VERBS",
    "AdapterMethod",
    "Attach",
    "Dequantize",
    "Dtype",
    "Load",
    "Merge",
    "Path",
    "PathError",
    "QuantType",
    "Quantize",
    "Step",
    "StepProblem",
    "VariantGraph",
    "check",
    "describe",
    "did_you_mean",
    "merged_adapters",
    "normalise",
    "path_from_json",
    "path_json",
    "preset_path",
    "shared_beginnings",
    "step_json",
]
