"""Sets an adapter's first weights before it is trained: peft's own, LoftQ's or PiSSA's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import paths
from evalkit.errors import TrainingError
from evalkit.records import OnProgress
from evalkit.suite import AdapterSpec
from evalkit.weight_files import read_json
from evalkit.weights.building import BuildContext
from evalkit.weights.initial import KEY, grid_of, words_of
from evalkit.weights.quantization import layer_weight, quantized_layers
from evalkit.weights.residual import matrix_of, pissa_base, read_factors, top_factors
from evalkit.weights.steps import build_variant

if TYPE_CHECKING:
    import torch

    Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class FirstWeights:
    """What an adapter starts as, and the base that it is therefore trained on."""

    context: BuildContext
    factors: Factors = field(default_factory=dict)
    """A [r, in] and B [out, r] of every module, by its name in the base; none leaves peft's."""
    need: Mapping[str, Any] | None = None
    """What its configuration must say about its base."""

    def put_into(self, model: torch.nn.Module, name: str) -> None:
        """Sets the weights of a fresh adapter, peft's `default`; `name` is for messages.

        Raises:
            TrainingError: an adapted module has none.
        """
        import torch
        from peft.tuners.lora.layer import LoraLayer

        if self.need is None:
            return
        for module_name, layer in model.named_modules():
            if not isinstance(layer, LoraLayer) or "default" not in layer.lora_A:
                continue
            found = self.factors.get(module_name.removeprefix("base_model.model."))
            if found is None:
                raise TrainingError(
                    f"{name}: init: {self.need['init']} has nothing to start {module_name} from; "
                    "leave it out of target_modules"
                )
            share = layer.scaling["default"] ** 0.5
            with torch.no_grad():
                for part, values in zip((layer.lora_A, layer.lora_B), found, strict=True):
                    part["default"].weight.copy_(values / share)

    def note_in(self, adapter: Path) -> None:
        """Writes into an adapter's configuration which base it needs."""
        if self.need is not None:
            file = adapter / "adapter_config.json"
            config = {**read_json(file), KEY: dict(self.need)}
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            file.write_text(text, encoding="utf-8")


def first_weights(
    name: str, spec: AdapterSpec, context: BuildContext, *, job: str, on_progress: OnProgress
) -> FirstWeights:
    """Works out what an adapter starts as.

    Args:
        name: the adapter's name in the suite.
        spec: with `lora.init` and the path that it is trained on.
        context: base weights and machine.
        job: the job's name, for progress.
        on_progress: called at each stage.

    Raises:
        TrainingError: target modules match nothing, or LoftQ finds no quantised weights.
        WeightsError: the base cannot be built.
    """
    init = spec.lora.init if spec.lora is not None else "default"
    if init == "default" or spec.lora is None or spec.on_path is None:
        return FirstWeights(context)
    if init == "pissa":
        residual = pissa_base(context, spec.lora, name=name, job=job, on_progress=on_progress)
        factors = read_factors(residual.folder)
        need = {
            "init": "pissa",
            "base": context.base.digest,
            "residual": residual.digest,
            "r": spec.lora.r,
            "modules": sorted(factors),
        }
        return FirstWeights(dataclasses.replace(context, base=residual), factors, need)
    last = spec.on_path[-1]
    if not isinstance(last, paths.Quantize):
        raise TrainingError(f"{name}: 'init: loftq' needs quantised weights, as in 'on: nf4'")
    whole, plain = (
        build_variant(path, context, job=job, on_progress=on_progress).model
        for path in (spec.on_path, spec.on_path[:-1])
    )
    need = {"init": "loftq", "quantize": grid_of(last), "words": words_of(last)}
    return FirstWeights(context, quantization_loss(whole, plain, spec.lora.r), need)


def quantization_loss(quantised: torch.nn.Module, plain: torch.nn.Module, rank: int) -> Factors:
    """LoftQ's first weights: the best factors of W − Q, for every quantised layer.

    Args:
        quantised: the model with Q.
        plain: the same before it was quantised.
        rank: of the factors.
    """
    return {
        name: top_factors(matrix_of(plain.get_submodule(name)) - layer_weight(layer).float(), rank)
        for name, layer in quantized_layers(quantised).items()
    }
