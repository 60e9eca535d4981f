"""What both sides of field.py score: the documents, the adapter, and evalkit's suite of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import ROOT, run_process

from evalkit.corpora import load_corpus
from evalkit.machine import default_cache, detect_machine
from evalkit.runner import plan_suite
from evalkit.running.options import RunOptions
from evalkit.sources import resolve_weights, trained_adapter_folder
from evalkit.suite import load_suite
from evalkit.weights.loading import prepare_base
from evalkit.weights.tokenizers import load_tokenizer

QUICKSTART = ROOT / "suites" / "quickstart.yaml"
VARIANTS = (
    "fp16",
    "nf4",
    "nf4+adapter",
    "merged-4bit",
    "dequant-merged",
    "requantized",
    "fp16-merged-nf4",
)
ADDED = "fp16-merged"
EXACT = {"fp32": [{"load": "fp32"}]}
LENGTH, CHUNKS = 256, 8
"""Tokens of a window and of a chunk; how many chunks."""
CHUNK_TARGETS = LENGTH // 2 - 1
TASK = "blimp_pairs"


@dataclass(frozen=True)
class Work:
    """What is scored, and where it lies."""

    folder: Path
    base: Path
    adapter: Path
    documents: Path
    dtype: str
    """torch's name for what fp16 means on this machine."""
    pairs: int
    """BLiMP pairs; 0 without the data."""
    n_tokens: int
    """Of input, for each variant, without the task's."""
    sentences: tuple[int, ...]
    """Tokens of each of the task's sentences."""
    n_scored: Mapping[str, int]
    """Tokens that each perplexity scores, by its name."""

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks"

    @property
    def sizes(self) -> Mapping[str, int]:
        return {"chunks": CHUNKS}

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every process on either side: no hub, and threads that sleep while they wait."""
        paths = {"PYTHONPATH": str(ROOT)}
        return {**paths, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def prepare(folder: Path, data: Path | None, *, documents: int, pairs: int) -> Work:
    """The base as a folder, the adapter trained (once, kept in evalkit's cache), the texts."""
    cache, suite = default_cache(), load_suite(QUICKSTART)
    source = resolve_weights(suite.model, cache)
    base = prepare_base(source, cache, on_progress=lambda tick: None)
    adapter = trained_adapter(cache)
    corpus = load_corpus("test", suite.data["test"], cache=cache)
    texts = [document.text for document in corpus.documents][:documents]
    file = folder / "documents.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "documents.jsonl").write_text(rows, encoding="utf-8")
    tokenizer = load_tokenizer(base)
    tokens = sum(min(LENGTH, len(tokenizer(text)["input_ids"])) for text in texts)
    scored = {"perplexity/documents": tokens, "perplexity/chunks": CHUNKS * CHUNK_TARGETS}
    task = blimp_file(data)
    rows_of_task = task.read_text(encoding="utf-8").splitlines()[:pairs] if task else []
    if task:
        write_task(folder / "tasks", task)
    sentences = [
        len(tokenizer(row[column])["input_ids"])
        for row in map(json.loads, rows_of_task)
        for column in ("sentence_good", "sentence_bad")
    ]
    tokens += LENGTH * CHUNKS
    dtype = {"bf16": "bfloat16", "fp32": "float32"}[detect_machine().effective_dtypes()["bf16"]]
    pairs = len(rows_of_task)
    return Work(folder, base, adapter, file, dtype, pairs, tokens, tuple(sentences), scored)


def trained_adapter(cache: Path) -> Path:
    """The quickstart's adapter, as evalkit trains and keeps it."""
    suite = load_suite(QUICKSTART)
    (job,) = plan_suite(suite, RunOptions(cache=cache)).training
    folder = trained_adapter_folder(cache, job.recipe_key)
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "training.yaml"
            content = {
                "extends": str(QUICKSTART),
                "variants": ["nf4", "nf4+adapter"],
                "metrics": {"divergence": None, "perplexity": {"tokens": 256}},
                "gates": [],
            }
            file.write_text(json.dumps(content), encoding="utf-8")
            options = ["--db", f"{scratch}/runs.db", "--reports", scratch, "--cache", str(cache)]
            run_process(["-m", "evalkit", "run", str(file), *options])
    return folder


def blimp_file(data: Path | None) -> Path | None:
    """One paradigm of BLiMP, None where the folder has none."""
    files = sorted((data / "blimp").glob("*.jsonl")) if data is not None else []
    return files[0].resolve() if files else None


def write_task(folder: Path, file: Path) -> None:
    """lm-eval's definition of the task, the shipped one with a file named."""
    folder.mkdir()
    text = (ROOT / "suites" / "tasks" / "blimp.yaml").read_text(encoding="utf-8")
    text = text.replace("task: blimp\n", f"task: {TASK}\n")
    text += f"dataset_kwargs:\n  data_files:\n    train: {json.dumps(str(file))}\n"
    (folder / f"{TASK}.yaml").write_text(text, encoding="utf-8")


def write_suite(work: Work, name: str, variants: list[Any], **settings: Any) -> Path:
    """A suite file of the same work.

    Args:
        work: what is scored.
        name: the suite's, and with `file` in settings not the file's.
        variants: as the suite writes them.
        settings: `checks`, evalkit's own, which the other side does not make; `file`, its name.
    """
    checks = bool(settings.get("checks"))
    protocols = {
        "documents": {"protocol": "documents", "max_length": LENGTH},
        "chunks": {"protocol": "chunks", "max_length": LENGTH, "tokens": CHUNKS * CHUNK_TARGETS},
    }
    texts = {"dataset": str(work.folder / "documents.jsonl"), "text": "text"}
    content: dict[str, Any] = {
        "name": name,
        "model": {"source": str(work.base)},
        "data": {
            "documents": {**texts, "max_tokens_per_document": LENGTH},
            "joined": texts,
        },
        "adapters": {"reference": {"from": str(work.adapter)}},
        "variants": variants,
        "metrics": {
            "perplexity": {
                metric: {"on": "joined" if metric == "chunks" else metric, **protocol}
                for metric, protocol in protocols.items()
            },
            "footprint": checks,
            "reload_check": checks,
        },
    }
    if work.pairs:
        content["tasks"] = {TASK: {"include_path": str(work.tasks), "limit": work.pairs}}
    file = work.folder / f"{settings.get('file', name)}.yaml"
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return file
