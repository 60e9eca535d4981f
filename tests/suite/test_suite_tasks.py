"""`tasks` in a suite: both forms, their layers, and every mistake with its line."""

import pytest

from evalkit.errors import SuiteError
from evalkit.suite import load_suite, suite_from_json

HEAD = "name: t\nmodel: ./m\nvariants: [fp16, nf4]\n"


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides, name="suite.yaml"):
        (tmp_path / name).write_text(HEAD + text)
        return load_suite(tmp_path / name, overrides=overrides)

    return load


def told(load, text, *overrides):
    with pytest.raises(SuiteError) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_a_task_is_a_name_or_a_mapping(load, tmp_path):
    suite = load("tasks:\n  - hellaswag\n  - {task: blimp, include_path: defs, data: a.jsonl}\n")
    first, second = suite.tasks
    assert (first.task, first.name, first.include_path) == ("hellaswag", "hellaswag", None)
    assert second.include_path == str(tmp_path / "defs")
    assert second.data == {"": str(tmp_path / "a.jsonl")}
    assert first.place.endswith("suite.yaml:5")
    assert second.place.endswith("suite.yaml:6")


def test_a_mapping_of_names_says_the_same(load):
    suite = load(
        "tasks:\n  hellaswag: {}\n  few: {task: gsm8k, num_fewshot: 2}\n  other: arc_easy\n"
    )
    assert [(spec.name, spec.task) for spec in suite.tasks] == [
        ("hellaswag", "hellaswag"),
        ("few", "gsm8k"),
        ("other", "arc_easy"),
    ]
    assert suite.tasks[1].place.endswith("suite.yaml:6")


@pytest.mark.parametrize(
    "tasks", ["tasks: {blimp: {include_path: d}}\n", "tasks: [{task: blimp, include_path: d}]\n"]
)
def test_the_command_line_changes_one_task(load, tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = load(tasks, "tasks.blimp.data=pairs.jsonl", "tasks.blimp.limit=5", "tasks.piqa=null")
    (spec,) = suite.tasks
    assert spec.data == {"": str(tmp_path / "pairs.jsonl")}
    assert spec.limit == 5


def test_a_list_replaces_a_list_and_a_mapping_adds(load, tmp_path):
    load("tasks: [piqa, {task: mmlu, limit: 3}]\n", name="base.yaml")
    (tmp_path / "list.yaml").write_text("extends: base.yaml\ntasks: [arc_easy]\n")
    assert [s.name for s in load_suite(tmp_path / "list.yaml").tasks] == ["arc_easy"]
    (tmp_path / "more.yaml").write_text(
        "extends: base.yaml\ntasks: {mmlu: {num_fewshot: 5}, arc_easy: arc_easy, boolq: {}}\n"
    )
    more = load_suite(tmp_path / "more.yaml")
    assert [s.name for s in more.tasks] == ["piqa", "mmlu", "arc_easy", "boolq"]
    assert (more.tasks[1].limit, more.tasks[1].num_fewshot) == (3, 5)


def test_a_suite_with_tasks_needs_no_metrics_and_one_with_neither_is_refused(load):
    assert load("tasks: [piqa]\n").metrics.perplexity == {}
    assert "metrics: nothing is measured" in told(load, "")


def test_a_suite_reads_back_from_its_json(load):
    text = "tasks:\n  b: {task: blimp, include_path: d, data: {train: a.jsonl, test: b.jsonl}}\n"
    suite = load(text + "  piqa: {seed: 3, chat_template: true, cluster: topic}\n")
    again = suite_from_json(suite.to_json(), place=suite.place)
    assert [s.model_copy(update={"place": ""}) for s in suite.tasks] == list(again.tasks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: blimp\n", "tasks: must be a list of tasks, or a mapping of names, not blimp"),
        ("tasks: [[a]]\n", "tasks.0: must be a mapping of keys, not a list"),
        ("tasks: [{limit: 3}]\n", "suite.yaml:4: tasks.0.task: missing"),
        (
            "tasks:\n  - {task: a, num_fewshots: 3}\n",
            "suite.yaml:5: tasks.0.num_fewshots: unknown key (did you mean 'num_fewshot'?)",
        ),
        ("tasks: {a: {limit: 0}}\n", "tasks.a.limit: must be at least 1, not 0"),
        ("tasks: {a: {chat_template: 1}}\n", "tasks.a.chat_template: must be true or false"),
        ("tasks: [a, a]\n", "tasks.1: there is a task named 'a' already: give it a name"),
        ("tasks: [perplexity]\n", "tasks.0.name: 'perplexity' is a metric of evalkit"),
        ("tasks: [{task: a, data: x.jsonl}]\n", "tasks.0.data: goes with 'include_path'"),
        (
            "tasks: [{task: a, include_path: d, data: x.txt}]\n",
            "x.txt' is no file of samples (allowed: .jsonl, .json, .csv, .parquet)",
        ),
        ("tasks: {a: }\n", "tasks.a: must be a mapping of keys, not null"),
        ("tasks: {a: {name: b}}\n", "tasks.a: goes without 'name': its key is its name"),
        ("tasks: [{task: a, place: x}]\n", "tasks.0: unknown key 'place'"),
    ],
)
def test_mistakes_are_placed(load, text, message):
    assert message in told(load, text)


def gates(*lines):
    return "tasks: [{task: blimp, name: b}]\ngates:\n" + "".join(f"  - {line}\n" for line in lines)


@pytest.mark.parametrize("metric", ["b/acc", "b/acc_norm", "b/exact_match@strict", "b/sub/acc"])
def test_a_gate_names_a_metric_of_a_task(load, metric):
    line = f"{{metric: {metric}, variant: nf4, against: fp16, max_decrease: 2pp}}"
    assert load(gates(line)).gates[0].metric == metric


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("metric: c/acc, max_decrease: 2pp", "unknown metric 'c/acc' (did you mean 'b/acc'?)"),
        ("metric: b, max_decrease: 2pp", "unknown metric 'b'"),
        ("metric: b/, max_decrease: 2pp", "unknown metric 'b/' (allowed: b/acc, survival, "),
        ("metric: b/acc, max_increase: 2pp", "acc is better when higher: use max_decrease"),
        ("metric: b/acc, max_decrease: 2%", "2% is ambiguous here: write 2pp"),
        ("metric: b/word_perplexity, max_decrease: 1%", "better when lower: use max_increase"),
        ("metric: b/word_perplexity, max_increase: 1pp", "has no percentage points"),
    ],
)
def test_wrong_gates_on_tasks(load, gate, message):
    assert message in told(load, gates(f"{{{gate}, variant: nf4, against: fp16}}"))
