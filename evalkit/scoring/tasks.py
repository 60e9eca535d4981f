"""Runs lm-eval tasks on a model that is loaded already. The only file that imports lm-eval.

The model and the tokenizer are ours, log-softmax is in float32 always (the default sums in the
model's dtype, and makes exact ties in 16 bits), answers are never cached (lm-eval's cache knows
requests and not models), and templates of definitions that are not lm-eval's run in a sandbox.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.digests import digest_json
from evalkit.errors import DataError, ScoringError
from evalkit.records import OnProgress, Score
from evalkit.scoring.task_answers import TaskRun
from evalkit.scoring.task_logits import needing_few_logits
from evalkit.scoring.task_progress import Bars, quiet
from evalkit.scoring.task_scores import ID_LENGTH, pooled_scores, scores_of
from evalkit.scoring.task_surroundings import explained, sandboxed, working_in
from evalkit.scoring.tokens import tokenizer_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite import TaskSpec
    from evalkit.tasks.sources import TaskSource

_LM_EVAL_SEEDS = (0, 1234, 1234, 1234)
"""lm-eval's own, of Python, numpy, torch and the choice of examples."""
_WHERE = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")
"""What of a definition says where samples are, which their digests know better."""


def score_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: TaskSpec,
    source: TaskSource,
    *,
    trusted: bool,
    job: str,
    on_progress: OnProgress,
) -> tuple[dict[str, Score], list[str]]:
    """Run one task or group.

    Args:
        model: a causal language model on its device; left in eval mode.
        tokenizer: the model's; it is not changed.
        spec: which task, on which samples, how put.
        source: its definitions and data.
        trusted: whether definitions that are not lm-eval's may run code.
        job: the job's name, for progress.
        on_progress: told the requests that are answered.

    Returns:
        Scores by metric ('NAME/acc', 'GROUP/TASK/acc'), and what a reader must know.

    Raises:
        DataError: the definition and the samples do not go together.
        NetworkError: samples must come from a hub that cannot be asked.
        ScoringError: a log-likelihood that is not finite, or no metric that can be paired.
    """
    if spec.chat_template and not tokenizer.chat_template:
        raise DataError(f"tasks.{spec.name}.chat_template: the tokenizer has no chat template")
    from lm_eval import utils

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if spec.max_length is not None and positions is not None and spec.max_length > positions:
        what = f"max_length {spec.max_length} is more than the model's {positions} positions"
        raise ScoringError(f"tasks.{spec.name}: {what}")
    bars = Bars(job, spec.name, on_progress)
    plain = trusted or source.working_folder is None
    with quiet(bars, _drawing()) as warnings, sandboxed(utils, trusted=plain):
        _seed(spec)
        with explained(spec):
            tasks, groups = _load(spec, source)
            _set_examples(spec, tasks.values())
        with explained(spec, loading=False):
            results, lengths = _evaluate(model, tokenizer, spec, tasks, groups, trusted)
        with explained(spec):
            runs = [
                _run(task, results, _comparison(spec, tokenizer, lengths[name]))
                for name, task in tasks.items()
            ]
    scores, notes = _scores(spec, source, runs, results)
    if not scores:
        raise ScoringError(f"tasks.{spec.name}: no metric can be stored: {'; '.join(notes)}")
    cut = sum(text.startswith("Combined length of context") for text in warnings)
    if cut:
        notes.append(f"{spec.name}: {cut} requests are longer than max_length, and cut on the left")
    return scores, notes


def _scores(
    spec: TaskSpec, source: TaskSource, runs: Sequence[TaskRun], results: Mapping[str, Any]
) -> tuple[dict[str, Score], list[str]]:
    """The scores of one task; of a group, of each of its tasks and of all together."""
    if source.kind == "task" and len(runs) == 1:
        return scores_of(runs[0], prefix=spec.name, cluster=spec.cluster)
    parts: dict[str, dict[str, Score]] = {}
    notes: list[str] = []
    for run in runs:
        prefix = f"{spec.name}/{run.name}"
        parts[run.name], said = scores_of(run, prefix=prefix, cluster=spec.cluster)
        notes += said
    shared = set.intersection(*(set(run.comparison.items()) for run in runs))
    pooled = pooled_scores(
        parts,
        prefix=spec.name,
        readings=results["results"].get(spec.task, {}),
        comparison={**dict(sorted(shared)), "task": spec.task},
    )
    return {**pooled, **{name: s for found in parts.values() for name, s in found.items()}}, notes


def _drawing() -> list[ModuleType]:
    """The modules of lm-eval that draw progress bars."""
    from lm_eval.api import model, task
    from lm_eval.models import huggingface

    return [huggingface, model, task]


# ----------------------------------------------------------------------------- loading


def _load(spec: TaskSpec, source: TaskSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tasks and groups as lm-eval's objects, their samples loaded."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=list(map(str, source.folders)), include_defaults=False)
    wanted: Any = spec.task
    if source.overrides:
        # lm-eval lays a mapping over a definition only as a member of a group.
        member = {"group" if source.kind == "group" else "task": spec.task, **source.overrides}
        wanted = {"group": "evalkit", "task": [member]}
    with working_in(source.working_folder):
        loaded = manager.load([wanted])
    groups = {name: group for name, group in loaded["groups"].items() if name != "evalkit"}
    return dict(loaded["tasks"]), groups


def _set_examples(spec: TaskSpec, tasks: Any) -> None:
    """Few-shot examples, by lm-eval's rule: a definition's own 0 is never overruled."""
    ignoring = []
    for task in tasks:
        own = task.get_config("num_fewshot")
        if spec.num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=spec.num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        if spec.num_fewshot and own == 0:
            ignoring.append(task.task_name)
        task.set_fewshot_seed(seed=_LM_EVAL_SEEDS[3] if spec.seed is None else spec.seed)
    if ignoring:
        raise DataError(
            f"tasks.{spec.name}.num_fewshot: {', '.join(ignoring[:3])} says num_fewshot: 0 itself, "
            "which lm-eval never overrules: leave it out, or use a definition of your own"
        )


def _seed(spec: TaskSpec) -> None:
    import torch

    seeds = _LM_EVAL_SEEDS if spec.seed is None else (spec.seed,) * 4
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.manual_seed(seeds[2])


# ----------------------------------------------------------------------------- running


def _evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: TaskSpec,
    tasks: Mapping[str, Any],
    groups: Mapping[str, Any],
    trusted: bool,
) -> tuple[dict[str, Any], dict[str, int]]:
    """lm-eval's results, and the longest prompt that each task could have."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    merged: dict[str, Any] = {"results": {}, "samples": {}, "higher_is_better": {}}
    lengths: dict[str, int] = {}
    for rolling in (False, True):
        mine = {n: t for n, t in tasks.items() if ("rolling" in t.OUTPUT_TYPE) == rolling}
        if not mine:
            continue
        lm = needing_few_logits(HFLM)(
            pretrained=model,
            # One without a padding token is given one.
            tokenizer=copy.deepcopy(tokenizer) if tokenizer.pad_token_id is None else tokenizer,
            device=str(model.device),
            batch_size=spec.batch_size,
            max_length=spec.max_length,
            softmax_dtype="float32",
            # lm-eval puts BOS before a rolling text itself: a tokenizer that does too makes two.
            add_bos_token=False if rolling else None,
        )
        found = evaluate(
            lm,
            {"tasks": mine, "groups": groups if len(mine) == len(tasks) else {}},
            limit=spec.limit,
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=spec.system,
            apply_chat_template=spec.chat_template,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=trusted,
        )
        for key, part in merged.items():
            part.update(found[key])
        lengths.update(dict.fromkeys(mine, lm.max_length))
    return merged, lengths


def _run(task: Any, results: Mapping[str, Any], comparison: Mapping[str, str]) -> TaskRun:
    """One task's part of the results, with what its answers are choices of."""
    name = task.task_name
    samples = results["samples"][name]
    own_scoring = callable(task.get_config("process_results")) or not hasattr(task, "doc_to_choice")
    choices: dict[int, list[str]] = {}
    golds: dict[int, list[int]] = {}
    if task.OUTPUT_TYPE == "multiple_choice" and not own_scoring:
        for sample in samples:
            choices[sample["doc_id"]] = task.doc_to_choice(sample["doc"])
            golds[sample["doc_id"]] = _golds(task, sample["doc"], choices[sample["doc_id"]])
    return TaskRun(
        name=name,
        output_type=task.OUTPUT_TYPE,
        own_scoring=own_scoring,
        samples=samples,
        readings=results["results"][name],
        higher_is_better=results["higher_is_better"].get(name, {}),
        comparison={"task": name, **comparison, **_definition(task)},
        choices=choices,
        golds=golds,
    )


def _golds(task: Any, doc: Mapping[str, Any], choices: Sequence[str]) -> list[int]:
    """The right choices: a definition gives an index, a text, or several."""
    said = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    found = []
    for gold in said if isinstance(said, list) else [said]:
        at = choices.index(gold) if isinstance(gold, str) and gold in choices else gold
        if isinstance(at, int) and -len(choices) <= at < len(choices):
            found.append(at)
    return found


def _definition(task: Any) -> dict[str, str]:
    config = {key: value for key, value in task.dump_config().items() if key not in _WHERE}
    text = digest_json(_plain(config))
    return {"definition": text[:ID_LENGTH], "num_fewshot": str(task.get_config("num_fewshot"))}


def _plain(value: Any) -> Any:
    """A definition as JSON; of code that is left, the name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__qualname__", type(value).__name__)


def _comparison(
    spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, str]:
    """What two scores must share beside definition and prompts."""
    template = digest_json(str(tokenizer.chat_template))[:ID_LENGTH] if spec.chat_template else "no"
    return {
        "limit": str(spec.limit or "all"),
        "seed": str("lm-eval's" if spec.seed is None else spec.seed),
        "chat_template": template,
        "max_length": str(max_length),
        "tokenizer": tokenizer_digest(tokenizer),
    }
