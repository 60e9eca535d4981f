"""LoRA adapters: checked against the base before they are attached, then attached with peft."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError
from evalkit.weights.checkpoint import TensorHeader, read_headers, read_json
from evalkit.weights.loading import quiet_libraries

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?P<weight>\.weight|\.bias)?$"
)


def check_adapter(folder: Path, base_folder: Path, *, trust_remote_code: bool = False) -> None:
    """Checks that a LoRA adapter belongs on a base, before anything is loaded.

    The base's shapes come from its configuration, on torch's meta device: no memory is taken.

    Raises:
        WeightsError: the folder holds no LoRA adapter; it names a module that the base does not
            have; a shape does not fit (module, found and expected are named); a number is not
            finite.
    """
    config = read_adapter_config(folder)
    tensors_file = folder / "adapter_model.safetensors"
    if not tensors_file.is_file():
        raise WeightsError(
            f"{folder}: holds no adapter_model.safetensors. Pickled adapters (.bin) are not read: "
            "load it with peft where you trust it and save it again with save_pretrained"
        )
    tensors = read_headers(tensors_file)
    if not any(".lora_" in name for name in tensors):
        raise WeightsError(f"{tensors_file}: holds no LoRA weights")
    skeleton = meta_model(base_folder, trust_remote_code=trust_remote_code)
    for name, tensor in tensors.items():
        problem = _misfit(name, tensor, skeleton, config)
        if problem:
            raise WeightsError(f"{folder}: does not fit {base_folder}: {problem}")
    check_finite(tensors_file)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Reads an adapter's configuration.

    Raises:
        WeightsError: there is none, or it is no LoRA adapter's.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise WeightsError(
            f"{folder}: holds no adapter: adapter_config.json is missing. An adapter is a folder "
            "as peft's save_pretrained writes it"
        )
    config = read_json(file)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise WeightsError(f"{folder}: is a peft adapter of type {kind}; only LORA can be attached")
    return config


def check_finite(file: Path) -> None:
    """Refuses a safetensors file with a number that is not finite.

    Raises:
        WeightsError: names the tensor.
    """
    import torch
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no dict
            if not torch.isfinite(tensors.get_tensor(name)).all():
                raise WeightsError(f"{file}: {name} holds numbers that are not finite")


def attach_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, name: str
) -> tuple[PeftModel, list[str]]:
    """Puts a LoRA adapter on top of a model; those that are attached already stay active.

    Args:
        model: a base, or a base with adapters.
        folder: a checked adapter.
        name: for peft: unique among what is attached.

    Returns:
        The model in eval mode with every adapter active, and peft's warnings.

    Raises:
        WeightsError: peft refuses it, or finds weights missing.
    """
    from peft import PeftModel

    module_name = name.replace(".", "_")  # peft puts it into module paths
    try:
        with quiet_libraries() as caught:
            if isinstance(model, PeftModel):
                before = list(model.base_model.active_adapters)
                model.load_adapter(str(folder), adapter_name=module_name, is_trainable=False)
                model.base_model.set_adapter([*before, module_name], inference_mode=True)
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=module_name)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder}: cannot be attached: {error}") from error
    missing = [warning for warning in caught if "missing adapter keys" in warning]
    if missing:
        raise WeightsError(f"{folder}: is not whole: {missing[0][:300]}")
    return model.eval().requires_grad_(False), caught


def linear_names(model: torch.nn.Module) -> list[str]:
    """The last parts of the names of the layers that LoRA can go on, without the output layer."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        }
    )


def meta_model(folder: Path, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Builds a model's skeleton from its configuration: names and shapes, no numbers.

    Raises:
        WeightsError: transformers does not know the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet_libraries(), torch.device("meta"):
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
            skeleton: torch.nn.Module = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust_remote_code
            )
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise WeightsError(
            f"{folder}: its config.json is of no causal language model: {error}"
        ) from error
    return skeleton


def _misfit(
    name: str, tensor: TensorHeader, skeleton: torch.nn.Module, config: dict[str, Any]
) -> str | None:
    """Says why one tensor of an adapter does not go on the base, or None when it does."""
    match = _TENSOR.match(name)
    if match is None:
        return _misfit_whole(name, tensor, skeleton)
    module_name = match["module"].removeprefix(_PREFIX)
    try:
        module = skeleton.get_submodule(module_name)
    except AttributeError:
        return f"the base has no module {module_name}"
    expected = _expected_shape(match["part"], module, _rank(module_name, config))
    if match["weight"] == ".bias" or expected is None or tensor.shape == expected:
        return None
    part = match["part"]
    return f"{module_name}: {part} is {_shape(tensor.shape)}, expected {_shape(expected)}"


def _misfit_whole(name: str, tensor: TensorHeader, skeleton: torch.nn.Module) -> str | None:
    """The same for a parameter that an adapter replaces (a bias, `modules_to_save`)."""
    parameter_name = name.removeprefix(_PREFIX)
    try:
        expected = tuple(skeleton.get_parameter(parameter_name).shape)
    except AttributeError:
        return f"the base has no parameter {parameter_name}"
    if tensor.shape == expected:
        return None
    return f"{parameter_name} is {_shape(tensor.shape)}, expected {_shape(expected)}"


def _expected_shape(part: str, module: torch.nn.Module, rank: int) -> tuple[int, ...] | None:
    import torch
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, torch.nn.Linear):
        outputs, inputs = module.weight.shape
    elif isinstance(module, Conv1D | torch.nn.Embedding):
        inputs, outputs = module.weight.shape
    else:
        return None
    return {
        "lora_A": (rank, inputs),
        "lora_B": (outputs, rank),
        "lora_embedding_A": (rank, inputs),
        "lora_embedding_B": (outputs, rank),
        "lora_magnitude_vector": (outputs,),
    }[part]


def _rank(module_name: str, config: dict[str, Any]) -> int:
    """The rank that an adapter's configuration gives a module."""
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module_name):
            return int(rank)
    return int(config.get("r", 0))


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
