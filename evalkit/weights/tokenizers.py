"""Reads a folder's tokenizer, once a process: every variant of a model has the same one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import WeightsError
from evalkit.weights.loading import quiet_libraries, why

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = frozenset({".safetensors", ".gguf", ".bin"})
_Stamp = tuple[tuple[str, int, int], ...]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a folder's tokenizer.

    It is the same object as long as the folder's files stay as they are: copy it to change it.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    return _load(folder, _stamp(folder), trust_remote_code)


@functools.lru_cache(maxsize=4)
def _load(folder: Path, stamp: _Stamp, trust_remote_code: bool) -> PreTrainedTokenizerBase:
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


def _stamp(folder: Path) -> _Stamp:
    """What tells one state of the folder's small files from another."""
    if not folder.is_dir():
        return ()
    files = sorted(file for file in folder.iterdir() if file.suffix not in _WEIGHTS)
    stats = ((file.name, file.stat()) for file in files if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
