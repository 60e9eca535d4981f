"""Turns a suite's LoRA and training fields into those of peft and trl."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import TrainingError
from evalkit.suite import LoraSpec, TrainingSpec
from evalkit.weights.adapters import linear_names
from evalkit.weights.group4 import is_group4
from evalkit.weights.qalora import on_group4

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from trl import SFTConfig


def lora_config(name: str, spec: LoraSpec, model: torch.nn.Module) -> LoraConfig:
    """Turns a suite's LoRA fields into peft's.

    Raises:
        TrainingError: a target module that the model does not have (names those that it has), or
            a flavour that the weights do not take.
    """
    from peft import LoraConfig

    targets: str | list[str]
    if isinstance(spec.target_modules, str):
        targets = spec.target_modules
    else:
        targets = list(spec.target_modules)
        check_targets(name, targets, model)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=targets,
        bias=spec.bias,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        task_type="SEQ_2_SEQ_LM" if _has_encoder(model) else "CAUSAL_LM",
    )
    if spec.flavour == "qa-lora":
        config.use_qalora, config.qalora_group_size = True, _group_size(name, model)
    return on_group4(config)


def _has_encoder(model: Any) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _group_size(name: str, model: torch.nn.Module) -> int:
    modules: Iterable[Any] = model.modules()
    sizes = {int(layer.group_size) for layer in modules if is_group4(layer)}
    if not sizes:
        raise TrainingError(
            f"{name}: 'flavour: qa-lora' needs weights in groups: train it 'on: group4'"
        )
    (size,) = sizes
    return size


def check_targets(name: str, targets: list[str], model: torch.nn.Module) -> None:
    """Refuses target modules that match no layer. peft would train the others and say nothing.

    Raises:
        TrainingError: lists the layers that there are.
    """
    modules = [module_name for module_name, _ in model.named_modules()]
    lost = [
        target
        for target in targets
        if not any(module == target or module.endswith(f".{target}") for module in modules)
    ]
    if lost:
        known = ", ".join(linear_names(model))
        raise TrainingError(
            f"{name}: target_modules: {', '.join(map(repr, lost))} is in no layer of this "
            f"{type(model).__name__}. Its linear layers are: {known} (or say all-linear)"
        )


def sft_config(
    training: TrainingSpec, *, device: str, dtype: str, quantised: bool, folder: Path
) -> SFTConfig:
    """Turns a suite's training fields into trl's.

    Args:
        training: the fields.
        device: "cpu" or "cuda".
        dtype: what the base is computed in: "fp32", "bf16", "fp16".
        quantised: whether the base is.
        folder: for the trainer's checkpoints.

    Raises:
        ValueError: the libraries refuse a field.
    """
    from trl import SFTConfig

    mixed = _mixed_precision(device, dtype, quantised=quantised)
    return SFTConfig(
        output_dir=str(folder),
        max_steps=training.steps if training.steps is not None else -1,
        num_train_epochs=training.epochs if training.epochs is not None else 3.0,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        learning_rate=training.learning_rate,
        max_length=training.max_length,
        optim=training.optimizer,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        packing=training.packing,
        packing_strategy="bfd_split",
        completion_only_loss=training.completion_only,
        save_strategy="no" if training.save_steps is None else "steps",
        save_steps=training.save_steps or 500,
        save_total_limit=2,
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=device == "cpu",
        bf16=mixed == "bf16",
        fp16=mixed == "fp16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=device == "cuda",
    )


def _mixed_precision(device: str, dtype: str, *, quantised: bool) -> str | None:
    """What matrix products of a training run in, beside float32; None for float32 alone.

    bfloat16 wherever there is hardware for it, also on float16 weights: it needs no loss scaling,
    which would fail on the bfloat16 adapters that trl makes for quantised weights.
    """
    import torch

    if dtype == "fp32":
        return None
    if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return None if quantised else "fp16"
