"""What to ship: the smallest that passes, why, and the command that writes it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from evalkit.cli.export import register
from evalkit.records import SURVIVAL
from evalkit.report.advice import advice
from evalkit.report.facts import storage_bits
from evalkit.report.html import render_html
from evalkit.report.json.run import run_json
from evalkit.report.markdown.summary import markdown
from evalkit.report.recommendation import recommended
from evalkit.report.sentence import verdict_sentence


def changed(run, which, **changes):
    variants = tuple(replace(v, **changes) if v.name == which else v for v in run.variants)
    return replace(run, variants=variants)


def sized(made_up, run, **sizes):
    """The run with the bytes of some variants changed; names with `_` for what Python forbids."""
    for name, size in sizes.items():
        name = {"adapter": "nf4+adapter", "merged": "fp16-merged-nf4"}[name]
        variant = next(v for v in run.variants if v.name == name)
        run = changed(run, name, scores={**variant.scores, **made_up.costs(size)})
    return run


def names(run):
    return [variant.name for variant in recommended(run)]


def test_the_smallest_that_passes_with_its_reasons(made_up):
    run = made_up.costly_run()
    variant = next(v for v in run.variants if v.name == "fp16-merged-nf4")
    score = replace(variant.scores["disk"], metric=SURVIVAL, value=0.884, unit="share")
    run = changed(run, "fp16-merged-nf4", scores={**variant.scores, SURVIVAL: score})
    found = advice(run)
    assert found.variant == "fp16-merged-nf4"
    assert found.reasons == (
        "passes its gates",
        "92.2 MB on disk, the smallest of those that may be shipped",
        "keeps 88.4 % of the adapter",
        "bits/byte 0.978 against 1.074 of fp16",
    )
    assert found.words == f"Recommended: fp16-merged-nf4 – {'; '.join(found.reasons)}."


def test_two_percent_of_bytes_decide_nothing_and_more_do(made_up):
    run = made_up.costly_run()
    assert names(sized(made_up, run, merged=100e6, adapter=102e6)) == [
        "fp16-merged-nf4", "nf4+adapter",
    ]  # fmt: skip
    # The adapter's variant is smaller by less than 2 %: what needs no adapter beside it is first.
    assert names(sized(made_up, run, merged=102e6, adapter=100.1e6))[0] == "fp16-merged-nf4"
    assert names(sized(made_up, run, merged=102.3e6, adapter=100e6)) == ["nf4+adapter"]


def test_equals_are_named(made_up):
    run = sized(made_up, made_up.costly_run(), merged=100e6, adapter=101e6)
    assert advice(run).reasons[1] == (
        "100 MB on disk, as small as nf4+adapter, within 2 %, and needs no adapter beside it"
    )


def test_measured_bytes_count_more_than_what_a_path_promises(made_up):
    """4 bits and a huge adapter are larger than 16 bits in one piece."""
    run = made_up.costly_run()
    run = changed(run, "fp16-merged-nf4", path=({"load": "fp16"}, {"attach": "a"}, {"merge": True}))
    run = sized(made_up, run, merged=269e6, adapter=400e6)
    assert names(run) == ["fp16-merged-nf4"]
    bare = tuple(replace(v, scores={"perplexity": v.scores["perplexity"]}) for v in run.variants)
    assert names(replace(run, variants=bare)) == ["nf4+adapter"]


def test_one_size_that_is_missing_sends_all_back_to_bits(made_up):
    run = made_up.costly_run()
    variant = next(v for v in run.variants if v.name == "nf4+adapter")
    run = changed(run, "nf4+adapter", scores={"perplexity": variant.scores["perplexity"]})
    assert names(run) == ["fp16-merged-nf4", "nf4+adapter"]


def test_what_is_smaller_and_far_worse_of_the_same_bits_is_left_out(made_up):
    run = made_up.costly_run()
    lost = made_up.gate("requantized", "nf4", 0.5)
    passed = made_up.verdict(lost, "PASS", (-0.02, -0.01, 0.0))
    run = replace(run, verdicts=(*run.verdicts, passed))
    run = changed(run, "requantized", scores={
        **next(v for v in run.variants if v.name == "requantized").scores, **made_up.costs(50e6),
    })  # fmt: skip
    assert "requantized" not in names(run)


def test_a_run_that_is_not_ok_says_so_and_takes_no_reference(made_up):
    fails = made_up.verdict(made_up.HELPS_GATE, "REGRESSED", (0.1, 0.2, 0.3))
    passes = made_up.verdict(made_up.SHIP_GATE, "PASS", (0.019, 0.03, 0.041))
    found = advice(made_up.run(verdicts=(fails, passes)))
    assert found.variant == "fp16-merged-nf4"
    assert found.reasons[-1] == "other gates of the run are not ok"
    only = made_up.verdict(made_up.gate("nf4", "fp16", 0.01), "REGRESSED", (0.2, 0.29, 0.3))
    found = advice(made_up.run(verdicts=(only,)))
    assert (found.variant, found.command) == (None, None)
    assert found.words == "No variant passes all its gates."


def test_an_adapter_that_does_not_help_is_said_to(made_up):
    run = made_up.run(verdicts=(made_up.verdict(made_up.HELPS_GATE, "PASS", (0.0, 0.1, 0.2)),))
    worse = {"perplexity": made_up.score(30.0)}
    run = changed(run, "nf4+adapter", scores=worse)
    run = changed(run, "nf4", job=replace(run.variants[1].job, status="failed"))
    found = advice(run)
    assert found.variant is None
    assert "gains from its adapter" in found.words


def test_without_a_gate_nothing_is_recommended(made_up):
    found = advice(made_up.run(verdicts=(), gates=()))
    assert found.variant is None
    assert found.reasons == (
        "No gate was judged, so nothing says which variant may be shipped",
    )  # fmt: skip
    # The sentence says it already.
    run = made_up.run(verdicts=(), gates=())
    assert "may be shipped" not in markdown(run).replace(verdict_sentence(run), "")
    assert '<div class="advice">' not in render_html(run)


def test_an_accuracy_is_told_where_it_is_what_gates_judge(made_up):
    run = made_up.run()
    variants = []
    for variant, hits in zip(run.variants, (0.5, 0.4, 0.6, 0.4, 0.6, 0.4, 0.55), strict=True):
        score = replace(
            variant.scores["perplexity"], metric="t/acc", kind="mean", value=hits, stderr=0.02,
            unit="accuracy", higher_is_better=True, extra={},
        )  # fmt: skip
        variants.append(replace(variant, scores={"t/acc": score}))
    found = advice(replace(run, variants=tuple(variants)))
    assert found.reasons[-1] == "t/acc 55.0 % against 50.0 % of fp16"


# ------------------------------------------------------------------------- the command


def renamed(run, new):
    gate = replace(run.verdicts[1].gate, variant=new)
    verdict = replace(run.verdicts[1], gate=gate)
    return replace(changed(run, "fp16-merged-nf4", name=new), verdicts=(verdict,))


@pytest.mark.parametrize(
    "name", ["fp16-merged-nf4", "my model", "a'b; rm -rf ~", "$(reboot)", "-x", "--run", "ünï"]
)
def test_the_command_is_what_the_command_line_takes(made_up, name, monkeypatch):
    """Through the shell's rules and the real verb, up to where it would build the model."""
    run = renamed(made_up.costly_run(), name)
    words = shlex.split(advice(run).command)
    seen = {}
    store = SimpleNamespace(load_run=lambda which: replace(run, id=which))
    monkeypatch.setattr("evalkit.cli.options.open_store", lambda database: store)
    monkeypatch.setattr(
        "evalkit.runner.export_variant",
        lambda record, variant, folder, options, on_progress: seen.update(
            run=record.id, variant=variant, folder=str(folder)
        ),
    )
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    assert words[0] == "evalkit"
    answer = CliRunner().invoke(app, words[1:])
    assert answer.exit_code == 0, answer.output
    assert (seen["variant"], seen["run"]) == (name, run.id)
    assert "/" not in seen["folder"]
    assert not seen["folder"].startswith((".", "-"))


@pytest.mark.parametrize(
    ("path", "suite"),
    [
        (
            ({"load": "fp16"}, {"attach": "a"}, {"attach": "b"}),
            {"adapters": {"a": {"lora": {}}, "b": {"lora": {"use_dora": True}}}},
        ),
        (
            ({"load": "fp16"}, {"quantize": "group4"}, {"attach": "a"}),
            {"adapters": {"a": {"lora": {"flavour": "qa-lora"}}}},
        ),
    ],
)
def test_what_no_folder_can_hold_has_no_command(made_up, path, suite):
    run = changed(made_up.costly_run(suite_json=suite), "fp16-merged-nf4", path=path)
    found = advice(run)
    assert (found.variant, found.command) == ("fp16-merged-nf4", None)
    assert found.reasons[-1] == "it cannot be exported: end its path with `merge`"
    merged = changed(run, "fp16-merged-nf4", path=(*path, {"merge": True}))
    assert advice(merged).command is not None


def test_plain_adapters_on_top_of_each_other_are_exported_as_one(made_up):
    path = ({"load": "fp16"}, {"attach": "a"}, {"attach": "b"})
    suite = {"adapters": {"a": {"lora": {"bias": "none", "use_dora": False}}, "b": {"from": "x"}}}
    run = changed(made_up.costly_run(suite_json=suite), "fp16-merged-nf4", path=path)
    assert advice(run).command is not None


def test_our_own_types_have_their_bits():
    assert storage_bits([{"load": "fp16"}, {"quantize": "group4"}]) == 4
    assert storage_bits([{"load": "fp16"}, {"quantize": "torchao-int8"}]) == 8


# ------------------------------------------------------------------------- where it stands


def test_it_stands_in_every_form(made_up):
    run = made_up.costly_run()
    found = advice(run)
    told = run_json(run)
    assert told["recommendation"] == {
        "variant": "fp16-merged-nf4",
        "reasons": list(found.reasons),
        "command": "evalkit export fp16-merged-nf4 ./fp16-merged-nf4 --run 20261121-224455-a3f1",
    }
    assert told["pareto_front"] == ["fp16-merged-nf4", "nf4+adapter"]
    page, text = render_html(run).replace("\N{NO-BREAK SPACE}", " "), markdown(run)
    assert f"<pre>{found.command}</pre>" in page
    assert page.index("Recommended: fp16") < page.index("<main>")
    assert f"```text\n{found.command}\n```" in text
    assert text.index("Recommended") < text.index("| gate |")
    assert verdict_sentence(run).startswith("Ship fp16-merged-nf4;")


def test_the_json_says_that_none_does(made_up):
    only = made_up.verdict(made_up.gate("nf4", "fp16", 0.01), "REGRESSED", (0.2, 0.29, 0.3))
    told = run_json(made_up.run(verdicts=(only,)))["recommendation"]
    assert told == {
        "variant": None, "reasons": ["No variant passes all its gates"], "command": None,
    }  # fmt: skip
