"""Which modules a quantisation leaves as they are, by the names that transformers matches."""

from __future__ import annotations

from pathlib import Path

from evalkit.errors import WeightsError
from evalkit.paths import Quantize
from evalkit.weights.adapters import linear_names, meta_model


def kept_modules(step: Quantize, folder: Path, *, trust_remote_code: bool) -> tuple[str, ...]:
    """Names of the modules to be kept, for transformers; empty leaves it its own choice.

    Args:
        step: the quantisation.
        folder: the weights to be quantised.
        trust_remote_code: whether code that comes with them may run.

    Raises:
        WeightsError: a name in skip_modules that no module has; it would be passed over.
    """
    if not step.skip_modules and step.type != "torchao-int8":
        return ()
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    skeleton = meta_model(folder, trust_remote_code=trust_remote_code)
    modules = [name for name, _ in skeleton.named_modules()]
    for name in step.skip_modules:
        if all(should_convert_module(module, [name]) for module in modules):
            known = ", ".join(linear_names(skeleton))
            raise WeightsError(
                f"skip_modules: '{name}' is in no layer of this {type(skeleton).__name__}. Its "
                f"linear layers are: {known}"
            )
    # A list of ours replaces transformers' own, in which the output layer is.
    kept = (*step.skip_modules, *sorted(get_keys_to_not_convert(skeleton)))
    if step.type == "torchao-int8":
        # Here transformers compares the names of weights with those of modules: none would match.
        kept += tuple(sorted(getattr(skeleton, "_keep_in_fp32_modules", None) or ()))
        return (*kept, *(f"{name}.weight" for name in kept))
    return kept
