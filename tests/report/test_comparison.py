"""Two runs side by side: effects and intervals by hand, what moved, what changed, every width."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from evalkit.errors import UsageError
from evalkit.records import Budget, Gate, SampleOutcome, Score, TokenLosses
from evalkit.report.comparing.changes import changes, settings_diff
from evalkit.report.comparing.comparison import Side, compare_sides, side_of_run
from evalkit.report.comparing.json import comparison_json
from evalkit.report.comparing.text import comparison_sentence, render_comparison

IDS = ("d1", "d2", "d3", "d4")
OLD_SUMS = (10.0, 20.0, 30.0, 40.0)
RISES = (1.0, 2.0, 3.0, 4.0)
"""Nats that four documents of ten tokens lose: 0.25 nats a token in the mean."""


def perplexity(sums=OLD_SUMS, **changes):
    total = np.array(sums)
    counts = np.full(len(sums), 10.0)
    ids = IDS if len(sums) == 4 else tuple(f"d{n}" for n in range(len(sums)))
    score = Score(
        metric="perplexity",
        kind="perplexity",
        value=math.exp(float(total.sum() / counts.sum())),
        stderr=None,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=ids,
        clusters=ids,
        sums=total,
        counts=counts,
        comparison={"data": "d", "protocol": "documents"},
    )
    return replace(score, **changes)


def worse(sums=OLD_SUMS, rises=RISES):
    return perplexity(tuple(a + b for a, b in zip(sums, rises, strict=True)))


def accuracy(hits):
    ids = tuple(f"q{n}" for n in range(len(hits)))
    return Score(
        metric="t/acc", kind="mean", value=sum(hits) / len(hits), stderr=None, unit="accuracy",
        higher_is_better=True, unit_ids=ids, clusters=ids, sums=np.array(hits, float),
        counts=np.ones(len(hits)), comparison={"task": "t"},
    )  # fmt: skip


def side(name="old", **scores):
    """A side whose variants are the keywords, each with one score."""
    return Side(
        name=f"run {name}", run=name, suite="tiny", provenance={},
        scores={variant: {score.metric: score} for variant, score in scores.items()},
    )  # fmt: skip


def the_change(old, new):
    (change,) = compare_sides(side(nf4=old), side("new", nf4=new)).metrics
    return change


# ------------------------------------------------------------------------- by hand


def test_the_effect_and_the_interval_of_a_perplexity_by_hand():
    """Σ(new − old)/Σn = 10/40; z = (−1.5, −0.5, 0.5, 1.5)/40, SE² = 4/3 · Σz²; t with 3 df."""
    change = the_change(perplexity(), worse())
    stderr = math.sqrt(4 / 3 * (1.5**2 + 0.5**2) * 2 / 40**2)
    margin = stats.t.ppf(0.975, 3) * stderr
    assert change.effect == pytest.approx(math.expm1(0.25))
    assert change.low == pytest.approx(math.expm1(0.25 - margin))
    assert change.high == pytest.approx(math.expm1(0.25 + margin))
    assert (change.effect_unit, change.direction, change.n_units) == ("relative", "worse", 4)
    assert (change.old, change.new) == (pytest.approx(math.exp(2.5)), pytest.approx(math.exp(2.75)))


def test_new_is_compared_with_old_and_not_the_other_way_round():
    assert the_change(worse(), perplexity()).direction == "better"
    assert the_change(worse(), perplexity()).effect == pytest.approx(math.expm1(-0.25))


def test_what_rises_here_and_falls_there_is_no_clear_change():
    change = the_change(perplexity(), worse(rises=(4.0, -4.0, 4.0, -3.0)))
    assert change.direction == "no clear change"
    assert change.low < 0 < change.high


def test_equal_sums_are_identical_and_a_moved_bit_is_not():
    assert the_change(perplexity(), perplexity()).direction == "identical"
    nudged = (math.nextafter(10.0, 11), *OLD_SUMS[1:])
    assert the_change(perplexity(), perplexity(nudged)).direction == "no clear change"


def test_an_accuracy_is_compared_in_points_with_its_flips():
    old, new = [1] * 100 + [0] * 100, [0] * 30 + [1] * 70 + [1] * 2 + [0] * 98
    change = the_change(accuracy(old), accuracy(new))
    assert change.effect == pytest.approx(-28 / 200)
    assert (change.effect_unit, change.direction) == ("points", "worse")
    assert (change.gained, change.lost) == (2, 30)
    assert change.low < -0.14 < change.high < 0
    assert the_change(accuracy(new), accuracy(old)).direction == "better"


def test_equal_hits_are_identical_only_with_equal_log_likelihoods():
    plain = accuracy([1, 0, 1, 1])
    outcomes = tuple(SampleOutcome("0", "0", True, (-1.0, -float(n))) for n in range(4))
    answered = replace(plain, outcomes=outcomes)
    assert the_change(plain, plain).direction == "no clear change"
    assert the_change(answered, answered).direction == "identical"


def test_a_measurement_without_units_is_compared_as_it_is():
    made = accuracy([1])
    none = np.array([])
    memory = replace(
        made, metric="energy", value=3.0, higher_is_better=False, unit="J",
        unit_ids=(), clusters=(), sums=none, counts=none,
    )  # fmt: skip
    change = the_change(memory, replace(memory, value=4.5))
    assert (change.effect, change.low, change.direction) == (1.5, None, "worse")
    assert change.effect_unit == "absolute"


def test_scores_of_other_data_are_not_compared_and_the_field_is_named():
    other = perplexity(comparison={"data": "e", "protocol": "documents"})
    change = the_change(perplexity(), other)
    assert (change.direction, change.effect, change.moved) == ("incomparable", None, ())
    assert change.differs == ("data (e, d)",)


# ------------------------------------------------------------------------- what moved


def test_the_documents_that_moved_most_come_first_with_their_nats_per_token():
    old, new = side(nf4=perplexity()), side("new", nf4=worse(rises=(1.0, -5.0, 0.0, 2.0)))
    (change,) = compare_sides(old, new, most_moved=3).metrics
    assert [moved.unit for moved in change.moved] == ["d2", "d4", "d1"]
    first = change.moved[0]
    assert (first.old, first.new, first.change) == (2.0, 1.5, -0.5)
    assert first.count == 10.0
    (fewer,) = compare_sides(old, new, most_moved=1).metrics
    assert [moved.unit for moved in fewer.moved] == ["d2"]


def test_a_document_that_did_not_move_is_none_that_moved_most():
    change = the_change(perplexity(), worse(rises=(0.0, 0.0, 0.0, 1.0)))
    assert [moved.unit for moved in change.moved] == ["d4"]


def test_its_text_is_told_where_tokens_were_recorded():
    losses = (TokenLosses(3, ("Once", " upon\n", " a", " time"), np.zeros(4, np.float32)),)
    change = the_change(perplexity(), replace(worse(), token_losses=losses))
    assert [moved.text for moved in change.moved] == ["Once upon a time", "", "", ""]


# ------------------------------------------------------------------------- pairs


def test_variants_are_paired_by_name_and_the_rest_is_named():
    old = side(a=perplexity(), b=perplexity())
    new = side("new", b=worse(), c=perplexity())
    found = compare_sides(old, new)
    assert [(c.old_variant, c.new_variant) for c in found.metrics] == [("b", "b")]
    assert found.only_old == ("perplexity of a",)
    assert found.only_new == ("perplexity of c",)


def test_one_variant_with_another():
    old = replace(side(a=perplexity()), variant="a")
    new = replace(side("new", b=worse()), variant="b")
    (change,) = compare_sides(old, new).metrics
    assert (change.old_variant, change.new_variant) == ("a", "b")
    assert "perplexity of a → b" in comparison_sentence(compare_sides(old, new))


def test_a_variant_that_is_not_there_is_told_with_those_that_are(made_up):
    with pytest.raises(UsageError, match=r"has no variant 'nf5' \(allowed: fp16, nf4, "):
        side_of_run(made_up.run(), "nf5")
    assert set(side_of_run(made_up.run(), "nf4").scores) == {"nf4"}


# ------------------------------------------------------------------------- changes


def with_provenance(made, **provenance):
    return replace(made, provenance=provenance)


def test_everything_that_changed_is_named_once():
    old = replace(
        side(nf4=perplexity()),
        provenance={
            "git": {"revision": "a" * 40, "dirty": False},
            "packages": {"torch": "2.13.0", "peft": "1"},
            "device_name": "A100",
            "model": "m", "model_digest": "1" * 64,
            "data": {"test": {"digest": "2" * 64}, "train": {"digest": "3" * 64}},
        },
        gates=(Gate("perplexity", "nf4", "fp16", max_increase=Budget(0.01, "relative")),),
        paths={"nf4": ({"load": "fp16"}, {"quantize": "nf4"})},
        settings={"adapters": {"t": {"training": {"steps": 12, "seed": 0}}}, "name": "tiny"},
    )  # fmt: skip
    new = replace(
        side("new", nf4=worse()),
        provenance={
            "git": {"revision": "b" * 40, "dirty": True},
            "packages": {"torch": "2.14.0", "peft": "1"},
            "device_name": "H100",
            "model": "m", "model_digest": "4" * 64,
            "data": {"test": {"digest": "5" * 64}, "train": {"digest": "3" * 64}},
        },
        gates=(Gate("perplexity", "nf4", "fp16", max_increase=Budget(0.03, "relative")),),
        paths={"nf4": ({"load": "bf16"}, {"quantize": "nf4"})},
        settings={"adapters": {"t": {"training": {"steps": 24, "seed": 0}}}, "name": "tiny"},
    )  # fmt: skip
    assert changes(old, new) == (
        "git revision aaaaaaaaaaaa → bbbbbbbbbbbb with changes",
        "weights digest 111111111111 → 444444444444",
        "data test 222222222222 → 555555555555",
        "device A100 → H100",
        "torch 2.13.0 → 2.14.0",
        "path of nf4: load fp16, quantise nf4 → load bf16, quantise nf4",
        "adapters.t.training.steps 12 → 24",
        "gates: perplexity of nf4 against fp16: budget relaxed 1 % → 3 %",
    )
    assert changes(old, old) == ()
    diff = settings_diff(old, new)
    assert diff[:2] == ("--- run old: tiny", "+++ run new: tiny")
    assert [line.strip() for line in diff if line.startswith("-  ")] == ['-        "steps": 12']
    assert [line.strip() for line in diff if line.startswith("+  ")] == ['+        "steps": 24']
    assert settings_diff(old, old) == ()
    assert settings_diff(replace(old, settings=None), new) == ()


def test_a_suite_and_data_of_one_side_alone():
    old = replace(side(), suite="one", provenance={"data": {"x": {"digest": "1" * 64}}})
    new = replace(
        side(), suite="two",
        provenance={"data": {"y": {"digest": "1" * 64}}, "tasks": {"t": {"digest": "2" * 64}}},
    )  # fmt: skip
    told = ("suite one → two", "data x left out", "data y added", "task t added")
    assert changes(old, new) == told


# ------------------------------------------------------------------------- words


def sentence(*pairs):
    names = [f"v{n}" for n in range(len(pairs))]
    old = side(**{name: pair[0] for name, pair in zip(names, pairs, strict=True)})
    new = side("new", **{name: pair[1] for name, pair in zip(names, pairs, strict=True)})
    return comparison_sentence(compare_sides(old, new))


SAME = (perplexity(), perplexity())
WORSE = (perplexity(), worse())
OPEN = (perplexity(), worse(rises=(4.0, -4.0, 4.0, -3.0)))
OTHER = (perplexity(), perplexity(comparison={"data": "e", "protocol": "documents"}))


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([], "Nothing was measured on both sides."),
        ([SAME], "The score is bit-identical."),
        ([SAME, SAME], "Both scores are bit-identical."),
        ([SAME] * 3, "All 3 scores are bit-identical."),
        ([OTHER], "Nothing can be compared: perplexity of v0 differs in data (e, d)."),
        ([WORSE], "The perplexity of v0 got worse: +28.4 % (95 % CI +4.6 to +57.7 %)."),
        (
            [WORSE[::-1], SAME],
            "Of 2 scores, 1 got better and 1 bit-identical; the largest gain is the perplexity of "
            "v0: −22.1 % (95 % CI −36.6 to −4.4 %).",
        ),
        (
            [SAME, WORSE, OPEN, OTHER, WORSE[::-1]],
            "Of 5 scores, 1 got worse, 1 got better, 1 without a clear change, 1 bit-identical and "
            "1 cannot be compared; the largest loss is the perplexity of v1: +28.4 % "
            "(95 % CI +4.6 to +57.7 %).",
        ),
    ],
)
def test_the_sentence_says_what_came_of_it(pairs, told):
    assert sentence(*pairs) == told


def printed(comparison, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render_comparison(comparison, console, most_moved=2)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_lost_on_a_narrow_terminal(width):
    old = replace(side(nf4=perplexity()), settings={"a": 1}, provenance={"device_name": "A100"})
    new = replace(
        side("new", nf4=worse(), other=perplexity()), settings={"a": 2},
        provenance={"device_name": "H100"},
    )  # fmt: skip
    text = printed(compare_sides(old, new), width)
    assert max(map(len, text.splitlines())) <= max(width, 40)
    flat = " ".join(text.split())
    for what in ("+28.4 %", "+4.6 to +57.7 %", "worse", "few clusters", "device A100 → H100",
                 "d4", "+0.400", "d3", '+ "a": 2', "only new: perplexity of other"):  # fmt: skip
        assert what in flat, what
    assert "d2" not in flat


def test_hostile_names_are_neither_markup_nor_control_characters():
    evil = "[red]x[/red]\x1b[2J"
    old = replace(side(**{evil: perplexity()}), name=evil)
    text = printed(compare_sides(old, side("new", **{evil: worse()})), 100)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_the_json_holds_every_number_and_is_strict():
    found = compare_sides(side(nf4=perplexity(), x=OTHER[0]), side("new", nf4=worse(), x=OTHER[1]))
    told = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    assert told["schema"] == 1
    assert told["sentence"] == comparison_sentence(found)
    first, second = told["metrics"]
    assert first["effect"] == pytest.approx(math.expm1(0.25))
    assert first["moved"][0]["change"] == pytest.approx(0.4)
    assert second["effect"] is None
    assert second["differs"] == ["data (e, d)"]


# ---------------------------------------------------------------------------- costs


def costs_of(run, made_up, disk=92e6, **values):
    variants = tuple(
        replace(v, scores={**v.scores, **made_up.costs(disk, **values)}) for v in run.variants[:1]
    )
    return replace(run, variants=variants)


def test_bytes_are_told_apart_and_times_not_at_all(made_up):
    old = costs_of(made_up.run(id="old"), made_up)
    new = costs_of(
        made_up.run(id="new"), made_up, disk=120e6, memory=92e6 * 1.02,
        load_seconds=9.0, decode_speed=1.0,
        peak_memory=1e12,
    )  # fmt: skip
    comparison = compare_sides(side_of_run(old), side_of_run(new))
    assert [change.metric for change in comparison.metrics] == ["perplexity"]
    assert [change.metric for change in comparison.costs] == ["disk", "memory"]
    assert comparison_sentence(comparison) == "The score is bit-identical."
    text = printed(comparison, 80)
    assert "weights on disk of fp16: 92 MB → 120 MB (+30.4 %)" in text
    for timed in ("load", "decod", "peak"):
        assert timed not in text
    told = comparison_json(comparison)
    assert [cost["effect"] for cost in told["costs"]] == [28e6, 0.0]
    assert "memory" not in text
    assert [metric["metric"] for metric in told["metrics"]] == ["perplexity"]


def test_equal_bytes_take_one_line_and_a_timed_cost_of_one_side_is_no_news(made_up):
    old = costs_of(made_up.run(), made_up)
    (variant,) = costs_of(made_up.run(), made_up).variants
    scores = {k: v for k, v in variant.scores.items() if k not in {"decode_speed", "memory"}}
    new = replace(old, variants=(replace(variant, scores=scores),))
    comparison = compare_sides(side_of_run(old), side_of_run(new))
    assert comparison.only_old == ("memory of fp16",)
    assert "Costs: the same bytes" in printed(comparison, 80)


def test_costs_alone_are_no_score(made_up):
    run = costs_of(made_up.run(), made_up)
    scores = made_up.costs(92e6)
    run = replace(run, variants=(replace(run.variants[0], scores=scores),))
    comparison = compare_sides(side_of_run(run), side_of_run(run))
    assert comparison_sentence(comparison) == "Nothing but costs was measured on both sides."


def test_an_interval_that_no_float_holds_is_endless():
    """Two clusters, one of them tiny: Student's t with hardly a degree of freedom."""
    few = {"clusters": ("a", "a", "a", "b"), "counts": np.array([300.0, 300.0, 300.0, 1.0])}
    old = perplexity((300.0, 300.0, 300.0, 1.0), **few)
    change = the_change(old, perplexity((310.0, 350.0, 300.0, 9.0), **few))
    assert change.high == math.inf
    told = comparison_json(compare_sides(side(nf4=old), side("new", nf4=old)))
    json.dumps(told, allow_nan=False)
    worse_side = side("new", nf4=perplexity((310.0, 350.0, 300.0, 9.0), **few))
    comparison = compare_sides(side(nf4=old), worse_side)
    assert (
        json.loads(json.dumps(comparison_json(comparison), allow_nan=False))["metrics"][0]["high"]
        is None
    )
    assert printed(comparison, 80)
