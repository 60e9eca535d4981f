"""lm-eval tasks through evalkit beside `lm_eval.simple_evaluate`, on the same loaded model.

The quickstart's base, in bfloat16 where the CPU has it; minimal pairs of BLiMP (no two requests
share a context) and MMLU as prompts (the four choices share one). The sides take turns; seconds are
the processor's, which other work on the machine moves least:

    python benchmarks/tasks.py --data ../shared/data
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import ROOT, Goal, arguments_of, report

from evalkit.machine import default_cache, detect_machine
from evalkit.scoring.tasks import score_task
from evalkit.sources import resolve_weights
from evalkit.suite import load_suite
from evalkit.tasks.sources import resolve_tasks
from evalkit.weights.loading import load_model, prepare_base, torch_dtype
from evalkit.weights.tokenizers import load_tokenizer

BATCH = 16
TASKS = {"blimp": "blimp/adjunct_island.jsonl", "mmlu_prompts": "mmlu/zero_shot_val.jsonl"}
GOALS = {"blimp": "at most 1.02", "mmlu_prompts": "under 1"}
ROUNDING = {"blimp": 0.0, "mmlu_prompts": 1e-4}
"""Nats of a log-likelihood: choices that share a context are in other batches than lm-eval's."""


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="with blimp/ and mmlu/")
    parser.add_argument("--samples", type=int, default=400, help="pairs; an eighth of MMLU")
    given = parser.parse_args()
    cache = default_cache()
    suite = load_suite(ROOT / "suites" / "quickstart.yaml")
    folder = prepare_base(resolve_weights(suite.model, cache), cache, on_progress=lambda tick: None)
    dtype = detect_machine().effective_dtypes()["bf16"]
    model = load_model(folder, dtype=torch_dtype(dtype), device_map={"": "cpu"})
    tokenizer = load_tokenizer(folder)
    goals, notes = [], []
    for name, file in TASKS.items():
        data = (given.data / file).resolve()
        if not data.is_file():
            notes.append(f"{name} was left out: {file} is not in --data")
            continue
        samples = given.samples if name == "blimp" else given.samples // 8
        with tempfile.TemporaryDirectory() as scratch:
            ratios, apart, hits = compare(
                model, tokenizer, name, data, samples, given.rounds, Path(scratch)
            )
        ratio = statistics.median(ratios)
        met = ratio <= 1.02 if name == "blimp" else ratio < 1
        goals += [
            Goal(f"{name}: processor time, evalkit / lm_eval", GOALS[name], f"{ratio:.3f}", met),
            Goal(f"{name}: log-likelihoods, largest difference in nats",
                 f"at most {ROUNDING[name]:g}", f"{apart:.1e}", apart <= ROUNDING[name]),
            Goal(f"{name}: right answers, difference", "0", str(hits), hits == 0),
        ]  # fmt: skip
        notes.append(
            f"{name}: {samples} samples, rounds {', '.join(f'{value:.3f}' for value in ratios)}"
        )
    report("lm-eval tasks", goals, notes, given.json)


def compare(
    model: Any, tokenizer: Any, name: str, data: Path, samples: int, rounds: int, scratch: Path
) -> tuple[list[float], float, int]:
    """Ratios of processor time, the largest difference of a log-likelihood, and of the hits."""
    spec, source = ours(name, data, samples, scratch)

    def through_evalkit() -> tuple[float, Any]:
        started = time.process_time()
        scores, _ = score_task(
            model, tokenizer, spec, source, trusted=False, job="", on_progress=lambda tick: None
        )
        return time.process_time() - started, scores[f"{name}/acc"]

    definition = users_own(name, data, scratch)
    through_evalkit()
    by_lm_eval(model, tokenizer, name, definition, 2)
    ratios = []
    for _ in range(rounds):
        seconds, score = through_evalkit()
        other, found = by_lm_eval(model, tokenizer, name, definition, samples)
        ratios.append(seconds / other)
    theirs = [[pair[0] for pair in sample["filtered_resps"]] for sample in found]
    mine = [outcome.log_likelihoods for outcome in score.outcomes]
    apart = max(
        abs(a - b)
        for one, two in zip(mine, theirs, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    hits = sum(int(sample["acc"]) for sample in found)
    return ratios, apart, abs(hits - sum(bool(outcome.correct) for outcome in score.outcomes))


def ours(name: str, data: Path, samples: int, scratch: Path) -> tuple[Any, Any]:
    """The task as a suite names it, with its definition and data."""
    task = {"task": name, "include_path": str(ROOT / "suites" / "tasks"), "data": str(data)}
    settings = {"limit": samples, "batch_size": BATCH}
    content = {"name": "tasks", "model": "./model", "variants": ["fp16"]}
    file = scratch / "suite.yaml"
    file.write_text(json.dumps({**content, "tasks": [{**task, **settings}]}), encoding="utf-8")
    suite = load_suite(file)
    (spec,) = suite.tasks
    (source,) = resolve_tasks(suite, scratch / "cache").values()
    return spec, source


def users_own(name: str, data: Path, scratch: Path) -> Path:
    """A folder with the same definition, naming its file, as lm-eval's user writes it."""
    folder = scratch / "definitions"
    folder.mkdir()
    text = (ROOT / "suites" / "tasks" / f"{name}.yaml").read_text(encoding="utf-8")
    text += f"dataset_kwargs:\n  data_files:\n    train: {json.dumps(str(data))}\n"
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def by_lm_eval(
    model: Any, tokenizer: Any, name: str, definition: Path, samples: int
) -> tuple[float, Any]:
    """Processor seconds of lm_eval.simple_evaluate, and its samples in order."""
    from lm_eval import evaluator, simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # What it adds to the results takes seconds, and asks a hub: no part of the task.
    evaluator.add_env_info = lambda results: None
    started = time.process_time()
    lm = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        device="cpu",
        batch_size=BATCH,
        softmax_dtype="float32",
    )
    manager = TaskManager(include_path=str(definition), include_defaults=False)
    results = simple_evaluate(
        lm, tasks=[name], task_manager=manager, limit=samples, bootstrap_iters=0
    )
    seconds = time.process_time() - started
    return seconds, sorted(results["samples"][name], key=lambda sample: sample["doc_id"])


if __name__ == "__main__":
    main()
