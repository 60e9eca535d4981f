"""lm-eval tasks on a tiny random model: what equals lm-eval, and what is refused or counted."""

import copy
import json

import numpy as np
import pytest

from evalkit.errors import DataError, ScoringError, UsageError
from evalkit.records import SampleText
from evalkit.scoring.task_surroundings import sandboxed
from evalkit.scoring.tasks import score_task
from evalkit.suite import load_suite
from evalkit.tasks.sources import check_trusted, resolve_tasks

CHOICES = """\
task: pick
dataset_path: json
validation_split: train
output_type: multiple_choice
doc_to_text: question
doc_to_target: label
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITES = """\
task: write
dataset_path: json
test_split: train
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: upper, filter: [{function: uppercase}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
"""
ROLLS = """\
task: roll
dataset_path: json
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: word_perplexity}
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
"""
ENDS = """\
task: end
dataset_path: json
test_split: train
output_type: loglikelihood
doc_to_text: question
doc_to_target: " {{answer}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
GROUP = """\
group: both
task: [pick, second]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]
"""
WORDS = ("grid", "words", "token", "adapter", "loss", "merge")


def rows(count=24):
    return [
        {
            "question": f"{n}. The model reads the",
            "choices": [f" {WORDS[(n + k) % 6]}{' scored' * (k % 2)} {n}" for k in range(3)],
            "label": n % 3,
            "answer": WORDS[n % 6],
            "text": f"A quantised weight lies on a grid number {n}, and the words are scored.",
            "topic": f"t{n % 5}",
        }
        for n in range(count)
    ]


def write_rows(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with definitions in `tasks/` and samples in `data.jsonl`."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for text in (CHOICES, WRITES, ROLLS, ENDS, GROUP):
        (folder / f"{text.split()[1]}.yaml").write_text(text)
    (folder / "second.yaml").write_text(
        "include: pick.yaml\ntask: second\ndataset_kwargs: {data_files: {train: ../more.jsonl}}\n"
    )
    write_rows(tmp_path / "data.jsonl", rows())
    write_rows(tmp_path / "more.jsonl", rows(10)[4:])
    return tmp_path


def prepare(place, entry, gates=""):
    text = f"name: t\nmodel: ./m\nvariants: [fp16]\ntasks: [{entry}]\n{gates}"
    (place / "suite.yaml").write_text(text)
    suite = load_suite(place / "suite.yaml")
    return suite.tasks[0], resolve_tasks(suite, place / "cache")


def score(place, model, tokenizer, entry, *, trusted=False, ticks=None):
    spec, sources = prepare(place, entry)
    check_trusted(sources, trusted=trusted)
    return score_task(
        model,
        tokenizer,
        spec,
        sources[spec.name],
        trusted=trusted,
        job="score x",
        on_progress=(ticks.append if ticks is not None else lambda tick: None),
    )


def entry(task, **settings):
    parts = {"task": task, "include_path": "tasks", "data": "data.jsonl", **settings}
    return "{" + ", ".join(f"{k}: {json.dumps(v)}" for k, v in parts.items() if v is not None) + "}"


def plain(place, model, tokenizer, task, **options):
    """lm-eval as a user would call it, on the same definition and file."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    text = (place / "tasks" / f"{task}.yaml").read_text()
    folder = place / "plain"
    folder.mkdir(exist_ok=True)
    files = f"dataset_kwargs: {{data_files: {{train: {place / 'data.jsonl'}}}}}\n"
    (folder / f"{task}.yaml").write_text(text + files)
    lm = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=options.pop("batch_size", 16),
        softmax_dtype="float32",
    )
    return simple_evaluate(
        lm,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )


@pytest.fixture
def no_environment_report(monkeypatch):
    from lm_eval import evaluator

    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)


def test_choices_and_their_normalised_reading_are_lm_evals(
    place, tiny_model, tiny_tokenizer, no_environment_report
):
    scores, notes = score(place, tiny_model, tiny_tokenizer, entry("pick"))
    results = plain(place, tiny_model, tiny_tokenizer, "pick")
    assert notes == []
    assert set(scores) == {"pick/acc", "pick/acc_norm"}
    for metric in ("acc", "acc_norm"):
        found = scores[f"pick/{metric}"]
        assert found.value == pytest.approx(results["results"]["pick"][f"{metric},none"])
        assert found.extra["lm_eval"] == pytest.approx(found.value)
        assert found.extra["n_ties"] == 0
        assert found.kind == "mean"
        assert found.unit == "accuracy"
        for sample, outcome in zip(results["samples"]["pick"], found.outcomes, strict=True):
            lls = tuple(pair[0] for pair in sample["filtered_resps"])
            assert outcome.log_likelihoods == lls
            assert outcome.correct == bool(sample[metric])
            assert outcome.gold == str(sample["target"])
    own = [outcome.choice for outcome in scores["pick/acc"].outcomes]
    norm = [outcome.choice for outcome in scores["pick/acc_norm"].outcomes]
    assert own != norm, "the shorter choices win more often before normalisation"
    assert scores["pick/acc"].stderr > 0


def test_examples_limit_system_and_chat_template_reach_lm_eval(
    place, tiny_model, tiny_tokenizer, no_environment_report
):
    told = {"num_fewshot": 2, "limit": 7, "chat_template": True, "system": "Be brief.", "seed": 5}
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", **told))
    results = plain(
        place,
        tiny_model,
        tiny_tokenizer,
        "pick",
        num_fewshot=2,
        limit=7,
        apply_chat_template=True,
        system_instruction="Be brief.",
        random_seed=5,
        numpy_random_seed=5,
        torch_random_seed=5,
        fewshot_random_seed=5,
    )
    samples = results["samples"]["pick"]
    found = scores["pick/acc"]
    assert len(samples) == len(found.outcomes) == 7
    assert "<|system|>\nBe brief." in samples[0]["arguments"][0][0]
    for sample, outcome in zip(samples, found.outcomes, strict=True):
        assert outcome.log_likelihoods == tuple(pair[0] for pair in sample["filtered_resps"])
    bare, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", limit=7))
    differing = {
        key for key, value in found.comparison.items() if bare["pick/acc"].comparison[key] != value
    }
    assert differing >= {"num_fewshot", "chat_template", "prompts", "seed"}


def test_the_texts_of_samples_are_kept_once_for_all_metrics(place, tiny_model, tiny_tokenizer):
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", limit=5))
    wanted = tuple(
        SampleText(line["question"], tuple(f" {choice}" for choice in line["choices"]))
        for line in rows(5)
    )
    for metric in ("acc", "acc_norm"):
        assert scores[f"pick/{metric}"].sample_texts == wanted
    examples, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", limit=5, num_fewshot=20))
    for text, plain_text in zip(examples["pick/acc"].sample_texts, wanted, strict=True):
        assert text.choices == plain_text.choices
        assert len(text.prompt) == 601
        assert text.prompt.startswith("…")
        assert text.prompt.endswith(plain_text.prompt)


def test_the_texts_of_other_kinds_of_tasks(place, tiny_model, tiny_tokenizer):
    written, _ = score(place, tiny_model, tiny_tokenizer, entry("write", limit=2))
    for metric in ("exact_match", "exact_match@upper"):
        texts = written[f"write/{metric}"].sample_texts
        assert texts == tuple(SampleText(line["question"]) for line in rows(2))
    ended, _ = score(place, tiny_model, tiny_tokenizer, entry("end", limit=2))
    told = tuple(SampleText(line["question"], (f" {line['answer']}",)) for line in rows(2))
    assert ended["end/acc"].sample_texts == told
    rolled, _ = score(place, tiny_model, tiny_tokenizer, entry("roll", limit=2))
    assert rolled["roll/word_perplexity"].sample_texts == ()
    text = CHOICES.replace("doc_to_text: question", "doc_to_text: ''\ntarget_delimiter: ''")
    text += "  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}\n"
    (place / "tasks" / "pick.yaml").write_text(text)
    whole, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", limit=2))
    sentences = tuple(SampleText("", tuple(line["choices"])) for line in rows(2))
    assert whole["pick/acc"].sample_texts == sentences
    assert whole["pick/acc_mutual_info"].sample_texts == sentences


def test_a_planted_tie_is_counted_and_is_no_hit(place, tiny_model, tiny_tokenizer):
    lines = rows()
    lines[0]["choices"] = [" grid", " grid", " grid"]
    lines[0]["label"] = 0
    write_rows(place / "data.jsonl", lines)
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("pick"))
    found = scores["pick/acc"]
    assert found.outcomes[0].tied
    assert found.outcomes[0].choice is None
    assert found.outcomes[0].correct is False
    assert found.sums[0] == 0.0
    assert found.extra["n_ties"] == 1
    assert found.extra["lm_eval"] == pytest.approx(found.value + 1 / 24), "lm-eval took the first"
    lls = found.outcomes[0].log_likelihoods
    assert lls[0] == lls[1] == lls[2]


def test_the_batch_size_moves_nothing_in_float32(place, tiny_model, tiny_tokenizer):
    one, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", batch_size=1))
    many, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", batch_size=24))
    for a, b in zip(one["pick/acc"].outcomes, many["pick/acc"].outcomes, strict=True):
        np.testing.assert_allclose(a.log_likelihoods, b.log_likelihoods, rtol=1e-5)


def test_the_output_layer_is_asked_for_the_ends_of_prompts_alone(
    place, tiny_model, tiny_tokenizer, no_environment_report
):
    lines = rows()
    for n, line in enumerate(lines):
        line["question"] = f"{line['question']} words and more words{' again' * (n % 5)}" * 3
    write_rows(place / "data.jsonl", lines)
    asked = []
    watch = tiny_model.get_output_embeddings().register_forward_hook(
        lambda layer, inputs, logits: asked.append(logits.shape[0] * logits.shape[1])
    )
    try:
        scores, _ = score(place, tiny_model, tiny_tokenizer, entry("pick"))
        ours, asked[:] = sum(asked), []
        results = plain(place, tiny_model, tiny_tokenizer, "pick")
        theirs = sum(asked)
    finally:
        watch.remove()
    assert 0 < ours < 0.5 * theirs
    found = scores["pick/acc"]
    assert found.value == pytest.approx(results["results"]["pick"]["acc,none"])
    for sample, outcome in zip(results["samples"]["pick"], found.outcomes, strict=True):
        lls = [pair[0] for pair in sample["filtered_resps"]]
        np.testing.assert_allclose(outcome.log_likelihoods, lls, rtol=1e-6)


def test_generated_answers_and_their_filters(place, tiny_model, tiny_tokenizer):
    first, _ = score(place, tiny_model, tiny_tokenizer, entry("write", limit=6))
    written = [outcome.choice for outcome in first["write/exact_match"].outcomes]
    lines = rows(6)
    for line, text in zip(lines, written, strict=True):
        line["answer"] = text
    lines[5]["answer"] = "something else"
    write_rows(place / "data.jsonl", lines)
    scores, notes = score(place, tiny_model, tiny_tokenizer, entry("write"))
    found = scores["write/exact_match"]
    assert found.value == pytest.approx(5 / 6)
    assert [outcome.correct for outcome in found.outcomes] == [True] * 5 + [False]
    assert found.outcomes[0].log_likelihoods == ()
    assert scores["write/exact_match@upper"].value < found.value
    assert any("write/bleu is left out" in note for note in notes)
    assert "n_ties" not in found.extra


def test_rolling_log_likelihoods_are_perplexities(
    place, tiny_model, tiny_tokenizer, no_environment_report
):
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("roll"))
    results = plain(place, tiny_model, tiny_tokenizer, "roll")["results"]["roll"]
    for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert scores[f"roll/{metric}"].value == pytest.approx(results[f"{metric},none"], rel=1e-9)
        assert not scores[f"roll/{metric}"].higher_is_better
    assert scores["roll/word_perplexity"].kind == "perplexity"
    assert scores["roll/bits_per_byte"].kind == "mean"


def test_one_bos_before_a_rolling_text(place, tiny_model, tiny_tokenizer, bos_tokenizer):
    bare, _ = score(place, tiny_model, tiny_tokenizer, entry("roll"))
    with_bos, _ = score(place, tiny_model, bos_tokenizer, entry("roll"))
    assert with_bos["roll/bits_per_byte"].value == bare["roll/bits_per_byte"].value


def test_the_likelihood_of_an_answer(place, tiny_model, tiny_tokenizer, no_environment_report):
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("end"))
    results = plain(place, tiny_model, tiny_tokenizer, "end")["results"]["end"]
    assert scores["end/perplexity"].value == pytest.approx(results["perplexity,none"])
    assert scores["end/acc"].value == pytest.approx(results["acc,none"])


def test_a_group_has_its_tasks_scores_and_all_samples_pooled(place, tiny_model, tiny_tokenizer):
    (place / "tasks" / "pick.yaml").write_text(
        CHOICES + "dataset_kwargs: {data_files: {train: ../data.jsonl}}\n"
    )
    told = entry("both", data=None)
    scores, _ = score(place, tiny_model, tiny_tokenizer, told)
    assert set(scores) >= {"both/acc", "both/pick/acc", "both/second/acc", "both/acc_norm"}
    pick, second, both = (scores[f"both/{m}"] for m in ("pick/acc", "second/acc", "acc"))
    assert len(pick.sums) == 24
    assert len(second.sums) == 6
    assert both.value == pytest.approx((pick.sums.sum() + second.sums.sum()) / 30)
    assert both.extra["lm_eval"] == pytest.approx(both.value)
    assert len(set(both.unit_ids)) == 30
    assert both.unit_ids[0] == f"pick:{pick.unit_ids[0]}"
    assert both.sample_texts == pick.sample_texts + second.sample_texts
    assert len(both.sample_texts) == 30


def test_clusters_and_equal_samples(place, tiny_model, tiny_tokenizer):
    lines = rows(10)
    lines[9] = lines[4]
    write_rows(place / "data.jsonl", lines)
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("pick", cluster="topic"))
    found = scores["pick/acc"]
    assert found.clusters[:6] == ("t0", "t1", "t2", "t3", "t4", "t0")
    assert found.unit_ids[9] == f"{found.unit_ids[4]}-2"
    assert len(set(found.unit_ids)) == 10


def test_progress_counts_requests_and_nothing_is_printed(place, tiny_model, tiny_tokenizer, capfd):
    ticks = []
    score(place, tiny_model, tiny_tokenizer, entry("pick"), ticks=ticks)
    assert ticks[-1].done == ticks[-1].total == 72
    assert {tick.unit for tick in ticks} == {"requests"}
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_prompts_that_were_cut_are_told(place, tiny_model, tiny_tokenizer):
    _, notes = score(place, tiny_model, tiny_tokenizer, entry("pick", limit=2, max_length=12))
    assert notes == ["pick: 6 requests are longer than max_length, and cut on the left"]


@pytest.mark.parametrize("padding", ["<pad>", None])
def test_the_tokenizer_is_left_as_it_was(place, tiny_model, tiny_tokenizer, padding):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = padding  # lm-eval gives one to those that have none
    before = (tokenizer.padding_side, len(tokenizer), tokenizer.pad_token)
    score(place, tiny_model, tokenizer, entry("write", limit=2))
    assert (tokenizer.padding_side, len(tokenizer), tokenizer.pad_token) == before


def test_a_template_that_reaches_for_code_is_refused(place, tiny_model, tiny_tokenizer, tmp_path):
    proof = tmp_path / "ran"
    attack = f"{{{{ cycler.__init__.__globals__.os.mkdir('{proof}') or question }}}}"
    text = CHOICES.replace("doc_to_text: question", f'doc_to_text: "{attack}"')
    (place / "tasks" / "pick.yaml").write_text(text)
    with pytest.raises(DataError, match="--trust-remote-code"):
        score(place, tiny_model, tiny_tokenizer, entry("pick"))
    assert not proof.exists()
    with pytest.raises(FileExistsError):  # the second sample finds the folder there
        score(place, tiny_model, tiny_tokenizer, entry("pick"), trusted=True)
    assert proof.exists(), "the attack is a real one"


def test_a_function_is_not_imported_unless_the_command_line_says_so(
    place, tiny_model, tiny_tokenizer
):
    (place / "tasks" / "helper.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
        "def text(doc):\n    return doc['question']\n"
    )
    text = CHOICES.replace("doc_to_text: question", "doc_to_text: !function helper.text")
    (place / "tasks" / "pick.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"pick\.yaml:5: !function helper\.text.*--trust-remote"):
        score(place, tiny_model, tiny_tokenizer, entry("pick"))
    assert not (place / "tasks" / "ran").exists()
    scores, _ = score(place, tiny_model, tiny_tokenizer, entry("pick"), trusted=True)
    assert scores["pick/acc"].extra["n_samples"] == 24


def test_examples_that_the_definition_forbids_are_refused(place, tiny_model, tiny_tokenizer):
    (place / "tasks" / "pick.yaml").write_text(CHOICES + "num_fewshot: 0\n")
    with pytest.raises(DataError, match="pick says num_fewshot: 0 itself"):
        score(place, tiny_model, tiny_tokenizer, entry("pick", num_fewshot=3))


def test_a_chat_template_that_is_not_there_is_refused(place, tiny_model, bos_tokenizer):
    with pytest.raises(DataError, match="tokenizer has no chat template"):
        score(place, tiny_model, bos_tokenizer, entry("pick", chat_template=True))


def test_what_only_lm_eval_finds_wrong_is_one_sentence(place, tiny_model, tiny_tokenizer):
    (place / "tasks" / "pick.yaml").write_text(CHOICES.replace("multiple_choice", "multiple"))
    with pytest.raises(DataError, match=r"tasks\.pick: lm-eval cannot load it: .*multiple"):
        score(place, tiny_model, tiny_tokenizer, entry("pick"))


def test_a_window_longer_than_the_model_is_refused(place, tiny_model, tiny_tokenizer):
    with pytest.raises(ScoringError, match="max_length 512 is more than the model's 256 positions"):
        score(place, tiny_model, tiny_tokenizer, entry("pick", max_length=512))


def test_a_log_likelihood_that_is_not_finite_is_an_error(place, tiny_model, tiny_tokenizer):
    tiny_model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(ScoringError, match="pick: sample 0: a log-likelihood is nan"):
        score(place, tiny_model, tiny_tokenizer, entry("pick"))


@pytest.mark.parametrize("trusted", [True, False])
def test_a_template_is_compiled_once_and_lm_evals_own_environment_comes_back(trusted):
    from lm_eval import utils

    own = utils.env
    with sandboxed(utils, trusted=trusted):
        first = utils.env.from_string("{{ question|regex_replace('a', 'b') }}")
        assert utils.env.from_string("{{ question|regex_replace('a', 'b') }}") is first
        assert utils.apply_template("{{ question }}!", {"question": "why"}) == "why!"
    assert utils.env is own
    assert own.from_string("{{ x }}") is not own.from_string("{{ x }}")
