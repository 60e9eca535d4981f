"""Reads a folder's tokenizer, once a process: every variant of a model has the same one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import WeightsError
from evalkit.weight_files import Stamp, stamp
from evalkit.weights.loading import quiet_libraries, why

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = frozenset({".safetensors", ".gguf", ".bin"})


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a folder's tokenizer.

    It is the same object as long as the folder's files stay as they are: copy it to change it.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    small = (f for f in folder.glob("*") if f.suffix not in _WEIGHTS)
    return _load(folder, stamp(small), trust_remote_code)


@functools.lru_cache(maxsize=4)
def _load(folder: Path, state: Stamp, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
    except Exception as error:  # a tokenizer's files may hold anything
        raise WeightsError(f"{folder}: its tokenizer cannot be loaded: {why(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise WeightsError(f"{folder}: holds no tokenizer")
    return tokenizer
