"""LoRA adapters: checked against the base before they are attached, then attached with peft."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError
from evalkit.weight_files import read_json
from evalkit.weights.checkpoint import TensorHeader, read_headers
from evalkit.weights.finite import is_finite
from evalkit.weights.loading import auto_class, quiet_libraries, why
from evalkit.weights.qalora import check_pooled, on_group4, require_group4

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
    if config.get("megatron_config") is not None:
        # peft imports the module that `megatron_core` names.
        raise WeightsError(
            f"{folder}: its adapter_config.json has a megatron_config, which names code to import; "
            "such adapters are not attached"
        )
    return config


def check_finite(file: Path) -> None:
    """Refuses a safetensors file with a number that is not finite.

    Raises:
        WeightsError: names the tensor.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dict
                if not is_finite(tensors.get_tensor(name)):
                    raise WeightsError(f"{file}: {name} holds numbers that are not finite")
    except SafetensorError as error:
        raise WeightsError(f"{file}: is no safetensors file: {error}") from error


def attach_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, name: str, *, again: bool = False
) -> tuple[PeftModel, list[str]]:
    """Puts a LoRA adapter on top of a model; those that are attached already stay active.

    Args:
        model: a base, or a base with adapters.
        folder: a checked adapter.
        name: for peft: unique among what is attached.
        again: the adapter was on these weights before. Where its first weights were split off the
            base (peft's own PiSSA, OLoRA, CorDA), peft splits them off whenever it is attached,
            and the base lacks them already.

    Returns:
        The model in eval mode with every adapter active, and peft's warnings.

    Raises:
        WeightsError: peft refuses it, or finds weights missing.
    """
    from peft import PeftConfig, PeftModel

    module_name = name.replace(".", "_")  # peft puts it into module paths
    try:
        with quiet_libraries() as caught:
            config = on_group4(PeftConfig.from_pretrained(str(folder)))
            config.inference_mode = True
            if again:
                config.init_lora_weights = True
            if config.use_qalora:
                require_group4(model, str(folder))
            # Read to a GPU, as peft does by itself, its numbers would be there twice at once.
            if isinstance(model, PeftModel):
                before = list(model.base_model.active_adapters)
                model.add_adapter(module_name, config)
                model.load_adapter(
                    str(folder), adapter_name=module_name, is_trainable=False, torch_device="cpu"
                )
                model.base_model.set_adapter([*before, module_name], inference_mode=True)
            else:
                model = PeftModel.from_pretrained(
                    model, str(folder), adapter_name=module_name, config=config, torch_device="cpu"
                )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:400]
        raise WeightsError(f"{folder}: cannot be attached: {text}") from error
    if config.use_qalora:
        check_pooled(model, module_name, config.qalora_group_size, str(folder))
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


def target_names(
    folder: Path, targets: str | tuple[str, ...], *, trust_remote_code: bool = False
) -> tuple[str, ...]:
    """The whole names of the layers that a suite's target_modules mean, as peft takes them.

    Raises:
        WeightsError: transformers does not know the configuration.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    skeleton = meta_model(folder, trust_remote_code=trust_remote_code)
    head = getattr(skeleton, "get_output_embeddings", lambda: None)()
    return tuple(
        name
        for name, module in skeleton.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and (
            module is not head
            if isinstance(targets, str)
            else any(name == target or name.endswith(f".{target}") for target in targets)
        )
    )


def meta_model(folder: Path, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """Builds a model's skeleton from its configuration: names and shapes, no numbers.

    Raises:
        WeightsError: transformers does not know the configuration.
    """
    import torch
    from transformers import AutoConfig

    try:
        with quiet_libraries(), torch.device("meta"):
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
            skeleton: torch.nn.Module = auto_class(folder).from_config(
                config, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a configuration may hold anything, and its classes check little
        what = f"its config.json is of no language model: {why(error)}"
        raise WeightsError(f"{folder}: {what}") from error
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
    group_size = pooled_group_size(config)
    expected = _expected_shape(match["part"], module, _rank(module_name, config), group_size)
    if match["weight"] == ".bias" or expected is None or tensor.shape == expected:
        return None
    part = match["part"]
    flavour = f" by QA-LoRA in groups of {group_size}" if group_size else ""
    return f"{module_name}: {part} is {_shape(tensor.shape)}, expected {_shape(expected)}{flavour}"


def pooled_group_size(config: dict[str, Any]) -> int | None:
    """The group size of a QA-LoRA adapter by its configuration; None of any other."""
    return int(config.get("qalora_group_size", 0)) or None if config.get("use_qalora") else None


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


def _expected_shape(
    part: str, module: torch.nn.Module, rank: int, group_size: int | None
) -> tuple[int, ...] | None:
    import torch
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, torch.nn.Linear):
        outputs, inputs = module.weight.shape
    elif isinstance(module, Conv1D | torch.nn.Embedding):
        inputs, outputs = module.weight.shape
    else:
        return None
    seen = inputs // group_size if group_size else inputs
    return {
        "lora_A": (rank, seen),
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
