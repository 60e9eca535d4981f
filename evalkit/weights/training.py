"""Fine-tunes an adapter, or a whole model, with trl's SFTTrainer."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import paths
from evalkit.errors import EvalkitError, TrainingError
from evalkit.records import Corpus, OnProgress, Progress
from evalkit.suite import AdapterSpec, LoraSpec, TrainingSpec
from evalkit.weights import loading, quantization
from evalkit.weights.adapters import check_finite
from evalkit.weights.building import BuildContext, BuiltVariant
from evalkit.weights.checkpoint import stored_dtype
from evalkit.weights.first_weights import first_weights
from evalkit.weights.folders import is_disk_full, written_aside
from evalkit.weights.memory import PeakMemory
from evalkit.weights.qalora import check_pooled
from evalkit.weights.steps import build_variant
from evalkit.weights.training_checkpoints import last_whole_checkpoint, sealing
from evalkit.weights.training_config import lora_config, sft_config
from evalkit.weights.training_data import training_dataset
from evalkit.weights.training_pairs import pairs_dataset, pairs_trainer
from evalkit.weights.training_watch import TrainingWatch

if TYPE_CHECKING:
    from trl import SFTTrainer


def train_adapter(
    name: str,
    spec: AdapterSpec,
    corpus: Corpus,
    context: BuildContext,
    *,
    out: Path,
    job: str,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Fine-tunes on a fresh model at the end of `spec.on_path` and saves what was learnt.

    The model in memory is thrown away: what is scored later is built from the saved adapter. An
    interrupted training that kept checkpoints (`save_steps`) goes on from the last one.

    Args:
        name: the adapter's name in the suite.
        spec: what to train, on what, and how.
        corpus: the documents to train on.
        context: base weights and machine.
        out: the folder to be; written whole or not at all.
        job: the job's name, for progress.
        on_progress: called after every step.

    Returns:
        Facts: `steps`, `losses` (pairs of step and loss), `tokens`, `epochs`, `seconds`,
        `tokens_per_second`, `trainable_parameters`, `peak_resident_bytes`, `peak_device_bytes`,
        `effective_dtype`, `source_precision`, `notes`.

    Raises:
        TrainingError: nothing to train on, target modules that do not exist, a field that the
            libraries refuse, or a loss that is not finite (the step is named).
        WeightsError: the base cannot be built.
    """
    if spec.training is None or spec.on_path is None:
        raise TrainingError(f"{name}: has no recipe (on, data, training)")
    started = time.perf_counter()
    watch = TrainingWatch(job, on_progress)
    with PeakMemory() as memory:
        first = first_weights(name, spec, context, job=job, on_progress=on_progress)
        recipe = _Recipe(name, spec.on_path, spec.lora, spec.training, corpus, first.context)
        built = _build_base(recipe, job=job, on_progress=on_progress)
        on_progress(Progress(job, "read documents", 0, None))
        with _scratch(out, spec.training) as scratch, _one_line_errors(name):
            trainer = _make_trainer(recipe, built, scratch)
            first.put_into(trainer.model, name)
            trainer.add_callback(watch.callback())
            trainable = _count_trainable(trainer.model)
            watch.expect(trainer)
            trainer.add_callback(sealing())
            _train(trainer, last_whole_checkpoint(scratch, context.cache))
        with written_aside(out, sealed=True) as aside:
            _save(trainer, recipe, built, aside)
            first.note_in(aside)
    return {
        **watch.facts(),
        "seconds": round(time.perf_counter() - started, 3),
        "trainable_parameters": trainable,
        "peak_resident_bytes": memory.resident_bytes,
        "peak_device_bytes": memory.device_bytes,
        "effective_dtype": recipe.dtype(built),
        "source_precision": built.facts["source_precision"],
        "notes": recipe.notes(built),
    }


@dataclass(frozen=True)
class _Recipe:
    """What is trained, on what, and how."""

    name: str
    on_path: paths.Path
    lora: LoraSpec | None
    training: TrainingSpec
    corpus: Corpus
    context: BuildContext

    @property
    def full(self) -> bool:
        return self.training.method == "full"

    def dtype(self, built: BuiltVariant) -> str:
        """What the model's matrix products run in, and what a whole model is saved in."""
        load = self.on_path[0]
        if not self.full or not isinstance(load, paths.Load):
            return str(built.facts["effective_dtype"])
        named = stored_dtype(built.folder) if load.dtype == "auto" else load.dtype
        return self.context.effective_dtypes.get(named, named)

    def notes(self, built: BuiltVariant) -> list[str]:
        if self.full:
            return [
                f"trained in fp32 with {self.dtype(built)} products, saved in {self.dtype(built)}"
            ]
        return list(built.facts["notes"])


# ----------------------------------------------------------------------------- the model


def _build_base(recipe: _Recipe, *, job: str, on_progress: OnProgress) -> BuiltVariant:
    context = recipe.context
    if recipe.full:
        # Steps of full fine-tuning are smaller than 16-bit weights can take: float32 collects them.
        context = dataclasses.replace(
            context, effective_dtypes=dict.fromkeys(("fp32", "bf16", "fp16"), "fp32")
        )
    built = build_variant(recipe.on_path, context, job=job, on_progress=on_progress)
    if recipe.full and quantization.quantized_layers(built.model):
        raise TrainingError(f"{recipe.name}: quantised weights cannot be trained whole; use lora")
    quantization.refuse_repacked(built.model, "train")
    built.tokenizer = copy.deepcopy(built.tokenizer)  # trl changes it, and variants share theirs
    return built


# ----------------------------------------------------------------------------- the trainer


def _make_trainer(recipe: _Recipe, built: BuiltVariant, scratch: Path) -> SFTTrainer:
    _reset_accelerate()
    from transformers import PrinterCallback
    from trl import SFTTrainer

    model: Any = built.model
    model.config.use_cache = False
    model.requires_grad_(recipe.full)
    peft_config = None
    if not recipe.full:
        peft_config = lora_config(recipe.name, recipe.lora or LoraSpec(), model)
    with loading.quiet_libraries():
        args = sft_config(
            recipe.training,
            device=recipe.context.device,
            dtype=recipe.dtype(built),
            quantised=bool(quantization.quantized_layers(model)),
            folder=scratch,
        )
        if model.config.is_encoder_decoder:
            tokenizer = built.tokenizer
            pairs = pairs_dataset(recipe.name, recipe.corpus, recipe.training, tokenizer)
            trainer = pairs_trainer(model, args, pairs, tokenizer, peft_config)
        else:
            trainer = SFTTrainer(
                model=model,
                args=args,
                train_dataset=training_dataset(recipe.name, recipe.corpus, recipe.training),
                processing_class=built.tokenizer,
                peft_config=peft_config,
            )
    if peft_config is not None:
        _train_in_float32(trainer.model, recipe.dtype(built))
        if peft_config.use_qalora:
            check_pooled(trainer.model, "default", peft_config.qalora_group_size, recipe.name)
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) == 0:
        raise TrainingError(f"{recipe.name}: no document has a token to learn in max_length tokens")
    return trainer


def _train_in_float32(model: Any, dtype: str) -> None:
    """Takes back that trl makes adapters of quantised weights bfloat16, where nothing else is.

    A CPU without bfloat16 takes many times as long for it as for float32 (benchmarks/training.py).
    """
    if dtype == "fp32":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def _reset_accelerate() -> None:
    """Lets a training in this process choose another device or precision than the last one did."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def _train(trainer: SFTTrainer, checkpoint: str | None) -> None:
    with loading.quiet_libraries():
        trainer.train(resume_from_checkpoint=checkpoint)


def _save(trainer: SFTTrainer, recipe: _Recipe, built: BuiltVariant, folder: Path) -> None:
    """Saves an adapter, or a whole model with its tokenizer, in safetensors."""
    model: Any = trainer.model
    with loading.quiet_libraries():
        if recipe.full:
            model.config.use_cache = True
            dtype = loading.torch_dtype(recipe.dtype(built))
            model.to(dtype).save_pretrained(folder)
            built.tokenizer.save_pretrained(folder)
        else:
            model.peft_config["default"].base_model_name_or_path = recipe.context.base.origin
            # "auto" would ask the hub whether the vocabulary has grown.
            model.save_pretrained(folder, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # names this machine's folders
            _sort_targets(folder / "adapter_config.json")
    for file in folder.glob("*.safetensors"):
        check_finite(file)


def _sort_targets(file: Path) -> None:
    """Puts the target modules in order: peft writes a set, which would digest anew every time."""
    config = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _count_trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def _scratch(out: Path, training: TrainingSpec) -> Iterator[Path]:
    """The trainer's folder: kept for going on where checkpoints are asked for, else temporary."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if training.save_steps is None:
        # Named as what `written_aside` makes: what a kill leaves is deleted by the next training.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            yield Path(folder)
        return
    folder_kept = out.with_name(f"{out.name}.checkpoints")
    folder_kept.mkdir(exist_ok=True)
    yield folder_kept
    shutil.rmtree(folder_kept, ignore_errors=True)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except EvalkitError:
        raise
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        if is_disk_full(error):
            raise
        text = " ".join(str(error).split())[:400]
        raise TrainingError(f"{name}: training failed: {type(error).__name__}: {text}") from error
