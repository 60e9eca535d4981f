"""Why a variant lost something, through the whole line: divergence, costs, checks, modules."""

import json
from pathlib import Path

import pytest

from evalkit.cli import run_command_line
from evalkit.records import COSTS
from evalkit.store import Store

pytestmark = pytest.mark.system

TEXTS = [
    "The model reads the words and the words are scored one by one, and then again.",
    "A quantised weight lies on a grid; an adapter moves it a little.",
    "Perplexity is the exponential of the mean loss of every token.",
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with data, and a cache and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", "120")
    rows = [{"text": f"{text} Held out {n}."} for n, text in enumerate(TEXTS * 8)]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def write(tiny_folder):
    """Writes suite.yaml with some variants, and what else the suite says."""

    def written(variants, *, metrics="", more="", gates=()):
        lines = "".join(f"  - {variant}\n" for variant in variants)
        promised = "".join(f"  - {gate}\n" for gate in gates)
        Path("suite.yaml").write_text(
            f"name: tiny\nmodel: {{source: {tiny_folder}, dtype: fp32}}\n"
            f"data: {{test: test.jsonl}}\n{more}variants:\n{lines}"
            f"metrics:\n  perplexity: {{on: test, max_length: 64}}\n{metrics}"
            f"{f'gates:{chr(10)}{promised}' if promised else ''}"
        )

    return written


@pytest.fixture
def adapter(tmp_path_factory, tiny_folder):
    """Makes an adapter on the tiny model; with a second factor of size 0 it is nothing."""

    def made(size):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_folder)
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=size) if size else parameter.zero_()
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        return f"adapters: {{tuned: {{from: {folder}}}}}\n"

    return made


def run(*arguments):
    return run_command_line(["run", "suite.yaml", "--json", "result.json", *arguments])


def variants():
    return json.loads(Path("result.json").read_text(encoding="utf-8"))["variants"]


DIVERGENCE = "  divergence: {on: test, reference: fp32, max_length: 64, tokens: 400}\n"


def test_divergence_is_measured_from_a_reference_that_is_gone_afterwards(workplace, write, capsys):
    write(["fp32", "nf4", "int8"], metrics=DIVERGENCE)
    assert run() == 0
    assert "[1/4] reference fp32: log-probabilities" in capsys.readouterr().err
    found = {name: v["metrics"].get("divergence") for name, v in variants().items()}
    assert found["fp32"] is None
    assert found["nf4"]["value"] > found["int8"]["value"] > 0
    nf4 = found["nf4"]
    assert nf4["stderr"] > 0
    assert nf4["n_tokens"] <= 400
    assert nf4["kl_max"] >= nf4["kl_99"] > nf4["kl_median"] >= 0
    assert 0 < nf4["same_top"] < 1
    with Store.open("runs.db") as store:
        (reference,) = store.load_run().references
    assert reference.name == "reference fp32"
    assert reference.facts["written_bytes"] > 400 * 320
    assert list((workplace / "cache" / "scratch").iterdir()) == []


def test_two_models_in_lockstep_say_the_same_and_write_nothing(workplace, write):
    write(["fp32", "nf4"], metrics=DIVERGENCE)
    assert run() == 0
    written = variants()["nf4"]["metrics"]["divergence"]
    write(["fp32", "nf4"], metrics=DIVERGENCE.replace("tokens: 400", "tokens: 400, lockstep: true"))
    assert run() == 0
    lockstep = variants()["nf4"]["metrics"]["divergence"]
    assert lockstep["kl_error_bound"] == 0 < written["kl_error_bound"]
    assert lockstep["value"] == pytest.approx(written["value"], abs=written["kl_error_bound"])
    assert lockstep["value"] == pytest.approx(written["value"], rel=1e-3)
    with Store.open("runs.db") as store:
        assert store.load_run().references == ()


def test_gates_limit_divergence_and_costs(workplace, write):
    gates = [
        "{metric: divergence, variant: nf4, max: 100}",
        "{metric: divergence, variant: nf4, against: int8, max_increase: 0}",
        "{metric: disk, variant: nf4, against: fp32, max_decrease: 1}",
    ]
    write(["fp32", "nf4", "int8"], metrics=DIVERGENCE, gates=gates)
    assert run() == 2, "bytes are better when lower"
    gates[2] = "{metric: disk, variant: nf4, against: fp32, max_increase: -40%}"
    write(["fp32", "nf4", "int8"], metrics=DIVERGENCE, gates=gates)
    assert run() == 1
    told = json.loads(Path("result.json").read_text())["verdicts"]
    assert [verdict["verdict"] for verdict in told] == ["PASS", "REGRESSED", "IMPROVED"]


def test_a_reference_that_fails_takes_nothing_else_with_it(workplace, write, monkeypatch, capsys):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device", "codes.npy")

    monkeypatch.setattr("evalkit.scoring.divergence.write_reference", full)
    write(["fp32", "nf4"], metrics=DIVERGENCE)
    assert run() == 3
    told = variants()
    assert {name for name, v in told.items() if v["metrics"].keys() == {"perplexity"}} == set(told)
    out = " ".join(capsys.readouterr().out.split())
    assert "Divergence was not measured: reference fp32: the disk is full" in out


def test_every_variant_has_its_costs_and_they_are_measured_once(workplace, write, monkeypatch):
    write(["fp32", "nf4"])
    assert run() == 0
    first = {name: v["cost"] for name, v in variants().items()}
    assert set(first["nf4"]) > set(COSTS)
    assert first["nf4"]["disk"] < first["fp32"]["disk"]
    assert first["nf4"]["parameters"] == first["fp32"]["parameters"]
    monkeypatch.setattr("evalkit.executors.performing._perform", None)
    write(["nf4", "base: [load: fp32]"])
    assert run() == 0
    assert variants()["nf4"]["cost"] == first["nf4"]
    assert variants()["base"]["cost"] == first["fp32"]


def test_costs_and_the_reload_check_can_be_left_out(workplace, write):
    write(["fp32", "nf4"], metrics="  footprint: false\n  reload_check: false\n")
    assert run() == 0
    nf4 = variants()["nf4"]
    assert nf4["cost"] == {}
    assert [check["check"] for check in nf4["facts"]["checks"]] == ["finite"]


def test_weights_that_their_files_do_not_hold_fail_the_variant(workplace, write, monkeypatch):
    """What bitsandbytes' rearranging does on some CPUs, planted so that it shows on every one."""
    from bitsandbytes.nn import Linear4bit

    save = Linear4bit._save_to_state_dict

    def shuffled(self, destination, prefix, keep_vars):
        save(self, destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].roll(64, 0)

    monkeypatch.setattr(Linear4bit, "_save_to_state_dict", shuffled)
    write(["fp32", "nf4"])
    assert run() == 3
    told = variants()
    assert told["fp32"]["status"] == "scored"
    assert told["nf4"]["status"] == "failed"
    assert "what was scored is not what its files say" in told["nf4"]["error"]


def test_checks_are_recorded_and_go_with_reused_numbers(workplace, write, adapter):
    write(["nf4", "nf4+adapter"], more=adapter(0.2))
    assert run() == 0
    first = {name: v["facts"]["checks"] for name, v in variants().items()}
    assert [check["check"] for check in first["nf4+adapter"]] == [
        "finite",
        "zero adapter",
        "reload",
    ]
    assert all(check["ok"] for check in first["nf4+adapter"])
    assert run() == 0
    assert {name: v["facts"]["checks"] for name, v in variants().items()} == first


def test_an_adapter_of_zeros_is_named(workplace, write, adapter, capsys):
    write(["nf4", "nf4+adapter"], more=adapter(0))
    assert run() == 0
    assert "zero adapter: 0 of 14 modules are changed" in " ".join(capsys.readouterr().out.split())


def test_what_a_merge_did_to_every_module_is_stored_and_reused(workplace, write, adapter):
    write(["nf4", "merged-4bit"], more=adapter(0.02))
    assert run() == 0
    with Store.open("runs.db") as store:
        first = store.load_run().variants[1].scores["survival"]
    assert len(first.modules) == 14
    assert {part.module.rpartition(".")[2] for part in first.modules} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    pooled = sum(part.inner for part in first.modules) / sum(p.wanted for p in first.modules)
    assert first.value == pytest.approx(pooled, rel=1e-12)
    assert run() == 0
    with Store.open("runs.db") as store:
        again = store.load_run().variants[1].scores["survival"]
    assert again.modules == first.modules


def test_a_plan_tells_how_much_the_reference_writes(workplace, write, capsys):
    write(["fp32", "nf4"], metrics=DIVERGENCE)
    assert run_command_line(["plan", "suite.yaml"]) == 0
    out = capsys.readouterr().out
    assert "reference fp32" in out
    # 400 rows of 320 logits in two bytes, and 16 bytes a row.
    assert "262.4 kB, deleted" in out
    assert run() == 0
    capsys.readouterr()
    assert run_command_line(["plan", "suite.yaml"]) == 0
    assert "not needed: every divergence is stored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("divergence: {on: test, reference: fp8}", "unknown variant 'fp8'"),
        ("divergence: {on: tset, reference: nf4}", "unknown data 'tset' (did you mean 'test'?)"),
        ("divergence: {on: test}", "metrics.divergence.reference: missing"),
        ("divergence: {on: test, reference: nf4, score_on: completion}", "has neither prompt and"),
        ("divergence: {on: test, reference: nf4, tokens: 2000000}", "1000000"),
    ],
)
def test_mistakes_in_divergence_are_told_with_their_line(workplace, write, line, message, capsys):
    write(["fp32", "nf4"], metrics=f"  {line}\n")
    assert run() == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("metric: divergence, variant: nf4, max: 1", "the suite measures no divergence"),
        ("metric: disc, variant: nf4, max: 1", "unknown metric 'disc' (did you mean 'disk'?)"),
        ("metric: disk, variant: nf4, against: fp32, max_increase: 1pp", "no percentage points"),
        ("metric: decode_speed, variant: nf4, against: fp32, max_increase: 1", "use max_decrease"),
    ],
)
def test_mistakes_in_gates_on_costs_and_divergence(workplace, write, gate, message, capsys):
    write(["fp32", "nf4"], gates=[f"{{{gate}}}"])
    assert run() == 2
    assert message in " ".join(capsys.readouterr().err.split())
