"""lm-eval tasks through the whole line, on a tiny random model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli import run_command_line
from evalkit.store import Store

pytestmark = pytest.mark.system

DEFINITION = """\
task: pick
dataset_path: json
validation_split: train
output_type: multiple_choice
doc_to_text: question
doc_to_target: label
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WORDS = ("grid", "words", "token", "adapter", "loss", "merge")


def rows(count):
    return [
        {
            "question": f"{n}. The model reads the",
            "choices": [f" {WORDS[(n + k) % 6]} {n}" for k in range(2)],
            "label": n % 2,
        }
        for n in range(count)
    ]


def write_rows(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def workplace(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "defs").mkdir()
    (tmp_path / "defs" / "pick.yaml").write_text(DEFINITION)
    lines = rows(20)
    lines[3]["choices"] = [" grid", " grid"]
    lines[3]["label"] = 0
    write_rows(tmp_path / "data.jsonl", lines)
    write_suite(tiny_folder, "pick: {include_path: defs, data: data.jsonl}")
    return tmp_path


def write_suite(folder, tasks, rest=""):
    Path("suite.yaml").write_text(
        f"name: tiny\nmodel: {folder}\nvariants: [fp16, nf4]\ntasks:\n  {tasks}\n{rest}"
    )


def run(*arguments):
    return run_command_line(["run", "suite.yaml", *arguments])


def result(path="result.json"):
    return json.loads(Path(path).read_text(encoding="utf-8"))


GATE = "gates: [{metric: pick/acc, variant: nf4, against: fp16, max_decrease: 90pp}]\n"


def test_a_suite_of_tasks_alone_is_scored_judged_and_shown(workplace, tiny_folder, capsys):
    write_suite(tiny_folder, "pick: {include_path: defs, data: data.jsonl}", GATE)
    assert run("--json", "result.json") == 0
    told = result()
    metric = told["variants"]["nf4"]["metrics"]["pick/acc"]
    assert metric["n_samples"] == metric["n_units"] == 20
    assert metric["n_ties"] == 1
    assert metric["lm_eval"] == pytest.approx(metric["value"] + 0.05)
    assert told["verdicts"][0]["verdict"] in {"PASS", "IMPROVED"}
    out = capsys.readouterr().out
    assert "pick/acc" in out
    assert "20, 1 tie" in out
    flat = " ".join(out.split())
    assert "choices that tie exactly are no hits: fp16 1 of 20 (lm-eval reads" in flat
    (page,) = workplace.glob("reports/tiny/*/index.html")
    assert ">1 tie</" in page.read_text(encoding="utf-8")


def test_what_every_variant_answered_is_stored(workplace):
    assert run() == 0
    with Store.open(str(workplace / "runs.db")) as store:
        record = store.load_run()
    for variant in record.variants:
        outcomes = variant.scores["pick/acc"].outcomes
        assert len(outcomes) == 20
        assert all(len(outcome.log_likelihoods) == 2 for outcome in outcomes)
        assert [n for n, outcome in enumerate(outcomes) if outcome.tied] == [3]


def test_a_second_run_computes_and_draws_nothing_and_imports_no_torch_and_no_lm_eval(workplace):
    assert run("--json", "first.json") == 0
    slow = {"torch", "lm_eval", "datasets", "altair", "vl_convert"}
    slow |= {"evalkit.executors.performing", "evalkit.scoring.perplexity", "evalkit.weights.memory"}
    code = (
        "import sys; from evalkit.cli import run_command_line as r;"
        "c = r(['run', 'suite.yaml', '--json', 'second.json']);"
        f"print({slow!r} & set(sys.modules), c)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip().splitlines()[-1] == "set() 0", answer.stderr[-800:]
    first, second = result("first.json"), result("second.json")
    for name, variant in second["variants"].items():
        assert variant["reused_from"] == first["run"]
        assert variant["metrics"] == first["variants"][name]["metrics"]


def test_a_renamed_task_is_not_run_again_and_other_data_is(workplace, tiny_folder):
    assert run("--json", "first.json") == 0
    write_suite(tiny_folder, "mine: {task: pick, include_path: defs, data: data.jsonl}")
    assert run("--json", "second.json") == 0
    first, second = result("first.json"), result("second.json")
    assert second["variants"]["nf4"]["reused_from"] == first["run"]
    assert set(second["variants"]["nf4"]["metrics"]) == {"mine/acc", "mine/acc_norm"}
    write_rows(workplace / "data.jsonl", rows(12))
    assert run("--json", "third.json") == 0
    assert result("third.json")["variants"]["nf4"]["reused_from"] is None
    assert result("third.json")["variants"]["nf4"]["metrics"]["mine/acc"]["n_samples"] == 12


def test_a_metric_added_to_a_suite_does_not_run_its_tasks_again(
    workplace, tiny_folder, monkeypatch
):
    assert run() == 0
    monkeypatch.setattr("evalkit.scoring.tasks.score_task", None)
    (workplace / "text.jsonl").write_text('{"text": "The words are scored."}\n' * 3)
    more = "data: {t: text.jsonl}\nmetrics: {perplexity: {on: t, max_length: 32}}\n"
    write_suite(tiny_folder, "pick: {include_path: defs, data: data.jsonl}", more)
    assert run("--json", "result.json") == 0
    assert set(result()["variants"]["fp16"]["metrics"]) == {
        "perplexity",
        "pick/acc",
        "pick/acc_norm",
    }


def test_the_command_line_names_the_file(workplace, tiny_folder):
    write_suite(tiny_folder, "pick: {include_path: defs}")
    assert run() == 2, "the definition names no file of its own"
    assert run("--set", "tasks.pick.data=data.jsonl") == 0


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("suite.yaml", "pick:", "pikc:"), 2, "unknown task 'pikc' (did you mean 'pick'?)"),
        (("defs/pick.yaml", "text: question", "text: !function utils.f"), 2, "--trust-remote-code"),
        (("defs/pick.yaml", "text: question", "text: querstion"), 2, "(did you mean 'question'?)"),
        (("data.jsonl", '{"question"', '{{"question"'), 2, "data.jsonl:1: not JSON"),
    ],
)
def test_mistakes_end_before_a_model_is_loaded(
    workplace, change, code, message, capsys, monkeypatch
):
    monkeypatch.setattr("evalkit.executors.performing.perform", None)
    name, old, new = change
    path = workplace / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert run() == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_group_shows_its_pooled_metric_and_keeps_the_others(workplace, tiny_folder, capsys):
    for name in ("first", "second"):
        (workplace / "defs" / f"{name}.yaml").write_text(
            DEFINITION.replace("task: pick", f"task: {name}")
            + "dataset_kwargs: {data_files: {train: ../data.jsonl}}\n"
        )
    (workplace / "defs" / "pair.yaml").write_text("group: pair\ntask: [first, second]\n")
    write_suite(tiny_folder, "pair: {include_path: defs, limit: 6}")
    assert run("--json", "result.json") == 0
    metrics = result()["variants"]["fp16"]["metrics"]
    assert set(metrics) == {
        f"pair/{m}" for part in ("", "first/", "second/") for m in (f"{part}acc", f"{part}acc_norm")
    }
    assert metrics["pair/acc"]["n_samples"] == 12
    out = capsys.readouterr().out
    assert "pair/acc" in out
    assert "pair/first/acc" not in out
    (page,) = workplace.glob("reports/tiny/*/index.html")
    assert "pair/first/acc" in page.read_text(encoding="utf-8")


def test_a_variant_with_an_adapter_answers_otherwise_and_merged_it_answers_alike(
    workplace, tiny_folder
):
    write_rows(
        workplace / "text.jsonl", [{"text": f"{n}. The words are scored."} for n in range(8)]
    )
    Path("suite.yaml").write_text(
        f"name: tiny\nmodel: {tiny_folder}\nvariants: [nf4, nf4+adapter, dequant-merged]\n"
        "data: {t: text.jsonl}\nadapters:\n  a: {on: nf4, data: t, training: {steps: 4, "
        "max_length: 32, learning_rate: 1e-2, batch_size: 4}}\n"
        "tasks:\n  pick: {include_path: defs, data: data.jsonl}\n"
    )
    assert run() == 0
    with Store.open(str(workplace / "runs.db")) as store:
        record = store.load_run()
    found = {
        variant.name: [o.log_likelihoods[0] for o in variant.scores["pick/acc"].outcomes]
        for variant in record.variants
    }
    assert found["nf4"] != found["nf4+adapter"]
    assert found["dequant-merged"] == pytest.approx(found["nf4+adapter"], rel=0.05)
