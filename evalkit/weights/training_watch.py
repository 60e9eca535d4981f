"""Follows a training: tells its progress, keeps its losses, stops at one that is not finite."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from evalkit.errors import TrainingError
from evalkit.records import OnProgress, Progress

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback
    from trl import SFTTrainer


class TrainingWatch:
    """What the trainer logs, step by step.

    Args:
        job: the job's name, for progress and errors.
        on_progress: called after every step.
    """

    def __init__(self, job: str, on_progress: OnProgress) -> None:
        self.job = job
        self.on_progress = on_progress
        self.losses: list[tuple[int, float]] = []
        self.tokens = 0
        self.epochs = 0.0
        self.started = time.perf_counter()
        self.total: int | None = None
        self.dtypes: dict[str, torch.dtype] = {}

    def expect(self, trainer: SFTTrainer) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()
        self.total = trainer.args.max_steps if trainer.args.max_steps > 0 else None
        self.dtypes = {name: p.dtype for name, p in trainer.model.named_parameters()}
        self.on_progress(Progress(self.job, "train", 0, self.total, "steps"))

    def callback(self) -> TrainerCallback:
        """What transformers calls."""
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                watch.total = state.max_steps
                watch.restore_dtypes(given["model"], given["optimizer"])

            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
            ) -> None:
                watch.look(state.global_step, logs or {})

        return Callback()

    def restore_dtypes(self, model: Any, optimizer: Any) -> None:
        """Undoes that peft reads the adapters of a checkpoint as float32, whatever they were."""
        for name, parameter in model.named_parameters():
            dtype = self.dtypes[name]
            if parameter.dtype == dtype:
                continue
            parameter.data = parameter.data.to(dtype)
            moments = optimizer.state[parameter]
            for key in moments.keys() - {"step"}:
                moments[key] = moments[key].to(dtype)

    def look(self, step: int, logs: dict[str, Any]) -> None:
        """Takes what the trainer logged after a step.

        Raises:
            TrainingError: the loss or the gradient's norm is not finite.
        """
        if "loss" not in logs:
            return
        for what in ("loss", "grad_norm"):
            value = float(logs.get(what, 0.0))
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self.job}: {what.replace('grad_norm', 'the norm of the gradient')} is "
                    f"{value} at step {step}. Lower learning_rate, or lengthen warmup"
                )
        loss = float(logs["loss"])
        self.losses.append((step, loss))
        seen = logs.get("num_tokens", logs.get("num_input_tokens_seen", self.tokens))
        self.tokens = int(seen)
        self.epochs = float(logs.get("epoch", self.epochs))
        speed = self.tokens / max(time.perf_counter() - self.started, 1e-9)
        detail = f"loss {loss:.3f}, {speed:,.0f} tokens/s"
        self.on_progress(Progress(self.job, "train", step, self.total, "steps", detail))

    def facts(self) -> dict[str, Any]:
        """What is worth keeping of it."""
        seconds = time.perf_counter() - self.started
        return {
            "steps": self.losses[-1][0] if self.losses else 0,
            "losses": self.losses,
            "tokens": self.tokens,
            "epochs": round(self.epochs, 4),
            "training_seconds": round(seconds, 3),
            "tokens_per_second": round(self.tokens / max(seconds, 1e-9), 1),
        }
