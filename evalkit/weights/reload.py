"""Does what is in memory score as what is saved and loaded again? A check of 512 tokens."""

from __future__ import annotations

import gc
import math
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit import paths
from evalkit.records import Float64s, OnProgress, Progress
from evalkit.records.integrity import Finding
from evalkit.weights import loading, quantization
from evalkit.weights.adapters import attach_adapter
from evalkit.weights.building import BuildContext, BuiltVariant
from evalkit.weights.folders import written_aside

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.scoring.windows import TokenIds


RELOAD = "reload"
"""The check's name."""
PROBE_TOKENS = 512
RELOAD_TOLERANCE = 1e-3
"""Mean absolute difference of token losses, in nats, under which two models score the same. The
same weights on the same kernels differ by nothing at all."""


def needs_reload_check(path: paths.Path) -> bool:
    """Whether something happened to a variant's weights after they were read."""
    return any(not isinstance(step, paths.Load) for step in path)


def check_reload(
    built: BuiltVariant, context: BuildContext, *, job: str, on_progress: OnProgress
) -> Finding:
    """Saves a variant, loads it again, and compares what both make of 512 tokens.

    Anything that makes the model in memory another one than its files shows here: weights that a
    library rearranges in place, states that are not saved. To be called last, when everything else
    has been done with the model: saving it may change it, and to spare the memory of a second one
    **the model is given up**.

    Args:
        built: `built.model` must not be used afterwards.
        context: what it was built with.
        job: the job's name, for progress.
        on_progress: told that it is checked.

    Raises:
        WeightsError: the disk is full, or what was saved cannot be loaded.
    """
    on_progress(Progress(job, "reload", 0, None))
    started = time.perf_counter()
    repacked = len(quantization.repacked_layers(built.model))
    before = probe_losses(built.model, built.tokenizer)
    scratch = context.cache / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "saved"
        try:
            _save_and_give_up(built, folder)
        except (NotImplementedError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            return Finding(RELOAD, False, f"could not be checked, for it cannot be saved: {reason}")
        model = _reload(built, context, folder)
        after = probe_losses(model, built.tokenizer)
    apart = float(np.abs(after - before).mean())
    ok = math.isfinite(apart) and apart <= RELOAD_TOLERANCE
    seconds = time.perf_counter() - started
    how = f"differ by {apart:.1e} nats on average" if apart else "are the same"
    message = (
        f"token losses in memory and after saving and loading {how}, over {len(before)} tokens "
        f"({seconds:.1f} s)"
    )
    if not ok:
        message += "; what was scored is not what its files say"
    if repacked:
        message += f"; bitsandbytes has rearranged {repacked} layers in place (its issue 2078)"
    return Finding(RELOAD, ok, message, severe=True)


def probe_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Float64s:
    """Losses of the first 512 tokens of a text that every Python carries, in nats."""
    from evalkit.scoring.forward import score_windows
    from evalkit.scoring.tokens import prefix_token
    from evalkit.scoring.windows import Place, Window, document_windows

    ids = probe_ids(tokenizer)
    if getattr(model.config, "is_encoder_decoder", False):
        half = len(ids) // 2
        windows = [Window(ids[:half], ids[half:], 0, half, 0)]
    else:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        length = min(PROBE_TOKENS, positions or PROBE_TOKENS)
        prefix = prefix_token(tokenizer)
        windows = list(document_windows(ids, Place(0, 0), prefix=prefix, max_length=length))
    batches = score_windows(model, windows, batch_tokens=PROBE_TOKENS)
    scored = dict(chain.from_iterable(batches))
    losses = [scored[index].losses for index in range(len(windows))]
    return np.concatenate(losses).astype(np.float64)


def probe_ids(tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """The first 512 tokens of a text that every Python carries."""
    from pydoc_data.topics import topics

    from evalkit.scoring.tokens import tokenize

    text = "\n\n".join(topics[name] for name in sorted(topics))[: 40 * PROBE_TOKENS]
    return tokenize(tokenizer, text, special=False).ids[:PROBE_TOKENS]


def _save_and_give_up(built: BuiltVariant, folder: Path) -> None:
    from peft import PeftModel

    model: Any = built.model
    base = model.unload() if isinstance(model, PeftModel) else model
    base._weight_conversions = None  # what reading a 4-bit checkpoint did; backwards it fails
    with written_aside(folder, lasting=False) as aside, loading.quiet_libraries():
        base.save_pretrained(aside)
    built.model = None
    del model, base
    gc.collect()


def _reload(built: BuiltVariant, context: BuildContext, folder: Path) -> PreTrainedModel:
    model: Any = loading.load_model(
        folder,
        dtype=loading.torch_dtype(built.facts["effective_dtype"]),
        device_map=context.device_map or {"": "cpu" if context.device == "cpu" else 0},
        trust_remote_code=context.trust_remote_code,
    )
    for number, adapter in enumerate(built.attached):
        model, _ = attach_adapter(model, adapter, f"adapter{number}", again=True)
    reloaded: PreTrainedModel = model.eval()
    return reloaded
