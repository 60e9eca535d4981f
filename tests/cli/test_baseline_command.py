"""Baselines on the command line: promote, compare with, export, import, and what is refused."""

import json
import shutil
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
BASELINE_GATE = "  - {metric: perplexity, variant: nf4, against: baseline, max_increase: 1%}\n"
OTHER_GATE = "  - {metric: perplexity, variant: nf4, against: fp16, max_increase: 60%}\n"


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    """A folder with a suite of two variants, a copy of the weights, a cache and a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EVALKIT_DB", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    shutil.copytree(tiny_folder, tmp_path / "model")
    rows = [{"text": f"{text} Held out {n}."} for n, text in enumerate(TEXTS * 8)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "test.jsonl").write_text(lines)
    write_suite(tmp_path)
    return tmp_path


def write_suite(folder, gates=BASELINE_GATE + OTHER_GATE, **changes):
    text = f"""\
name: {changes.get("name", "tiny")}
model: ./model
data: {{test: test.jsonl}}
variants: [fp16, nf4]
metrics: {{perplexity: {{on: test, max_length: 64}}}}
gates:
{gates}"""
    (folder / "suite.yaml").write_text(text)


def evalkit(*arguments):
    return run_command_line([str(argument) for argument in arguments])


def run(*arguments):
    return evalkit("run", "suite.yaml", "--json", "result.json", *arguments)


def told(path="result.json"):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def verdicts(path="result.json"):
    return [verdict["verdict"] for verdict in told(path)["verdicts"]]


def worsen(folder):
    """The same model with an output layer that is far too sure of itself: a planted regression."""
    from safetensors.torch import load_file, save_file

    file = folder / "model" / "model.safetensors"
    weights = load_file(file)
    (name,) = [name for name in weights if name.startswith(("lm_head", "model.embed_tokens"))][:1]
    weights[name] = weights[name] * 8
    save_file(weights, file, metadata={"format": "pt"})


def first_run(folder, *arguments):
    """A run without a baseline, and its id."""
    run(*arguments)
    return told()["run"]


def promoted(folder):
    run_id = first_run(folder)
    assert evalkit("baseline", "promote", run_id) == 0
    return run_id


def test_the_first_run_is_no_dead_end(place, capsys):
    assert run() == 1
    assert verdicts() == ["MISSING", "PASS"]
    first = told()["run"]
    command = f"evalkit baseline promote {first}"
    assert told()["verdicts"][0]["message"].endswith(f"to make this run one: {command}")
    assert told()["baseline"] is None
    printed = capsys.readouterr().out
    assert f"  {command}\n" in printed
    assert "there is no baseline to judge the perplexity of nf4 by" in printed
    assert evalkit(*command.split()[1:]) == 0
    assert capsys.readouterr().out == f"Run {first} is now baseline main of suite tiny.\n"
    assert run() == 0
    assert verdicts() == ["PASS", "PASS"]
    used = told()["baseline"]
    assert (used["name"], used["run"], used["forced"]) == ("main", first, False)
    assert (used["relaxed"], used["differs"], used["place"]) == ([], [], "")
    assert f"compare with main (run {first}, promoted" in capsys.readouterr().out
    assert evalkit("gate", first) == 0


def test_the_command_names_the_store_that_was_given(place, capsys):
    assert run("--db", "other place.db") == 1
    command = f"evalkit baseline promote {told()['run']} --db 'other place.db'"
    assert f"  {command}\n" in capsys.readouterr().out
    assert evalkit("baseline", "list") != 0
    assert evalkit("gate", "--db", "other place.db") == 1
    assert f"  {command}\n" in capsys.readouterr().out


def test_bootstrap_promotes_the_first_run_and_nothing_after_it(place, capsys):
    assert run("--bootstrap") == 0
    first = told()["run"]
    assert verdicts() == ["PASS", "PASS"]
    assert told()["baseline"]["run"] == first
    assert "--bootstrap promoted this run: it is the first baseline main" in capsys.readouterr().out
    with Store.open() as store:
        assert store.load_run(first).exit_code == 0
        assert [b.run for b in store.list_baselines()] == [first]
    assert run("--bootstrap") == 0
    assert told()["baseline"]["run"] == first != told()["run"]
    assert f"--bootstrap changed nothing: there is a baseline, main (run {first}" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    with Store.open() as store:
        assert [b.run for b in store.list_baselines()] == [first]


def test_bootstrap_promotes_no_run_with_another_gate_that_is_not_ok(place, capsys):
    write_suite(place, BASELINE_GATE + OTHER_GATE.replace("60%", "-90%"))
    assert run("--bootstrap") == 1
    assert verdicts() == ["MISSING", "REGRESSED"]
    out = capsys.readouterr().out.replace("\n", " ")
    assert (
        "--bootstrap did not promote this run: perplexity of nf4 against fp16 is REGRESSED" in out
    )
    with Store.open() as store:
        assert store.list_baselines() == ()


def test_bootstrap_under_a_name_of_its_own(place):
    promoted(place)
    assert run("--baseline", "release", "--bootstrap") == 2
    write_suite(place, name="another")
    assert run("--baseline", "release", "--bootstrap") == 0
    assert told()["baseline"]["name"] == "release"


def test_a_planted_regression_against_the_baseline_is_found(place, capsys):
    first = promoted(place)
    worsen(place)
    capsys.readouterr()
    assert run() == 1
    verdict = told()["verdicts"][0]
    assert (verdict["verdict"], verdict["against"]) == ("REGRESSED", "baseline")
    assert verdict["effect"] > 0.1
    out = capsys.readouterr().out
    assert "To make this run the baseline" not in out
    worse = told()["run"]
    assert evalkit("gate", worse) == 1
    assert evalkit("gate", first) == 0
    capsys.readouterr()
    assert evalkit("baseline", "promote", worse) == 2
    refused = capsys.readouterr().err
    assert f"run {worse} is not promoted (--force" in refused
    assert "\n  perplexity of nf4 against baseline is REGRESSED" in refused
    assert evalkit("baseline", "promote", worse, "--force") == 0
    assert "by force" in capsys.readouterr().out
    assert run() == 0
    assert told()["baseline"]["forced"] is True
    assert "That baseline was promoted with --force" in capsys.readouterr().out
    assert evalkit("gate", worse) == 1, "judged again as it was: by the baseline of its time"
    assert evalkit("gate", worse, "--baseline", "main") == 0
    capsys.readouterr()
    assert evalkit("baseline", "list") == 0
    current, old = capsys.readouterr().out.splitlines()[1:]
    assert worse in current
    assert "current, forced" in current
    assert first in old
    assert "current" not in old


def test_a_gate_that_was_loosened_is_named_everywhere(place, capsys):
    promoted(place)
    write_suite(place, BASELINE_GATE.replace("1%", "3%"))
    assert run() == 0
    relaxed = [
        "perplexity of nf4 against baseline: budget relaxed 1 % → 3 %",
        "perplexity of nf4 against fp16: gate removed (it allowed 60 %)",
    ]
    assert told()["baseline"]["relaxed"] == relaxed
    out = capsys.readouterr().out.replace("\n", " ")
    (page,) = (place / "reports").glob(f"tiny/{told()['run']}/index.html")
    html = page.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    for what in relaxed:
        assert f"relaxed: {what}, since baseline main" in out
        assert f"{what}, since baseline main" in html


def test_another_library_version_is_compared_and_named(place, capsys, monkeypatch):
    from evalkit import provenance

    promoted(place)
    real = provenance.package_versions
    monkeypatch.setattr(provenance, "package_versions", lambda p: {**real(p), "torch": "9.9.9"})
    assert run() == 0
    assert [d for d in told()["baseline"]["differs"] if d.endswith("→ 9.9.9")]
    assert "compared all the same: torch 2" in capsys.readouterr().out.replace("\n", " ")


def test_other_data_are_not_comparable_and_the_way_on_is_told(place, capsys):
    promoted(place)
    assert run("--set", "data.test.limit=24") == 1
    verdict = told()["verdicts"][0]
    assert verdict["verdict"] == "INCOMPARABLE"
    assert "they differ in data" in verdict["message"]
    command = f"evalkit baseline promote {told()['run']} --force"
    assert verdict["message"].endswith(command)
    assert f"  {command}\n" in capsys.readouterr().out
    assert evalkit(*command.split()[1:]) == 0
    assert run("--set", "data.test.limit=24") == 0


def test_a_variant_that_the_baseline_does_not_have(place):
    promoted(place)
    suite = place / "suite.yaml"
    text = suite.read_text().replace("[fp16, nf4]", "[fp16, nf4, fp4]")
    suite.write_text(text + BASELINE_GATE.replace("nf4", "fp4"))
    assert run() == 1
    assert verdicts() == ["PASS", "PASS", "MISSING"]
    assert "has no perplexity of it" in told()["verdicts"][2]["message"]
    assert evalkit("baseline", "promote", told()["run"]) == 0
    assert run() == 0


# ------------------------------------------------------------------------- files


def test_a_committed_file_judges_as_the_store_does(place, monkeypatch, capsys):
    first = promoted(place)
    assert evalkit("baseline", "export", "baselines/tiny.json") == 0
    worsen(place)
    assert run() == 1
    by_store = told()
    monkeypatch.setenv("EVALKIT_DB", str(place / "elsewhere.db"))
    assert run("--baseline", "baselines/tiny.json") == 1
    by_file = told()
    assert by_file["verdicts"] == by_store["verdicts"]
    assert by_file["baseline"]["place"] == "baselines/tiny.json"
    with Store.open(str(place / "elsewhere.db")) as store:
        assert store.list_baselines() == ()
    assert evalkit("baseline", "import", "baselines/tiny.json") == 0
    assert f"Run {first} is now baseline main of suite tiny" in capsys.readouterr().out
    assert run() == 1
    assert told()["verdicts"] == by_store["verdicts"]
    assert evalkit("baseline", "import", "baselines/tiny.json") == 0
    assert f"Run {first} is already baseline main" in capsys.readouterr().out
    assert evalkit("baseline", "export", "again.json") == 0
    assert Path("again.json").read_bytes() == Path("baselines/tiny.json").read_bytes()


def test_a_run_that_a_file_judged_is_judged_again_by_that_file_alone(place, capsys):
    promoted(place)
    assert evalkit("baseline", "export", "b.json") == 0
    assert run("--baseline", "b.json") == 0
    run_id = told()["run"]
    assert evalkit("gate", run_id) == 0
    assert "read from b.json" in capsys.readouterr().out
    text = Path("b.json").read_text()
    Path("b.json").write_text(text.replace('"forced": false', '"forced": true'))
    assert evalkit("gate", run_id) == 2
    assert "b.json is not the baseline 'main'" in capsys.readouterr().err
    assert evalkit("gate", run_id, "--baseline", "main") == 0


def test_a_file_that_is_none_stops_before_anything_is_computed(place, capsys):
    Path("b.json").write_text("{}")
    assert run("--baseline", "b.json") == 2
    assert "b.json: is no baseline" in capsys.readouterr().err
    assert run("--baseline", "nowhere.json") == 2
    assert "nowhere.json: cannot be read" in capsys.readouterr().err
    assert evalkit("baseline", "import", "b.json") == 2
    assert not list(place.glob("reports/*"))


# ------------------------------------------------------------------------- refused


def test_a_name_that_no_baseline_has_is_told_with_those_there_are(place, capsys):
    promoted(place)
    assert run("--baseline", "mian") == 2
    assert "suite tiny has no baseline 'mian' (allowed: main, a file)" in capsys.readouterr().err
    assert evalkit("baseline", "show", "mian") == 2
    assert "no baseline 'mian' (there are: main of tiny)" in capsys.readouterr().err
    assert evalkit("baseline", "promote", "latest", "--name", "a/b") == 2
    assert "no name for a baseline" in capsys.readouterr().err


def test_several_suites_need_a_word_on_which(place, capsys):
    promoted(place)
    write_suite(place, name="another")
    promoted(place)
    assert evalkit("baseline", "show") == 2
    assert "several suites have a baseline 'main': add --suite another|tiny" in (
        capsys.readouterr().err
    )
    assert evalkit("baseline", "show", "--suite", "tiny") == 0
    assert "Baseline main of suite tiny" in capsys.readouterr().out


def test_show_says_what_a_baseline_holds(place, capsys):
    first = promoted(place)
    capsys.readouterr()
    assert evalkit("baseline", "show") == 0
    shown = capsys.readouterr().out
    assert f"run {first}, promoted 20" in shown
    assert shown.count("32 documents") == 2
    assert "gate  nf4: perplexity at most 1 % above the baseline" in shown
    assert evalkit("baseline", "export", "b.json") == 0
    capsys.readouterr()
    assert evalkit("baseline", "show", "b.json") == 0
    assert capsys.readouterr().out == shown


def test_a_run_without_a_gated_score_is_promoted_by_no_force(place, capsys, monkeypatch):
    from evalkit.weights import steps

    real = steps.build_variant

    def broken(path, context, **arguments):
        if len(path) > 1:
            raise RuntimeError("no such kernel")
        return real(path, context, **arguments)

    monkeypatch.setattr(steps, "build_variant", broken)
    assert run("--bootstrap") == 3
    assert "--bootstrap did not promote this run: the job 'score nf4' failed" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    for arguments in ((), ("--force",)):
        assert evalkit("baseline", "promote", "latest", *arguments) == 2
        assert "can be no baseline: it has no perplexity of nf4" in capsys.readouterr().err


def test_an_interrupted_run_needs_force(place, capsys):
    run()
    with Store.open() as store:
        store.finish_run(told()["run"], seconds=1.0, exit_code=130)
    assert evalkit("baseline", "promote", "latest") == 2
    assert "it was interrupted" in capsys.readouterr().err
    assert evalkit("baseline", "promote", "latest", "--force") == 0


def test_a_variant_cannot_be_called_baseline(place, capsys):
    suite = place / "suite.yaml"
    suite.write_text(
        suite.read_text().replace("[fp16, nf4]", "[fp16, nf4, baseline: [load: fp32]]")
    )
    assert run() == 2
    assert "suite.yaml:4: variants.2: 'baseline' is what gates call" in capsys.readouterr().err


def test_a_wrong_reference_is_told_that_baseline_is_one(place, capsys):
    write_suite(place, BASELINE_GATE.replace("baseline", "basline"))
    assert run() == 2
    assert "(did you mean 'baseline'?) (allowed: fp16, nf4, baseline)" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["promote", "list", "show", "export", "import"])
def test_every_verb_below_baseline_ends_its_help_with_an_example(verb, capsys):
    assert evalkit("baseline", verb, "--help") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].strip(" │").startswith(f"Example: evalkit baseline {verb}")


def test_judging_by_a_baseline_needs_no_torch(place):
    promoted(place)
    assert run() == 0
    assert evalkit("baseline", "export", "b.json") == 0
    for line in ("gate latest", "gate latest --baseline b.json", "baseline show",
                 "compare baseline latest", "baseline import b.json"):  # fmt: skip
        code = (
            "import sys; from evalkit.cli import run_command_line as r;"
            f"c = r({line.split()!r}); print('torch' in sys.modules, c)"
        )
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert answer.stdout.strip().splitlines()[-1] == "False 0", (line, answer.stderr)
