"""Documents that moved, their tokens, samples that flipped, and how to run it all again."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evalkit.records import SampleText
from evalkit.report.again import commands
from evalkit.report.documents_view import document_moves, moves
from evalkit.report.flipped_view import MOST_SAMPLES, flipped_samples
from evalkit.report.html import render_html
from evalkit.report.html.charts import NARROW, WIDE
from evalkit.report.html.document_chart import document_chart
from evalkit.report.notes import notes_of
from evalkit.report.token_view import MOST_DOCUMENTS, MOST_TOKENS, token_data, token_view

# -------------------------------------------------------------------- documents


def test_a_document_moves_by_nats_a_token(made_up):
    run = made_up.run()
    found = moves(run, "perplexity", "merged-4bit", "nf4+adapter")
    assert found.nats == pytest.approx(np.full(42, math.log(18.57 / 11.14)))
    assert found.words == "merged-4bit against nf4+adapter: worse on 42 of 42 documents"
    assert moves(run, "perplexity", "nf4+adapter", "nf4").words.endswith(
        "better on 42 of 42 documents"
    )


def test_every_pair_that_a_gate_compares_is_drawn_losses_first(made_up):
    found = document_moves(made_up.run())
    assert [(each.variant, each.against) for each in found] == [
        ("merged-4bit", "nf4+adapter"),
        ("nf4+adapter", "nf4"),
        ("fp16-merged-nf4", "nf4+adapter"),
    ]


def test_without_a_gate_every_variant_is_drawn_against_the_base(made_up):
    found = document_moves(made_up.run(verdicts=(), gates=()))
    assert {each.against for each in found} == {"fp16"}
    assert len(found) == 6


def test_other_documents_do_not_move(made_up):
    other = {"perplexity": made_up.score(5.0, comparison={"data": "other"})}
    variants = tuple(
        replace(v, scores=other) if v.name == "merged-4bit" else v for v in made_up.run().variants
    )
    found = document_moves(made_up.run(variants=variants))
    assert "merged-4bit" not in {each.variant for each in found}


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_a_picture_of_a_thousand_documents_is_as_small_as_one_of_ten(made_up, layout):
    generator = np.random.default_rng(1)
    (first, *_) = document_moves(made_up.run())
    sizes = [
        len(document_chart([replace(first, nats=generator.normal(0, 0.1, count))], layout=layout))
        for count in (10, 1000, 100_000)
    ]
    assert max(sizes) < 20_000
    assert "NaN" not in document_chart([replace(first, nats=np.zeros(9))], layout=layout)


# ----------------------------------------------------------------------- tokens


def test_the_documents_that_moved_most_come_first(made_up):
    view = token_view(made_up.detailed())
    assert len(view.documents) == MOST_DOCUMENTS
    assert (view.kept, view.total) == (20, 42)
    names = view.variants
    assert [names[at] for at in view.pair] == ["nf4+adapter", "merged-4bit"]
    scores = [v.scores["perplexity"] for v in made_up.detailed().variants]

    def widest(document):
        unit = scores[0].unit_ids.index(document.id)
        means = [score.sums[unit] / score.counts[unit] for score in scores]
        return max(means) - min(means)

    spread = [widest(document) for document in view.documents]
    assert spread == sorted(spread, reverse=True)


def test_data_are_rounded_to_what_a_reader_can_see(made_up):
    run = made_up.detailed()
    view = token_view(run)
    data = token_data(view)
    part = view.documents[0].parts[2]
    told = data["documents"][0]["variants"][2]
    assert told["loss"] == [round(1000 * float(loss)) for loss in part.losses]
    assert [data["pieces"][at] for at in told["top"]] == list(part.top_tokens)
    assert told["p"] == [round(10_000 * float(p)) for p in part.top_probabilities]
    assert len(data["pieces"]) == len(set(data["pieces"]))


def test_tokens_without_what_was_likeliest_are_shown_all_the_same(made_up):
    def older(score):
        nothing = np.empty(0, np.float32)
        parts = tuple(
            replace(part, top_tokens=(), top_probabilities=nothing) for part in score.token_losses
        )
        return replace(score, token_losses=parts)

    variants = tuple(
        replace(v, scores={**v.scores, "perplexity": older(v.scores["perplexity"])})
        for v in made_up.detailed().variants
    )
    data = token_data(token_view(made_up.detailed(variants=variants)))
    assert all("top" not in told for told in data["documents"][0]["variants"])


def test_a_long_document_is_cut_and_says_so(made_up):
    run = made_up.detailed()
    variants = []
    for variant in run.variants:
        score = variant.scores["perplexity"]
        counts = score.counts.copy()
        counts[0] = 900
        score = replace(score, counts=counts, sums=score.sums * counts / score.counts)
        score = replace(score, token_losses=made_up.tokens(score, 1, 1))
        variants.append(replace(variant, scores={"perplexity": score}))
    (document,) = token_view(replace(run, variants=tuple(variants))).documents
    assert len(document.tokens) == MOST_TOKENS
    assert document.left_out == 900 - MOST_TOKENS


def test_without_tokens_or_with_those_of_one_variant_there_is_no_view(made_up):
    assert token_view(made_up.run()) is None
    one = tuple(
        v
        if v.name == "nf4"
        else replace(
            v, scores={"perplexity": replace(v.scores["perplexity"], token_losses=())}
        )
        for v in made_up.detailed().variants
    )  # fmt: skip
    assert token_view(made_up.detailed(variants=one)) is None
    assert "Token by token" not in render_html(made_up.run())


def test_variants_that_cut_the_text_otherwise_are_not_mixed(made_up):
    def cut(variant):
        score = variant.scores["perplexity"]
        parts = tuple(replace(p, tokens=("x",) * len(p.tokens)) for p in score.token_losses)
        return replace(
            variant, scores={"perplexity": replace(score, token_losses=parts)}
        )  # fmt: skip

    run = made_up.detailed()
    variants = tuple(cut(v) if v.name == "nf4" else v for v in run.variants)
    assert token_view(made_up.detailed(variants=variants)) is None


# ---------------------------------------------------------------------- samples


def test_flipped_samples_stand_side_by_side_in_words(made_up):
    first, second, *_ = made_up.run().variants
    variants = (
        replace(first, scores={"t/acc": made_up.accuracy({0}, "t/acc")}),
        replace(second, scores={"t/acc": made_up.accuracy({1, 2}, "t/acc")}),
    )
    (found,) = flipped_samples(made_up.run(variants=variants, verdicts=(), gates=()))
    assert found.title == "t/acc: nf4 against fp16, 2 lost, 1 gained"
    assert [(s.id, s.lost) for s in found.samples] == [("s1", True), ("s2", True), ("s0", False)]
    assert found.samples[0].prompt == "Who waits?"
    assert found.samples[0].answers == (
        ("right", "She", None),
        ("fp16", "She (0.25 nats ahead)", True),
        ("nf4", "Her (0.75 nats ahead)", False),
    )


def test_without_texts_choices_have_numbers_and_ties_are_named(made_up):
    old, new = (
        replace(made_up.accuracy(set(wrong), "t/acc"), sample_texts=()) for wrong in ((), (3,))
    )
    tied = replace(new.outcomes[3], choice=None, tied=True)
    new = replace(new, outcomes=(*new.outcomes[:3], tied, *new.outcomes[4:]))
    first, second, *_ = made_up.run().variants
    variants = (replace(first, scores={"t/acc": old}), replace(second, scores={"t/acc": new}))
    (found,) = flipped_samples(made_up.run(variants=variants, verdicts=(), gates=()))
    assert [answer for _, answer, _ in found.samples[0].answers] == [
        "choice 0", "choice 0 (0.25 nats ahead)", "an exact tie",
    ]  # fmt: skip


def test_a_flood_of_flips_is_cut(made_up):
    first, second, *_ = made_up.run().variants
    variants = (
        replace(first, scores={"t/acc": made_up.accuracy(set(), "t/acc")}),
        replace(second, scores={"t/acc": made_up.accuracy(set(range(40)), "t/acc")}),
    )
    (found,) = flipped_samples(made_up.run(variants=variants, verdicts=(), gates=()))
    assert len(found.samples) == MOST_SAMPLES
    assert found.left_out == 40 - MOST_SAMPLES


def test_a_generated_answer_is_shown_as_it_was_written(made_up):
    def written(text, correct):
        score = made_up.accuracy(set(), "t/exact_match")
        outcomes = tuple(
            replace(o, gold="42", choice=text, correct=correct, log_likelihoods=())
            for o in score.outcomes
        )
        return replace(score, outcomes=outcomes, sample_texts=(SampleText("6 × 7?"),) * 40)

    first, second, *_ = made_up.run().variants
    variants = (
        replace(first, scores={"t/exact_match": written("42", True)}),
        replace(second, scores={"t/exact_match": written("forty", False)}),
    )
    (found,) = flipped_samples(made_up.run(variants=variants, verdicts=(), gates=()))
    assert found.samples[0].answers[2] == ("nf4", "forty", False)


# ------------------------------------------------------------------------ again


def test_the_commands_say_what_was_given_and_quote_it(made_up):
    run = made_up.run(
        arguments={
            "given": {
                "suite": "my suites/q.yaml",
                "overrides": ["data.train=a b.jsonl", "model=x"],
                "aa": "train",
                "only": ["nf4", "fp16"],
                "bootstrap": True,
                "database": "sqlite:///x.db",
            }
        }
    )
    told = commands(run)
    assert told[0] == ("the same code", f"git checkout {'0' * 40}")
    assert told[1][1] == "pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2"
    assert told[2][1] == (
        "evalkit run 'my suites/q.yaml' --set 'data.train=a b.jsonl' --set model=x --only nf4 "
        "--only fp16 --aa=train --bootstrap"
    )
    html = render_html(run)
    assert "To run it again" in html
    dirty = {**run.provenance, "git": {"revision": "a" * 40, "dirty": True}}
    assert "not committed" in commands(replace(run, provenance=dirty))[0][0]
    assert commands(made_up.run(arguments={}, place="")) == []


def test_what_differs_from_the_baseline_is_listed_whole(made_up):
    run = made_up.run()
    differs = [f"package-{at} 1 → 2" for at in range(20)]
    facts = {"name": "main", "run": "20261101-000000-aaaa", "sources": ["git revision a → b"],
             "differs": differs, "relaxed": []}  # fmt: skip
    html = render_html(replace(run, provenance={**run.provenance, "baseline": facts}))
    assert "What differs from baseline" in html
    for change in ("git revision a → b", *differs):
        assert f"<li><bdi>{change}</bdi></li>" in html
    same = {**facts, "sources": [], "differs": []}
    html = render_html(replace(run, provenance={**run.provenance, "baseline": same}))
    assert "Nothing that was recorded" in html
    assert "What differs from baseline" not in render_html(run)


def test_a_partial_run_says_so(made_up):
    run = made_up.run()
    partial = replace(run, provenance={**run.provenance, "only": ["nf4", "fp16"]})
    (note,) = [note for note in notes_of(partial) if "partial" in note]
    assert "it computed nf4 and fp16" in note
    assert note in render_html(partial)
    assert not [note for note in notes_of(run) if "partial" in note]
