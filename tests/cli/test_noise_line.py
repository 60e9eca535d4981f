"""Noise on the command line: A/A, training seeds, and what a plan says that gates could see."""

import json
from dataclasses import replace
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
ADAPTER_GATE = "{metric: perplexity, variant: nf4+tuned, against: nf4, max_increase: 0%}"
BASE_GATE = "{metric: perplexity, variant: nf4, against: fp32, max_increase: %s}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cache that the tests share: an adapter is trained once for each seed."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path, tiny_folder, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(trained))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", "140")
    write_rows(tmp_path / "train.jsonl", [f"{n}. {text}" for n in range(6) for text in TEXTS])
    write_rows(tmp_path / "test.jsonl", [f"{t} Held out {n}." for n, t in enumerate(TEXTS * 8)])
    write_suite(tmp_path, tiny_folder)
    return tmp_path


def write_rows(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_suite(place, model, *, seeds="seed: 0", gates=(ADAPTER_GATE,), variants=()):
    names = variants or ("fp32: [load: fp32]", "nf4", "nf4+tuned")
    (place / "suite.yaml").write_text(
        f"""\
name: noise
model: {{source: {model}, dtype: fp32}}
data: {{train: train.jsonl, test: test.jsonl}}
adapters:
  tuned:
    on: nf4
    data: train
    lora: {{r: 4}}
    training: {{steps: 4, batch_size: 2, max_length: 64, learning_rate: 1e-2, {seeds}}}
variants:
{"".join(f"  - {name}{chr(10)}" for name in names)}metrics:
  perplexity: {{on: test, max_length: 64, batch_tokens: 512}}
gates:
{"".join(f"  - {gate}{chr(10)}" for gate in gates)}"""
    )


def run(*arguments):
    code = run_command_line(["run", *arguments, "--json", "result.json"])
    return code, json.loads(Path("result.json").read_text(encoding="utf-8"))


def runs():
    with Store.open("runs.db") as store:
        return [store.load_run(summary.id) for summary in store.list_runs(50)]


def rough_batches(monkeypatch, shift):
    """Plants noise: the second scoring of the same weights comes out `shift` nats higher."""
    from evalkit.scoring import perplexity

    real = perplexity.score_windows

    def planted(model, windows, *, longest_last, **others):
        scored = real(model, windows, longest_last=longest_last, **others)
        for batch in scored:
            yield [
                (index, replace(found, losses=found.losses + (shift if longest_last else 0.0)))
                for index, found in batch
            ]

    monkeypatch.setattr(perplexity, "score_windows", planted)


# ----------------------------------------------------------------------------- A/A


def test_the_same_weights_in_other_batches_move_next_to_nothing_in_float32(place, capsys):
    write_suite(place, model_of(place), gates=[BASE_GATE % "300%"])
    code, told = run("--aa", "suite.yaml")
    assert code == 0
    (repeat,) = told["variants"]["nf4"]["repeats"]
    assert (repeat["kind"], repeat["label"]) == ("aa", "batches of 128 tokens, longest last")
    own = told["variants"]["nf4"]["metrics"]["perplexity"]["value"]
    assert repeat["metrics"]["perplexity"] == pytest.approx(own, rel=1e-5)
    with Store.open("runs.db") as store:
        (verdict,) = store.load_run().verdicts
    assert verdict.noise_floor < 1e-5
    assert "Noise floor: scoring the same weights twice moves perplexity" in capsys.readouterr().out


def model_of(place):
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(place / "suite.yaml")["model"]["source"]


def test_a_gate_that_is_tighter_than_the_machines_noise_is_refused(place, capsys, monkeypatch):
    model = model_of(place)
    write_suite(place, model, gates=[BASE_GATE % "300%", BASE_GATE % "0.5%"])
    rough_batches(monkeypatch, 0.02)
    code, told = run("suite.yaml", "--aa")
    assert code == 1
    loose, tight = told["verdicts"]
    assert loose["verdict"] == "PASS"
    with Store.open("runs.db") as store:
        floor = store.load_run().verdicts[0].noise_floor
    assert floor == pytest.approx(0.0202, rel=0.01)
    assert tight["verdict"] in ("INCONCLUSIVE", "REGRESSED")

    capsys.readouterr()
    before = len(runs())
    assert run_command_line(["run", "suite.yaml"]) == 2
    message = capsys.readouterr().err
    line = (place / "suite.yaml").read_text().split("\n").index(f"  - {BASE_GATE % '0.5%'}") + 1
    assert f"suite.yaml:{line}: gates.1: budget 0.5 % is tighter than" in message
    assert f"noise floor, 2 % (measured in run {runs()[0].id})" in message
    assert len(runs()) == before

    assert run_command_line(["plan", "suite.yaml"]) == 0
    assert "a run would stop: suite.yaml" in capsys.readouterr().out
    assert run("suite.yaml", "--aa")[0] == 1, "measuring again is never refused"
    write_suite(place, model, gates=[BASE_GATE % "300%", BASE_GATE % "5%"])
    assert run("suite.yaml")[0] in (0, 1), (
        "another measure is another floor; a wider gate is judged"
    )


def test_a_stored_floor_is_in_later_verdicts_and_judging_again_says_the_same(place, monkeypatch):
    write_suite(place, model_of(place), gates=[BASE_GATE % "300%"])
    rough_batches(monkeypatch, 0.02)
    assert run("suite.yaml", "--aa")[0] == 0
    first = runs()[0]
    assert run("suite.yaml")[0] == 0
    second = runs()[0]
    assert second.variants[1].repeats == ()
    assert second.verdicts[0].noise_floor == first.verdicts[0].noise_floor > 0.02
    from evalkit.runner import verdicts_of

    assert verdicts_of(second)[0] == second.verdicts


def test_an_aa_score_is_reused_and_force_measures_again(place):
    write_suite(place, model_of(place), gates=[BASE_GATE % "300%"])
    assert run("--aa", "suite.yaml")[0] == 0
    assert run("--aa", "suite.yaml")[0] == 0
    again, first = runs()
    scores = [record.variants[1].repeats[0].scores["perplexity"] for record in (first, again)]
    assert scores[0].sums.tobytes() == scores[1].sums.tobytes()
    assert run("--aa", "--force", "suite.yaml")[0] == 0
    assert len(runs()[0].variants[1].repeats) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--aa=twice"], "twice"),
        (["--aa=train", "--set", "variants=[fp16]", "--set", "gates=[]"], "trains no adapter"),
    ],
)
def test_what_cannot_be_measured_exits_2(place, capsys, arguments, told):
    assert run_command_line(["run", "suite.yaml", *arguments]) == 2
    assert told in capsys.readouterr().err


# ----------------------------------------------------------------------------- seeds


def test_an_adapter_is_trained_once_for_each_seed_and_judged_over_all(place, tmp_path, monkeypatch):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "own"))
    model = model_of(place)
    write_suite(place, model, seeds="seeds: [0, 1]")
    code, told = run("suite.yaml")
    assert code in (0, 1)
    assert list(told["adapters"]) == ["tuned", "tuned (seed 1)"]
    record = runs()[0]
    (repeat,) = record.variants[2].repeats
    assert (repeat.kind, repeat.label) == ("seed", "seed 1")
    (verdict,) = record.verdicts
    assert verdict.n_seeds == 2
    assert "over 2 training seeds" in verdict.message
    effects = [effect(score, record) for score in draws(record)]
    assert effects[0] != effects[1]
    assert verdict.effect == pytest.approx(sum(effects) / 2, rel=0.01)

    write_suite(place, model, seeds="seeds: [0, 1, 2]")
    run("suite.yaml")
    more = runs()[0]
    assert [job.status for job in more.adapters] == ["reused", "reused", "done"]
    assert [job.facts["seed"] for job in more.adapters] == [0, 1, 2]
    assert len(more.variants[2].repeats) == 2
    ships = [one.variants[2].scores["perplexity"].sums.tobytes() for one in (record, more)]
    assert ships[0] == ships[1], "the first seed's adapter is the one that ships"
    assert run_command_line(["export", "nf4+tuned", "exported"]) == 0


def draws(record):
    variant = record.variants[2]
    repeats = [repeat for repeat in variant.repeats if repeat.kind == "seed"]
    return [variant.scores["perplexity"], *(one.scores["perplexity"] for one in repeats)]


def effect(score, record):
    return score.value / record.variants[1].scores["perplexity"].value - 1


def test_aa_train_measures_the_spread_and_later_runs_take_it_up(place):
    code, told = run("suite.yaml", "--aa=train")
    assert code in (0, 1)
    assert list(told["adapters"]) == ["tuned", "tuned (seed 1)", "tuned (seed 2)"]
    measured = runs()[0]
    labels = [repeat.label for repeat in measured.variants[2].repeats]
    assert labels == ["seed 1", "seed 2"]
    (verdict,) = measured.verdicts
    assert verdict.n_seeds == 3
    assert verdict.effect == pytest.approx(effect(draws(measured)[0], measured))

    run("suite.yaml")
    later = runs()[0]
    assert [job.name for job in later.adapters] == ["train tuned"]
    assert later.verdicts == measured.verdicts
    run("suite.yaml", "--set", "adapters.tuned.training.seed=1")
    other = runs()[0]
    assert [repeat.label for repeat in other.variants[2].repeats] == ["seed 0", "seed 2"]
    assert other.verdicts[0].training_spread == pytest.approx(verdict.training_spread)
    run("suite.yaml", "--set", "adapters.tuned.training.steps=3")
    assert runs()[0].verdicts[0].n_seeds is None, "another recipe has another spread"


def test_a_seed_that_fails_leaves_the_rest_and_exits_3(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "own"))
    write_suite(place, model_of(place), seeds="seeds: [0, 1]")
    from evalkit.weights import training

    real = training.train_adapter

    def broken(adapter, spec, *rest, **named):
        if spec.training.seed == 1:
            raise RuntimeError("no luck")
        return real(adapter, spec, *rest, **named)

    monkeypatch.setattr(training, "train_adapter", broken)
    code, told = run("suite.yaml")
    assert code == 3
    assert told["variants"]["nf4+tuned"]["status"] == "scored"
    assert "seed 1 is missing: tuned (seed 1) was not trained" in capsys.readouterr().out
    record = runs()[0]
    assert record.verdicts[0].n_seeds is None
    from evalkit.runner import verdicts_of

    assert verdicts_of(record)[1] == 3


# ----------------------------------------------------------------------------- plan


def test_a_plan_says_what_each_gate_could_see(place, capsys):
    model = model_of(place)
    gates = [BASE_GATE % "900%", BASE_GATE % "0.01%", ADAPTER_GATE]
    write_suite(place, model, gates=gates)
    assert run_command_line(["plan", "suite.yaml", "--db", "empty.db"]) == 0
    unknown = capsys.readouterr().out
    assert unknown.count("not known yet") == 3
    assert "evalkit plan suite.yaml --pilot 20" in unknown
    run("suite.yaml")
    capsys.readouterr()
    assert run_command_line(["plan", "suite.yaml"]) == 0
    known = capsys.readouterr().out
    assert known.count(f"run {runs()[0].id}") >= 3
    assert "a rise of" in known
    assert "yes (down to" in known
    assert "no: needs a budget of" in known
    assert "no: an improvement is asked for" in known


def test_a_pilot_scores_the_first_documents_and_keeps_nothing(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "own"))
    write_suite(place, model_of(place), gates=[BASE_GATE % "900%", ADAPTER_GATE])
    assert run_command_line(["plan", "suite.yaml", "--pilot", "12"]) == 0
    told = capsys.readouterr()
    assert "a pilot of the first 12" in told.out
    assert "yes (down to" in told.out
    assert told.out.count("not known yet") == 1, "what is not trained is not known"
    assert "score nf4+tuned" not in told.err
    assert runs() == []


def test_a_plan_lists_every_training_and_every_repeat_with_its_memory(place, capsys):
    arguments = ["--set", "adapters.tuned.training.seeds=[0, 1, 2]", "--aa"]
    assert run_command_line(["plan", "suite.yaml", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    for job in ("train tuned (seed 2)", "score nf4+tuned (seed 1)", "score nf4+tuned (A/A)"):
        (line,) = [line for line in lines if line.startswith(job)]
        assert " MB " in line, line
