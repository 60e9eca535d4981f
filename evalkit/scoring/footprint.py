"""Cost beside quality: bytes in memory and on the disk, parameters, load time, tokens a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit import paths
from evalkit.records import COSTS, OnProgress, Progress, Score
from evalkit.records.footprint import Footprint
from evalkit.scoring.pairs import greedy_answer, reads_pairs
from evalkit.scoring.samples import greedy_tokens
from evalkit.weights import quantization
from evalkit.weights.adapters import meta_model
from evalkit.weights.building import BuildContext, BuiltVariant
from evalkit.weights.checkpoint import checkpoint_headers, read_headers
from evalkit.weights.memory import PeakMemory
from evalkit.weights.reload import probe_ids, probe_losses
from evalkit.weights.torchao import inner_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "footprint"
DECODED_TOKENS = 24
"""Written at most."""
_DECODING_SECONDS = 2.0
"""What decoding may take about: layers that are expanded for each token need a second for three."""
_PROMPT_TOKENS = 16


def measure_footprint(
    path: paths.Path,
    built: BuiltVariant,
    context: BuildContext,
    *,
    job: str,
    on_progress: OnProgress,
    scoring_tokens_per_second: float | None = None,
    peak: PeakMemory | None = None,
) -> Footprint:
    """Measures what a variant costs.

    Decoding goes on from a fixed prompt, one token at a time, for 24 of them or about two
    seconds, after two that are not counted.

    Args:
        path: the variant's, for the adapters on it.
        built: the variant; left as it is.
        context: what it was built with.
        job: the job's name, for progress.
        on_progress: told that it is measured.
        scoring_tokens_per_second: as a perplexity measured it; else 512 tokens are scored.
        peak: what was watched while it was built and scored.

    Raises:
        WeightsError: an adapter's file is damaged, or weights are rearranged in memory.
    """
    on_progress(Progress(job, PHASE, 0, None))
    adapters = [context.adapters[step.adapter] for step in path if isinstance(step, paths.Attach)]
    speed = scoring_tokens_per_second or _scoring_speed(built)
    base = meta_model(built.folder, trust_remote_code=context.trust_remote_code)
    return Footprint(
        memory_bytes=int(built.facts["weight_bytes"]),
        disk_bytes=disk_bytes(built.model, built.attached),
        parameters=sum(parameter.numel() for parameter in base.parameters()),
        trainable_parameters=sum(map(trainable_parameters, adapters)),
        load_seconds=float(built.facts["load_seconds"]),
        scoring_tokens_per_second=speed,
        decode_tokens_per_second=_decoding_speed(built),
        peak_resident_bytes=peak.resident_bytes if peak else 0,
        peak_device_bytes=peak.device_bytes if peak else 0,
    )


def disk_bytes(model: Any, attached: Sequence[Path] = ()) -> int:
    """Bytes of a variant's weights as they are saved: each tensor once, adapters in their files.

    Raises:
        WeightsError: weights are rearranged in memory, and asking for them would damage them.
    """
    quantization.refuse_repacked(model, "count bytes")
    tensors: dict[tuple[int, int], int] = {}
    for name, whole in model.state_dict().items():
        for tensor in () if ".lora_" in name else inner_tensors(whole):
            size = tensor.numel() * tensor.element_size()
            tensors[(tensor.data_ptr(), size)] = size
    adapters = sum((folder / "adapter_model.safetensors").stat().st_size for folder in attached)
    return sum(tensors.values()) + adapters


def trainable_parameters(adapter: Path) -> int:
    """How many weights an adapter's folder holds; of a whole fine-tuned model all of them."""
    file = adapter / "adapter_model.safetensors"
    headers = read_headers(file) if file.is_file() else checkpoint_headers(adapter)
    return sum(int(np.prod(tensor.shape)) for tensor in headers.values())


def footprint_scores(footprint: Footprint) -> Mapping[str, Score]:
    """What gates may limit, by the names of `COSTS`: measured, not sampled, so without units.

    The device's peak where there is one, else the process's. What is counted and gates nothing
    (parameters, and bits for each of them) goes with `disk`.
    """
    measured = {
        "disk": footprint.disk_bytes,
        "memory": footprint.memory_bytes,
        "peak_memory": footprint.peak_device_bytes or footprint.peak_resident_bytes,
        "load_seconds": footprint.load_seconds,
        "scoring_speed": footprint.scoring_tokens_per_second,
        "decode_speed": footprint.decode_tokens_per_second,
    }
    counted = {
        "parameters": float(footprint.parameters),
        "trainable_parameters": float(footprint.trainable_parameters),
        "trainable_share": footprint.trainable_share,
        "bits_per_weight": footprint.bits_per_weight,
    }
    return {
        metric: Score(
            metric=metric,
            kind="mean",
            value=float(value),
            stderr=None,
            unit=COSTS[metric].unit,
            higher_is_better=COSTS[metric].higher_is_better,
            unit_ids=(),
            clusters=(),
            sums=np.zeros(0),
            counts=np.zeros(0),
            extra=counted if metric == "disk" else {},
        )
        for metric, value in measured.items()
        if value
    }


def _scoring_speed(built: BuiltVariant) -> float:
    started = time.perf_counter()
    tokens = len(probe_losses(built.model, built.tokenizer))
    return tokens / max(time.perf_counter() - started, 1e-9)


def _decoding_speed(built: BuiltVariant) -> float:
    model: PreTrainedModel = built.model
    prompt = probe_ids(built.tokenizer)[:_PROMPT_TOKENS].tolist()
    write = greedy_answer if reads_pairs(model) else greedy_tokens
    started = time.perf_counter()
    write(model, prompt, stops=frozenset(), limit=2)
    warm = time.perf_counter()
    limit = round(2 * _DECODING_SECONDS / max(warm - started, 1e-9))
    limit = min(max(limit, 2), DECODED_TOKENS)
    tokens = write(model, prompt, stops=frozenset(), limit=limit)
    return len(tokens) / max(time.perf_counter() - warm, 1e-9)
