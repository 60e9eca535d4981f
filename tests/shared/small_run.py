"""The cheapest suite that trains, quantises, merges and scores: about a second a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from evalkit.executors.local import LocalExecutor
from evalkit.records import RunRecord
from evalkit.runner import RunOptions, run_suite
from evalkit.store import Store
from evalkit.suite import load_suite

TEXTS = (
    "The model reads the words and the words are scored one by one, and then again.",
    "A quantised weight lies on a grid; an adapter moves it a little, never more.",
    "Perplexity is the exponential of the mean loss of every token that is scored.",
)
VARIANTS = ("nf4", "nf4+adapter", "merged-4bit")
SHARING = ("nf4", "dequant-merged", "requantized")
"""Variants of which the last two begin alike: their merge is made once, and kept for the run."""


def write_suite(
    folder: Path,
    model: Path,
    *,
    training: str = "",
    metrics: str = "",
    variants: Sequence[str] = VARIANTS,
) -> Path:
    """Writes the suite and its data.

    Args:
        folder: for the files; made where it is not there.
        model: the tiny model's.
        training: more fields of `training`, as ', save_steps: 1'.
        metrics: more lines under `metrics`.
        variants: their names.

    Returns:
        The suite's file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps({"text": f"{n}. {text}"}) + "\n" for n, text in enumerate(TEXTS * 2))
    (folder / "data.jsonl").write_text(rows)
    suite = folder / "suite.yaml"
    suite.write_text(
        f"""\
name: small
model: {{source: {model}, dtype: fp32}}
data: {{texts: {folder / "data.jsonl"}}}
adapters:
  tuned:
    on: nf4
    data: texts
    lora: {{r: 4, target_modules: [q_proj, v_proj]}}
    training: {{steps: 2, batch_size: 2, max_length: 32, learning_rate: 3e-2{training}}}
variants: [{", ".join(variants)}]
metrics:
  perplexity: {{on: texts, max_length: 64}}
  footprint: false
  reload_check: false
{metrics}"""
    )
    return suite


class Silent:
    """Looks on and says nothing; keeps what became of each job."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}

    def started(self, run_id, plan) -> None:
        """The run begins."""

    def on_progress(self, tick) -> None:
        """A job ticks."""

    def job_ended(self, job, scores) -> None:
        """Keeps the job's status."""
        self.jobs[job.name] = job.status


def small_run(folder: Path, **options) -> tuple[RunRecord, dict[str, str]]:
    """Runs a folder's suite on its own store and cache, in this process.

    Returns:
        The run, and the status of each job.
    """
    watcher = Silent()
    with Store.open(str(folder / "runs.db")) as store:
        record = run_suite(
            load_suite(folder / "suite.yaml"),
            RunOptions(cache=folder / "cache", **options),
            store=store,
            executor=LocalExecutor(),
            watcher=watcher,
        )
    return record, watcher.jobs


def numbers(record: RunRecord) -> dict[str, bytes]:
    """The bytes behind every perplexity of a run, by variant."""
    return {
        variant.name: variant.scores["perplexity"].sums.tobytes()
        for variant in record.variants
        if "perplexity" in variant.scores
    }
