"""lm-eval tasks in reports: accuracy in percent, ties told, groups folded. Values are made up."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from evalkit.records import Gate, RunRecord, Score, VariantRecord
from evalkit.report.facts import interval, shown_metrics, unit_noun
from evalkit.report.task_notes import task_notes
from evalkit.report.terminal.summary import render_run
from evalkit.report.view import group_rows, metric_table
from evalkit.report.words import metric_words, score_figure, score_stderr


def accuracy(metric, hits, *, n=40, ties=0, lm_eval=None):
    ids = tuple(f"s{index}" for index in range(n))
    sums = np.array([1.0] * hits + [0.0] * (n - hits))
    value = hits / n
    return Score(
        metric=metric,
        kind="mean",
        value=value,
        stderr=(value * (1 - value) / (n - 1)) ** 0.5,
        unit="accuracy",
        higher_is_better=True,
        unit_ids=ids,
        clusters=ids,
        sums=sums,
        counts=np.ones(n),
        extra={"n_samples": n, "n_ties": ties, "lm_eval": value if lm_eval is None else lm_eval},
        comparison={"task": "t", "prompts": "p"},
    )


def run_of(*metrics, gates=()):
    variants = tuple(
        VariantRecord(
            name, ({"load": "fp16"},), None, "load fp16", None,
            {m: accuracy(m, 24 + shift, ties=ties, lm_eval=0.7 if ties else None) for m in metrics},
        )
        for name, shift, ties in (("fp16", 0, 0), ("nf4", -3, 2))
    )  # fmt: skip
    return RunRecord(
        id="r", suite="s", started="2026-01-01T00:00:00", seconds=1.0, exit_code=0, suite_text="",
        suite_json={}, arguments={}, provenance={}, variants=variants, adapters=(), verdicts=(),
        gates=gates,
    )  # fmt: skip


def printed(run, width):
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as capture:
        render_run(run, console)
    return capture.get()


def test_accuracy_is_shown_in_percent():
    assert score_figure(0.6, "accuracy") == "60.0 %"
    assert score_stderr(0.078, 0.6, "accuracy") == "7.8"
    assert score_figure(14.59, "ppl/token") == "14.59"
    assert metric_words("blimp/acc") == "blimp/acc"
    assert metric_words("perplexity/wiki") == "perplexity on wiki"
    table = metric_table(run_of("blimp/acc"), "blimp/acc")
    assert [row.value for row in table.rows] == ["60.0 %", "52.5 %"]
    assert [row.change for row in table.rows] == ["reference", "−7.50 pp"]
    assert [row.tokens for row in table.rows] == ["40", "40, 2 ties"]
    assert table.measured == "40 samples"
    assert unit_noun(accuracy("blimp/acc", 3)) == "sample"


def test_no_interval_of_an_accuracy_leaves_0_to_1():
    low, high = interval(accuracy("t/acc", 39))
    assert 0 < low < high == 1.0
    assert interval(replace(accuracy("t/acc", 39), unit="score"))[1] > 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_every_variant_of_every_task(width):
    text = printed(run_of("blimp/acc", "mmlu/acc"), width)
    for words in ("60.0 % ± 7.8", "52.5 % ± 8.0", "−7.50 pp", "accuracy: higher is better"):
        assert words in text
    assert text.count("fp16") >= 2
    assert max(map(len, text.splitlines())) <= width


def test_ties_are_told_with_what_lm_eval_reads():
    (note,) = task_notes(run_of("blimp/acc"))
    assert note == (
        "blimp/acc: choices that tie exactly are no hits: nf4 2 of 40 "
        "(lm-eval reads 70.0 % for 52.5 %)."
    )


def test_single_tasks_of_a_group_are_folded_unless_a_gate_names_them():
    metrics = ("mmlu/acc", "mmlu/law/acc", "mmlu/art/acc")
    run = run_of(*metrics)
    assert shown_metrics(run) == ["mmlu/acc"]
    assert group_rows(run) == [
        ("mmlu/law/acc", ["60.0 %", "52.5 %"]),
        ("mmlu/art/acc", ["60.0 %", "52.5 %"]),
    ]
    assert "2 metrics of the single tasks of mmlu" in task_notes(run)[-1]
    gate = Gate("mmlu/law/acc", "nf4", minimum=0.5)
    assert shown_metrics(run_of(*metrics, gates=(gate,))) == ["mmlu/acc", "mmlu/law/acc"]
