"""A baseline's file: the same bytes again, the same verdicts bit for bit, and what is refused."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.baselines.file import baseline_text, read_baseline, write_baseline
from evalkit.errors import UsageError
from evalkit.judging.gates import Evidence, judge
from evalkit.records import Baseline, Budget, Gate, SampleOutcome, SampleText, Score, TokenLosses

UNITS = 60
GATES = (
    Gate("perplexity", "nf4", "baseline", max_increase=Budget(0.01, "relative"), place="s.yaml:9"),
    Gate("perplexity", "nf4", "fp16", max_increase=Budget(0.5, "absolute"), expect="regressed"),
    Gate("t/acc", "nf4", "baseline", max_decrease=Budget(0.02, "points"), inconclusive="warn"),
    Gate("t/acc", "nf4", minimum=0.1),
    Gate("perplexity", "nf4", maximum=1 / 3),
)
COMPARISON = {"data": "d1", "protocol": "documents", "tokenizer": "t1"}


def perplexity(seed, *, shift=0.0):
    generator = np.random.default_rng(seed)
    counts = np.random.default_rng(0).integers(20, 400, UNITS).astype(np.float64)
    sums = counts * (2.5 + shift + 0.05 * generator.standard_normal(UNITS))
    return Score(
        metric="perplexity",
        kind="perplexity",
        value=math.exp(float(sums.sum() / counts.sum())),
        stderr=0.1 + 0.2,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=tuple(f"{n:016x}" for n in range(UNITS)),
        clusters=tuple(f"conversation \ud800 é {n // 2}" for n in range(UNITS)),
        sums=sums,
        counts=counts,
        extra={"bits_per_byte": 2 / 3, "n_tokens": 12.0, "word_perplexity": math.inf,
               "tokens_per_second": 512.3},
        comparison=COMPARISON,
        token_losses=(TokenLosses(0, ("secret", "text"), np.zeros(2, np.float32)),),
    )  # fmt: skip


def accuracy(seed):
    """Hits and misses, with the log-likelihoods that they come of."""
    lls = np.random.default_rng(seed).standard_normal((UNITS, 2))
    hits = (lls[:, 0] > lls[:, 1]).astype(np.float64)
    ids = tuple(f"{n:016x}" for n in range(UNITS))
    return Score(
        metric="t/acc",
        kind="mean",
        value=float(hits.mean()),
        stderr=None,
        unit="accuracy",
        higher_is_better=True,
        unit_ids=ids,
        clusters=ids,
        sums=hits,
        counts=np.ones(UNITS),
        comparison={"task": "t"},
        outcomes=tuple(
            SampleOutcome("0", str(int(b > a)), bool(a > b), (float(a), float(b))) for a, b in lls
        ),
        sample_texts=(SampleText("secret prompt", ("secret choice",)),) * UNITS,
    )


def baseline(**changes):
    made = Baseline(
        name="main",
        suite="tiny",
        run="20260101-000000-aaaa",
        promoted="2026-01-02T03:04:05.000006+00:00",
        forced=False,
        gates=GATES,
        provenance={
            "git": {"revision": "abc", "dirty": False},
            "packages": {"torch": "2.13.0"},
            "device_name": "A100",
            "model": "/home/somebody/weights",
            "model_digest": "f" * 64,
            "data": {"test": {"origin": "/home/somebody/test.jsonl", "digest": "e" * 64}},
        },
        scores={
            "fp16": {"perplexity": perplexity(1)},
            "nf4": {"perplexity": perplexity(2, shift=0.01), "t/acc": accuracy(3)},
        },
    )
    return replace(made, **changes)


def through_a_file(made, folder):
    write_baseline(made, folder / "baseline.json")
    return read_baseline(folder / "baseline.json")


def bits(score):
    """Everything of a score that judging reads."""
    left_out = {"token_losses", "outcomes", "sample_texts", "extra", "answers"}
    values = {f.name: getattr(score, f.name) for f in fields(Score) if f.name not in left_out}
    values["sums"], values["counts"] = score.sums.tobytes(), score.counts.tobytes()
    return values


def test_what_judging_reads_comes_back_bit_for_bit(tmp_path):
    made = baseline()
    found = through_a_file(made, tmp_path)
    assert found.gates == tuple(replace(gate, place="") for gate in GATES)
    for variant, metrics in made.scores.items():
        assert found.scores[variant].keys() == metrics.keys()
        for metric, score in metrics.items():
            assert bits(found.scores[variant][metric]) == bits(score)
    for name in ("name", "suite", "run", "promoted", "forced"):
        assert getattr(found, name) == getattr(made, name)


def test_the_verdicts_against_a_file_are_those_against_the_run(tmp_path):
    """Also for a task's hits: bit-identical log-likelihoods are told by their digest."""
    made = baseline()
    scores = {
        "fp16": {"perplexity": perplexity(1)},
        "nf4": {"perplexity": perplexity(5, shift=0.012), "t/acc": accuracy(3)},
    }
    original = judge(GATES, Evidence(scores, baseline=made))
    again = judge(GATES, Evidence(scores, baseline=through_a_file(made, tmp_path)))
    assert again == original
    assert original[0].effect not in (None, 0.0)
    assert (original[2].verdict, original[2].effect) == ("PASS", 0.0)
    other = {**scores, "nf4": {**scores["nf4"], "t/acc": accuracy(4)}}
    hits = [
        judge(GATES, Evidence(other, baseline=side))[2]
        for side in (made, through_a_file(made, tmp_path))
    ]
    assert hits[0] == hits[1]
    assert hits[0].lost
    assert hits[0].verdict != "PASS"


def test_equal_hits_of_other_log_likelihoods_are_not_the_same_answers(tmp_path):
    made = baseline()
    score = accuracy(3)
    nudged = tuple(
        replace(o, log_likelihoods=tuple(x * (1 + 1e-15) for x in o.log_likelihoods))
        for o in score.outcomes
    )
    nudged_score = replace(score, outcomes=nudged)
    scores = {"nf4": {"t/acc": nudged_score}}
    gate = (replace(GATES[2], max_decrease=Budget(0.0, "points"), inconclusive="fail"),)
    assert judge(gate, Evidence({"nf4": {"t/acc": score}}, baseline=made))[0].verdict == "PASS"
    for side in (made, through_a_file(made, tmp_path)):
        assert judge(gate, Evidence(scores, baseline=side))[0].verdict == "INCONCLUSIVE"


def test_the_same_baseline_gives_the_same_bytes_and_so_does_what_was_read(tmp_path):
    made = baseline()
    shuffled = replace(made, scores=dict(reversed(made.scores.items())))
    assert baseline_text(shuffled) == baseline_text(made)
    assert baseline_text(through_a_file(made, tmp_path)) == baseline_text(made)


def test_no_text_no_token_and_no_path_of_this_machine_is_in_it():
    text = baseline_text(baseline())
    for secret in ("secret", "somebody", "jsonl", "s.yaml", "log_likelihoods", "Infinity", "512.3"):
        assert secret not in text


def test_units_are_written_once_and_one_a_line():
    lines = baseline_text(baseline()).splitlines()
    assert sum('"0000000000000007"' in line for line in lines) == 2  # documents, and the task's
    assert any(line.strip() == '["0000000000000007",1],' for line in lines)
    changed = baseline()
    changed.scores["nf4"]["perplexity"].sums[4] += 0.125
    others = baseline_text(changed).splitlines()
    assert sum(a != b for a, b in zip(lines, others, strict=True)) == 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_every_finite_float_comes_back(tmp_path_factory, values):
    ids = tuple(map(str, range(len(values))))
    score = Score(
        metric="m", kind="mean", value=values[0], stderr=values[-1], unit="", higher_is_better=True,
        unit_ids=ids, clusters=ids, sums=np.array(values), counts=np.abs(np.array(values)),
        extra={"x": values[0]},
    )  # fmt: skip
    made = baseline(scores={"nf4": {"m": score}})
    found = through_a_file(made, tmp_path_factory.getbasetemp()).scores["nf4"]["m"]
    assert found.sums.tobytes() == score.sums.tobytes()
    assert found.counts.tobytes() == score.counts.tobytes()
    assert repr([found.value, found.stderr, found.extra["x"]]) == repr(
        [values[0], values[-1], values[0]]
    )


# ------------------------------------------------------------------------- refused


def changed(path, *keys_and_value):
    """The written file with one value replaced, at keys that lead to it."""
    content = json.loads(baseline_text(baseline()))
    *keys, last, value = keys_and_value
    place = content
    for key in keys:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(content))
    return path


SUMS = ("scores", "nf4", "t/acc", "sums")
REFUSED = {
    "a newer schema": (("schema", 2), "was written by a newer evalkit (schema 2"),
    "no schema": (("schema", "1"), "is no baseline"),
    "no number": ((*SUMS, 3, "x"), "scores.nf4.t/acc.sums.3: input should be a valid number"),
    "a truth": ((*SUMS, 3, True), "scores.nf4.t/acc.sums.3"),
    "an infinite sum": ((*SUMS, 3, float("inf")), "Infinity is not a finite number"),
    "no number at all": ((*SUMS, 3, float("nan")), "NaN is not a finite number"),
    "a sum too few": ((*SUMS, [1.0]), "scores.nf4.t/acc.sums: 1 values for 60 units"),
    "units that are not there": (("scores", "nf4", "t/acc", "units", "x"), "no units 'x'"),
    "an unknown key": (("scores", "nf4", "t/acc", "sum", 1), "scores.nf4.t/acc.sum: extra"),
    "a kind that is none": (("scores", "nf4", "t/acc", "kind", "median"), "scores.nf4.t/acc.kind"),
    "a name that is none": (("baseline", "a/b"), "no name for a baseline"),
    "a budget without unit": (("gates", 0, "max_increase", {"amount": 1}), "max_increase.unit"),
    "a run's id too long": (("run", "x" * 33), "run: string should match pattern"),
    "a run's id with a trick": (("run", "a\x1b[2J"), "run: string should match pattern"),
    "a suite's name over lines": (("suite", "tiny\n"), "suite: string should match pattern"),
    "a time that is none": (("promoted", "today"), "promoted: string should match pattern"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit_together_is_refused_with_its_place(tmp_path, name):
    change, told = REFUSED[name]
    path = changed(tmp_path / "b.json", *change)
    with pytest.raises(UsageError) as error:
        read_baseline(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


ROWS = [[], ["a"], ["a", "1"], ["a", True], ["a", -1], ["a", 1, 2], ["a", 1, "c", 4], [1, 1]]


@pytest.mark.parametrize("row", ROWS, ids=map(str, ROWS))
def test_a_unit_that_is_none_is_refused(tmp_path, row):
    content = json.loads(baseline_text(baseline()))
    (key,) = {content["scores"]["nf4"]["t/acc"]["units"]}
    path = changed(tmp_path / "b.json", "units", key, 5, row)
    with pytest.raises(UsageError, match=rf"units\.{key}\.5"):
        read_baseline(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON"),
        ("{\n 'a': 1}", ":2: is no JSON"),
        ("[]", "is no baseline"),
        ('{"schema": 1}', "is no baseline"),
        ("[" * 100_000, "is no"),
        ('{"schema": 1, "baseline": "main", "x": 1e999}', "is no baseline of schema 1"),
        ('{"schema": ' + "9" * 5000 + ', "baseline": "main"}', "is no baseline"),
    ],
)
def test_what_is_no_baseline_at_all_is_refused(tmp_path, text, told):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_baseline(path)
    assert told in str(error.value)


def test_a_number_past_every_float_is_refused(tmp_path):
    text = baseline_text(baseline()).replace('"value": ', '"value": 1e999, "x": ', 1)
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="value: input should be a finite number"):
        read_baseline(path)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path / "nowhere.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no baseline"):
        read_baseline(tmp_path / "b.json")


def test_only_a_baseline_is_written_over(tmp_path):
    path = tmp_path / "deep" / "b.json"
    write_baseline(baseline(), path)
    write_baseline(baseline(forced=True), path)
    assert read_baseline(path).forced is True
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: mine\n")
    with pytest.raises(UsageError, match="what is there is no baseline"):
        write_baseline(baseline(), suite)
    assert suite.read_text() == "name: mine\n"
