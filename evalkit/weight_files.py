"""Which files of a folder make a model's or an adapter's numbers, and which are not read at all.

Only safetensors are read; a pickle can run code. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalkit.errors import WeightsError

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
OTHER_PATTERNS = (
    "config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model",
    "added_tokens.json", "chat_template*", "generation_config.json", "*.py",
)  # fmt: skip
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
Stamp = tuple[tuple[str, int, int, int], ...]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_files(folder: Path) -> list[Path]:
    """The files that make a model's numbers, sorted.

    Raises:
        WeightsError: the folder has no safetensors, or a file is a link that leads out of it.
    """
    found = {
        file
        for pattern in (*WEIGHT_PATTERNS, *OTHER_PATTERNS)
        for file in folder.glob(pattern)
        if file.is_file()
    }
    refuse_links_out(folder, sorted(found))
    if not any(file.suffix == ".safetensors" for file in found):
        raise WeightsError(f"{folder}: has no .safetensors file{how_to_convert(folder)}")
    return sorted(found)


def how_to_convert(folder: Path) -> str:
    """The end of an error about a folder without safetensors: what to do with its pickles."""
    pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if not pickled:
        return ""
    return (
        f"; {pickled[0]} is a pickle, which can run code when it is read. Convert it where you "
        "trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def refuse_links_out(folder: Path, files: list[Path]) -> None:
    """Refuses links that lead out of a folder: whoever made it would choose what is read here.

    The hub's cache is made of links, from a snapshot to the blobs of the same repository.

    Raises:
        WeightsError: names the link and where it leads.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":
        root = root.parent.parent
    for file in files:
        target = file.resolve()
        if not target.is_relative_to(root):
            raise WeightsError(
                f"{file}: is a link that leads out of the folder, to {target}. Copy the file "
                "into the folder, or name the folder that it lies in"
            )


def stamp(files: Iterable[Path]) -> Stamp:
    """What tells one state of some files from another without reading them; not there is nothing.

    For what is kept in memory as long as its files stay as they are.
    """
    found = ((file.name, file.stat()) for file in sorted(files) if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found)


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: the file is not there, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: is not a JSON object")
    return content
