"""Definitions and data of tasks: found, checked and digested without lm-eval."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.errors import DataError, NetworkError, SuiteError
from evalkit.suite import load_suite
from evalkit.tasks.definitions import METRICS, builtin_index
from evalkit.tasks.sources import resolve_tasks

SHIPPED = Path(__file__).resolve().parents[2] / "suites" / "tasks"
PAIR = {"sentence_good": "Words are read.", "sentence_bad": "Words is read.", "field": "syntax"}


@pytest.fixture(scope="session")
def index_cache(tmp_path_factory):
    """lm-eval's thousands of definitions are read once."""
    return tmp_path_factory.mktemp("index")


@pytest.fixture
def resolve(tmp_path, index_cache):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(PAIR) + "\n" for _ in range(3)))

    def resolve(tasks, gates="", cache=index_cache):
        text = f"name: t\nmodel: ./m\nvariants: [fp16]\ntasks: {tasks}\n{gates}"
        (tmp_path / "suite.yaml").write_text(text)
        return resolve_tasks(load_suite(tmp_path / "suite.yaml"), cache)

    return resolve


def blimp(**more):
    settings = {"task": "blimp", "include_path": str(SHIPPED), "data": "pairs.jsonl", **more}
    return json.dumps([settings])


def test_a_shipped_definition_reads_the_suites_file(resolve, tmp_path):
    source = resolve(blimp())["blimp"]
    assert source.kind == "task"
    assert source.overrides["dataset_kwargs"] == {
        "data_files": {"train": str(tmp_path / "pairs.jsonl")}
    }
    assert source.code == ()


def test_the_digest_is_of_contents_and_not_of_places(resolve, tmp_path):
    first = resolve(blimp())["blimp"].digest
    (tmp_path / "moved.jsonl").write_text((tmp_path / "pairs.jsonl").read_text())
    assert resolve(blimp(data="moved.jsonl"))["blimp"].digest == first
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    assert resolve(blimp())["blimp"].digest != first
    other = tmp_path / "defs"
    other.mkdir()
    text = (SHIPPED / "blimp.yaml").read_text()
    (other / "mine.yaml").write_text(text)
    same = resolve(blimp(include_path="defs"))["blimp"].digest
    (other / "mine.yaml").write_text(text.replace("num_fewshot: 0", "num_fewshot: 1"))
    assert resolve(blimp(include_path="defs"))["blimp"].digest != same


def test_an_included_file_is_digested_too(resolve, tmp_path):
    folder = tmp_path / "defs"
    folder.mkdir()
    (folder / "base").write_text((SHIPPED / "blimp.yaml").read_text().replace("task: blimp", ""))
    (folder / "blimp.yaml").write_text("include: base\ntask: blimp\n")
    first = resolve(blimp(include_path="defs"))["blimp"].digest
    with (folder / "base").open("a") as file:
        file.write("# another comment\n")
    assert resolve(blimp(include_path="defs"))["blimp"].digest != first


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            [{"task": "blimpp", "include_path": str(SHIPPED)}],
            "suite.yaml:4: tasks.blimpp.task: unknown task 'blimpp' (did you mean 'blimp'?)",
        ),
        (["hellaswagg"], "unknown task 'hellaswagg' (did you mean 'hellaswag"),
    ],
)
def test_an_unknown_task_gets_the_nearest_name_and_its_line(resolve, tasks, message):
    with pytest.raises(SuiteError) as caught:
        resolve(json.dumps(tasks))
    assert message in str(caught.value)


def test_a_gate_on_a_metric_that_the_definition_lacks_is_found_before_a_run(resolve):
    gates = "gates:\n  - {metric: blimp/acc_nrom, variant: fp16, min: 0.5}\n"
    with pytest.raises(SuiteError) as caught:
        resolve(blimp(), gates)
    assert "suite.yaml:6: gates.0.metric: task 'blimp' has no metric 'acc_nrom'" in str(
        caught.value
    )
    assert "(allowed: blimp/acc)" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{broken\n", r"pairs\.jsonl:1: not JSON"),
        ("", r"pairs\.jsonl: holds no samples"),
        ('{"good": "a", "sentence_bad": "b"}\n', r"wants the column 'sentence_good'.*columns of"),
    ],
)
def test_data_that_cannot_be_used_is_refused_before_a_run(resolve, tmp_path, lines, message):
    (tmp_path / "pairs.jsonl").write_text(lines)
    with pytest.raises(DataError, match=message):
        resolve(blimp())


def test_a_name_that_is_no_column_is_not_taken_as_the_text_itself(resolve, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"input": "A or B? Answer:", "answer": "A"}\n')
    with pytest.raises(DataError, match="doc_to_target: wants the column 'output'"):
        resolve(blimp(task="mmlu_prompts"))


def test_a_cluster_that_is_no_column(resolve):
    with pytest.raises(DataError, match=r"cluster: no column 'fields' \(did you mean 'field'\?\)"):
        resolve(blimp(cluster="fields"))


def test_a_file_that_is_not_there(resolve):
    with pytest.raises(DataError, match=r"there is no file .*gone\.jsonl"):
        resolve(blimp(data="gone.jsonl"))


def test_a_folder_that_is_not_there(resolve):
    with pytest.raises(DataError, match="nowhere: there is no such folder of task definitions"):
        resolve(blimp(include_path="nowhere"))


def test_a_definition_that_is_not_yaml(resolve, tmp_path):
    (tmp_path / "defs").mkdir()
    (tmp_path / "defs" / "a.yaml").write_text("task: a\n  doc: [\n")
    with pytest.raises(DataError, match=r"a\.yaml:2: not YAML"):
        resolve(blimp(include_path="defs"))


def test_a_metric_that_lm_eval_would_fetch_as_a_script_is_code(resolve, tmp_path):
    (tmp_path / "defs").mkdir()
    text = (SHIPPED / "blimp.yaml").read_text().replace("metric: acc", "metric: acuracy")
    (tmp_path / "defs" / "blimp.yaml").write_text(text)
    (code,) = resolve(blimp(include_path="defs"))["blimp"].code
    assert "metric 'acuracy' is none of lm-eval's own" in code


def test_a_hubs_data_that_is_not_here_is_an_error_at_once(resolve, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    with pytest.raises(NetworkError, match=r"Rowan/hellaswag, is not in the local cache.*OFFLINE"):
        resolve("[hellaswag]")
    reference = tmp_path / "hub" / "datasets--Rowan--hellaswag" / "refs"
    reference.mkdir(parents=True)
    (reference / "main").write_text("abc123")
    first = resolve("[hellaswag]")["hellaswag"].digest
    (reference / "main").write_text("def456")
    assert resolve("[hellaswag]")["hellaswag"].digest != first


def test_lm_evals_own_groups_are_followed_to_their_tasks(index_cache):
    from evalkit.machine import package_versions

    index = builtin_index(package_versions(("lm_eval",))["lm_eval"], index_cache)
    leaves = [d for d in index.closure("mmlu") if d.kind == "task"]
    assert len(leaves) == 57
    assert {d.config["dataset_path"] for d in leaves} == {"cais/mmlu"}


def test_the_metrics_that_are_known_are_lm_evals():
    import lm_eval.api.metrics  # noqa: F401 - it fills the registry
    from lm_eval.api.registry import metric_registry

    assert set(METRICS) == set(metric_registry.keys())


def test_every_definition_that_ships_is_read():
    from evalkit.tasks.definitions import local_index

    assert set(local_index(SHIPPED).files) == {"blimp", "mmlu_prompts"}


def test_resolving_imports_nothing_heavy(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "s.yaml").write_text(f"name: t\nmodel: ./m\nvariants: [fp16]\ntasks: {blimp()}\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from evalkit.suite import load_suite; from evalkit.tasks.sources import resolve_tasks\n"
        f"resolve_tasks(load_suite({str(tmp_path / 's.yaml')!r}), Path({str(tmp_path)!r}))\n"
        "print('loaded:', *sorted({'torch', 'lm_eval', 'datasets'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "loaded:", answer.stderr[-500:]
