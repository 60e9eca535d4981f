"""The sentence says what the records hold, for every kind of outcome. All records are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalkit.records import Gate, JobRecord
from evalkit.report.recommendation import recommended
from evalkit.report.sentence import verdict_sentence


def failed(name: str, error: str) -> JobRecord:
    return JobRecord(f"score {name}", "score", "failed", 1.0, error=error)


def with_variant(run, name, **changes):
    variants = tuple(replace(v, **changes) if v.name == name else v for v in run.variants)
    return replace(run, variants=variants)


def test_the_quickstart(made_up):
    assert verdict_sentence(made_up.run()) == (
        "Ship fp16-merged-nf4 or nf4+adapter; do not merge the adapter into 4-bit weights: "
        "merged-4bit raises perplexity by 67 % (95 % CI 62–72 %) over nf4+adapter and is back at "
        "nf4's level."
    )


def test_the_digits_come_from_the_verdict(made_up):
    loss = made_up.verdict(made_up.LOSS_GATE, "REGRESSED", (0.41, 0.45, 0.493))
    sentence = verdict_sentence(made_up.run(verdicts=(loss,)))
    assert "by 45 % (95 % CI 41–49 %)" in sentence
    assert "67" not in sentence


def test_a_loss_that_keeps_half_of_the_gain_is_not_said_to_be_back(made_up):
    scores = {"perplexity": made_up.score(15.0)}
    run = with_variant(made_up.run(), "merged-4bit", scores=scores)
    assert "level" not in verdict_sentence(run)


def test_scores_of_other_documents_are_not_said_to_be_level(made_up):
    scores = {"perplexity": made_up.score(18.86, comparison={"data": "other"})}
    run = with_variant(made_up.run(), "nf4", scores=scores)
    assert "level" not in verdict_sentence(run)


def test_quantising_again_is_named(made_up):
    gate = made_up.gate("requantized", "dequant-merged", 0.01, expect="regressed")
    run = made_up.run(verdicts=(made_up.verdict(gate, "REGRESSED", (0.6, 0.66, 0.7)),))
    assert "do not quantise dequantised weights again: requantized raises" in verdict_sentence(run)


def test_a_second_known_loss_is_short(made_up):
    gate = made_up.gate("requantized", "nf4+adapter", 0.01, expect="regressed")
    second = made_up.verdict(gate, "REGRESSED", (0.61, 0.67, 0.73))
    run = made_up.run()
    sentence = verdict_sentence(replace(run, verdicts=(*run.verdicts, second)))
    assert sentence.endswith(
        "and is back at nf4's level; a known loss too: requantized (+67 % over nf4+adapter)."
    )


def test_all_pass_gives_the_evidence(made_up):
    run = made_up.run(verdicts=(made_up.verdict(made_up.SHIP_GATE, "PASS", (0.019, 0.03, 0.041)),))
    assert verdict_sentence(run) == (
        "Ship fp16-merged-nf4 or nf4+adapter: fp16-merged-nf4 raises perplexity by 3.0 % "
        "(95 % CI 1.9–4.1 %) over nf4+adapter, within the budget of 10 %."
    )


def test_fewest_bits_win(made_up):
    gate = made_up.gate("nf4", "fp16", 0.5)
    run = made_up.run(
        variants=tuple(v for v in made_up.run().variants if v.name in {"fp16", "nf4"}),
        verdicts=(made_up.verdict(gate, "PASS", (0.27, 0.29, 0.31)),),
    )
    assert [variant.name for variant in recommended(run)] == ["nf4"]
    assert verdict_sentence(run).startswith("Ship nf4: nf4 raises perplexity by 29 %")


@pytest.mark.parametrize(("behind", "named"), [(1.09, True), (1.11, False)])
def test_what_scores_far_worse_at_the_same_bits_is_not_recommended(made_up, behind, named):
    run = made_up.run(verdicts=(made_up.verdict(made_up.SHIP_GATE, "PASS", (0.0, 0.01, 0.02)),))
    best = next(v for v in run.variants if v.name == "nf4+adapter").scores["perplexity"].value
    scores = {"perplexity": made_up.score(best * behind)}
    run = with_variant(run, "fp16-merged-nf4", scores=scores)
    names = [variant.name for variant in recommended(run)]
    assert "nf4+adapter" in names
    assert ("fp16-merged-nf4" in names) is named


def test_an_adapter_that_harms_is_not_recommended(made_up):
    worse = {"perplexity": made_up.score(30.0)}
    run = with_variant(made_up.run(), "nf4+adapter", scores=worse)
    assert "nf4+adapter" not in [variant.name for variant in recommended(run)]


def test_a_reference_that_fails_its_own_gate_is_not_recommended(made_up):
    fails = made_up.verdict(made_up.HELPS_GATE, "REGRESSED", (0.1, 0.2, 0.3))
    passes = made_up.verdict(made_up.SHIP_GATE, "PASS", (0.019, 0.03, 0.041))
    run = made_up.run(verdicts=(fails, passes))
    assert [variant.name for variant in recommended(run)] == ["fp16-merged-nf4"]
    assert verdict_sentence(run).startswith(
        "Not ready: 1 of 2 gates is not ok: nf4+adapter raises perplexity by 20 % (95 % CI 10–30 %)"
        " over nf4, beyond the budget of 0 %"
    )
    assert verdict_sentence(run).endswith("; fp16-merged-nf4 passes its gates.")


def test_an_errored_variant_is_named_once_with_its_reason(made_up):
    run = with_variant(
        made_up.run(), "fp16-merged-nf4", scores={}, job=failed("x", "out of memory.\nTraceback")
    )
    verdicts = (made_up.verdict(made_up.SHIP_GATE, "ERRORED", None, message="out of memory"),)
    sentence = verdict_sentence(replace(run, verdicts=verdicts))
    assert sentence == (
        "Not ready: 1 of 1 gate is not ok: fp16-merged-nf4 was not scored: out of memory."
    )


def test_an_errored_variant_without_a_gate_is_not_passed_over(made_up):
    run = with_variant(made_up.run(), "requantized", scores={}, job=failed("x", "disk full"))
    assert verdict_sentence(run).endswith("; requantized was not scored: disk full.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "INCONCLUSIVE",
            "too little data to tell whether fp16-merged-nf4 keeps perplexity at most",
        ),
        ("INCOMPARABLE", "fp16-merged-nf4 cannot be compared with nf4+adapter in perplexity"),
        ("MISSING", "nothing was measured to judge fp16-merged-nf4 with nf4+adapter"),
    ],
)
def test_a_check_that_did_not_happen_is_no_pass(made_up, name, words):
    run = made_up.run(verdicts=(made_up.verdict(made_up.SHIP_GATE, name, None),))
    sentence = verdict_sentence(run)
    assert sentence.startswith("Not ready: 1 of 1 gate is not ok")
    assert words in sentence
    assert "Ship" not in sentence


def test_a_warning_is_no_recommendation(made_up):
    open_question = made_up.verdict(
        made_up.SHIP_GATE, "INCONCLUSIVE", (-0.1, 0.05, 0.2), ok=True, warned=True
    )
    run = made_up.run(verdicts=(open_question,))
    sentence = verdict_sentence(run)
    assert "fp16-merged-nf4" not in sentence.partition(";")[0]
    assert "not settled by this many documents: fp16-merged-nf4" in sentence


def test_a_known_loss_that_is_gone(made_up):
    gone = made_up.verdict(made_up.LOSS_GATE, "PASS", (-0.01, 0.0, 0.005), ok=False)
    sentence = verdict_sentence(made_up.run(verdicts=(gone,)))
    assert "the known loss of merged-4bit is gone, so its `expect: regressed` must go" in sentence


def test_a_lower_value_is_said_to_be_lower(made_up):
    better = made_up.verdict(made_up.HELPS_GATE, "IMPROVED", (-0.436, -0.409, -0.381))
    assert (
        "nf4+adapter lowers perplexity by 41 % (95 % CI of the change −44 to −38 %) below nf4"
        in verdict_sentence(made_up.run(verdicts=(better,)))
    )


def test_an_absolute_limit(made_up):
    gate = Gate(metric="perplexity", variant="nf4", maximum=15.0)
    verdict = made_up.verdict(gate, "REGRESSED", (18.0, 18.86, 19.7))
    sentence = verdict_sentence(made_up.run(verdicts=(verdict,)))
    assert "nf4 has a perplexity of 18.86, above the limit of 15" in sentence


def test_no_gates_recommends_nothing(made_up):
    assert verdict_sentence(made_up.run(verdicts=(), gates=())) == (
        "No gates, so nothing says what may be shipped; perplexity is lowest for nf4+adapter "
        "(11.14) and highest for nf4 (18.86)."
    )


def test_an_interrupted_run(made_up):
    whole = made_up.run()
    variants = (
        *whole.variants[:3],
        *(replace(v, scores={}, job=None) for v in whole.variants[3:]),
    )
    sentence = verdict_sentence(made_up.run(variants=variants, verdicts=(), exit_code=130))
    assert sentence.startswith("Not judged: 3 of 7 variants scored")
    assert "Ship" not in sentence


def test_nothing_at_all(made_up):
    run = made_up.run(variants=(), verdicts=(), gates=(), adapters=())
    assert verdict_sentence(run) == "No gates, so nothing says what may be shipped."


def test_hostile_names_cannot_write_to_the_terminal(made_up):
    run = with_variant(
        made_up.run(), "requantized", scores={}, job=failed("x", "\x1b[2J\x1b]0;owned\x07 line")
    )
    sentence = verdict_sentence(run)
    assert "\x1b" not in sentence
    assert "\x07" not in sentence
    assert "\n" not in sentence
