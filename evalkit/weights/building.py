"""What a variant is built with, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.paths import Path as VariantPath
from evalkit.sources import WeightsSource

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BuildContext:
    """What building needs besides the path. Plain data: it goes to worker processes."""

    base: WeightsSource
    adapters: Mapping[str, Path]
    """Folder of each adapter, by the suite's name for it."""
    full: frozenset[str]
    """Those of them that are whole fine-tuned models."""
    cache: Path
    device: Literal["cpu", "cuda"]
    device_map: str | None
    effective_dtypes: Mapping[str, str]
    """What a path's dtype is really computed in here: {"fp16": "bf16", ...}."""
    trust_remote_code: bool = False
    shared: Mapping[VariantPath, Path] = field(default_factory=dict)
    """Where the weights at the end of a beginning that several variants share are kept, once the
    first of them has made them."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Of the LoRA adapters, as far as the suite says."""
    gpus: int | None = None
    """Over how many `device_map` spreads the model; None for all that the process sees."""


@dataclass
class BuiltVariant:
    """A model at the end of its path, in eval mode, with what there is to say about it."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, Any]
    folder: Path
    """The base weights that the path started from."""
    kept: Path | None
    """A kept checkpoint of them as the path's first `quantize` stores them, if there is one."""
    attached: tuple[Path, ...] = ()
    """Folders of the adapters that are on top and not merged."""
