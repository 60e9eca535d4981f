"""What the steps of a path did: effects add up without a rest, and are told in words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalkit.records import RunRecord, SampleOutcome, Score, VariantRecord
from evalkit.report.attribution import edge_effect, effect_between
from evalkit.report.html import render_html
from evalkit.report.json.run import run_json
from evalkit.report.path_effects import edge_kind, lineage, path_sentences, path_words
from evalkit.report.step_table import step_table

STEPS = (
    {"load": "fp16"}, {"quantize": "nf4"}, {"attach": "a"}, {"merge": True}, {"quantize": "nf4"},
)  # fmt: skip


def named(run, name):
    return next(variant for variant in run.variants if variant.name == name)


def with_scores(run, name, **scores):
    variants = tuple(
        replace(v, scores={**v.scores, **scores}) if v.name == name else v for v in run.variants
    )
    return replace(run, variants=variants)


# ------------------------------------------------------------------- adding up, for any path


@st.composite
def chains(draw):
    """Up to five variants, each the parent of the next, scored on the same documents."""
    size = draw(st.integers(2, 12))
    counts = np.array(draw(st.lists(st.integers(1, 2000), min_size=size, max_size=size)), float)
    losses = st.lists(st.floats(0.01, 8.0), min_size=size, max_size=size)
    n_bytes = float(draw(st.integers(1, 50_000)))
    ids = tuple(f"d{n}" for n in range(size))
    clusters = tuple(
        f"c{n}" for n in draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    )
    scores = []
    for _ in range(draw(st.integers(2, 5))):
        sums = np.array(draw(losses)) * counts
        nats, tokens = float(sums.sum()), float(counts.sum())
        scores.append(
            Score(
                metric="perplexity", kind="perplexity", value=math.exp(nats / tokens), stderr=None,
                unit="ppl/token", higher_is_better=False, unit_ids=ids, clusters=clusters,
                sums=sums, counts=counts, comparison={"data": "x"},
                extra={"n_tokens": tokens, "n_bytes": n_bytes,
                       "bits_per_byte": nats / math.log(2) / n_bytes},
            )
        )  # fmt: skip
    return scores


def chain_run(made_up, scores) -> RunRecord:
    variants = tuple(
        VariantRecord(
            name=f"v{n}", path=STEPS[: n + 1], parent=f"v{n - 1}" if n else None, edge="",
            job=None, scores={"perplexity": score},
        )
        for n, score in enumerate(scores)
    )  # fmt: skip
    return made_up.run(variants=variants, verdicts=(), gates=())


@settings(max_examples=150, deadline=None)
@given(scores=chains())
def test_along_any_path_effects_sum_to_the_end_to_end_effect(made_up, scores):
    run = chain_run(made_up, scores)
    first, last = run.variants[0], run.variants[-1]
    edges = [edge_effect(run, variant, "perplexity") for variant in run.variants[1:]]
    whole = effect_between(run, first, last, "perplexity")
    nats = math.fsum(edge.nats[0] for edge in edges)
    assert nats == pytest.approx(whole.nats[0], rel=0, abs=1e-12)
    bits = [edge.bits_per_byte[0] for edge in edges]
    scale = max(map(abs, [1.0, *bits]))
    assert math.fsum(bits) == pytest.approx(whole.bits_per_byte[0], rel=0, abs=1e-12 * scale)
    readings = [v.scores["perplexity"].extra["bits_per_byte"] for v in (first, last)]
    assert math.fsum(bits) == pytest.approx(
        readings[1] - readings[0], rel=0, abs=1e-12 * scale * 10
    )
    factors = math.prod(1 + edge.measured.effect for edge in edges)
    values = [v.scores["perplexity"].value for v in (first, last)]
    assert factors == pytest.approx(values[1] / values[0], rel=1e-12)


def test_bits_per_byte_are_the_same_effect_in_other_units(made_up):
    run = made_up.costly_run()
    edge = edge_effect(run, named(run, "merged-4bit"), "perplexity")
    extra = named(run, "merged-4bit").scores["perplexity"].extra
    factor = extra["n_tokens"] / (extra["n_bytes"] * math.log(2))
    for bits, nats in zip(edge.bits_per_byte, edge.nats, strict=True):
        assert bits == pytest.approx(nats * factor, rel=1e-12)
    assert edge.nats[1] == pytest.approx(math.log1p(edge.measured.low))


def test_without_a_count_of_bytes_there_are_no_bits_per_byte(made_up):
    run = made_up.run()
    edge = edge_effect(run, named(run, "nf4"), "perplexity")
    assert edge.nats is not None
    assert edge.bits_per_byte is None
    assert step_table(run).columns == ("perplexity",)


# ------------------------------------------------------------------------------ divergence


def test_from_the_reference_the_effect_is_the_divergence_with_its_own_interval(made_up):
    run = made_up.costly_run()
    score = named(run, "nf4").scores["divergence"]
    seen = edge_effect(run, named(run, "nf4"), "divergence").measured
    assert seen.effect == pytest.approx(score.value, rel=1e-12)
    # Of equal clusters' jackknife: within a few per cent of the plain standard error of the ratio.
    ratio = score.sums / score.counts
    weights = score.counts / score.counts.sum()
    plain = math.sqrt(float(np.sum((weights * (ratio - score.value)) ** 2)) * 42 / 41)
    margin = stats.t.ppf(0.975, 41) * plain
    assert seen.high - seen.low == pytest.approx(2 * margin, rel=0.15)


def test_between_two_others_it_is_the_paired_difference(made_up):
    run = made_up.costly_run()
    values = {v.name: v.scores["divergence"].value for v in run.variants[1:]}
    seen = edge_effect(run, named(run, "merged-4bit"), "divergence").measured
    expected = values["merged-4bit"] - values["nf4+adapter"]
    assert seen.effect == pytest.approx(expected, rel=1e-9)


def test_a_reference_further_down_has_the_opposite_of_its_parents(made_up):
    suite = {"metrics": {"divergence": {"reference": "nf4"}}}
    run = made_up.costly_run(suite_json=suite)
    scores = dict(named(run, "nf4").scores)
    divergence = scores.pop("divergence")
    run = replace(
        run,
        variants=tuple(replace(v, scores=scores) if v.name == "nf4" else v for v in run.variants),
    )
    run = with_scores(run, "fp16", divergence=divergence)
    seen = edge_effect(run, named(run, "nf4"), "divergence").measured
    assert seen.effect == pytest.approx(-divergence.value)


def test_a_variant_without_divergence_that_is_no_reference_has_no_effect(made_up):
    run = made_up.costly_run(suite_json={})
    assert edge_effect(run, named(run, "nf4"), "divergence") is None


# ------------------------------------------------------------------------------- the table


def accuracy(hits):
    ids = tuple(f"q{n}" for n in range(len(hits)))
    return Score(
        metric="t/acc", kind="mean", value=sum(hits) / len(hits), stderr=0.1, unit="accuracy",
        higher_is_better=True, unit_ids=ids, clusters=ids, sums=np.array(hits, float),
        counts=np.ones(len(hits)), comparison={"task": "t", "prompts": "p"},
        outcomes=tuple(SampleOutcome("1", str(hit), bool(hit)) for hit in hits),
    )  # fmt: skip


def test_every_measure_is_a_column_with_flips_of_tasks(made_up):
    run = made_up.costly_run()
    run = with_scores(run, "fp16", **{"t/acc": accuracy([1, 1, 1, 0, 0, 1, 1, 1])})
    run = with_scores(run, "nf4", **{"t/acc": accuracy([1, 0, 0, 1, 0, 1, 1, 1])})
    table = step_table(run)
    assert table.columns == ("perplexity", "bits/byte", "t/acc", "KL, nats/token")
    first = table.rows[0]
    assert (first.parent, first.variant, first.kind) == ("fp16", "nf4", "quantisation")
    assert first.cells[0].change == "+29.3 %"
    assert first.cells[0].tone == "bad"
    assert first.cells[2].change == "−12.5 pp"
    assert first.cells[2].flips == "1 gained, 2 lost"
    assert table.rows[1].cells[2].change == ""
    page = render_html(run).replace("\N{NO-BREAK SPACE}", " ")
    assert "1 gained, 2 lost" in page
    assert "<bdi>KL, nats/token</bdi>" in page


def test_the_json_has_all(made_up):
    run = made_up.costly_run()
    told = run_json(run)["variants"]["nf4"]["edge_effects"]
    assert set(told) == {"perplexity", "divergence", "disk", "memory"}
    edge = edge_effect(run, named(run, "nf4"), "perplexity")
    assert told["perplexity"]["nats_per_token"] == dict(
        zip(("effect", "low", "high"), edge.nats, strict=True)
    )
    assert told["perplexity"]["bits_per_byte"]["effect"] == pytest.approx(
        math.log(18.86 / 14.59) / math.log(2) / 3.6, rel=1e-3
    )
    assert told["disk"]["effect"] == 92_217_344 - 269_030_016


# -------------------------------------------------------------------------------- in words


def test_a_path_in_words(made_up):
    run = made_up.costly_run()
    told = path_words(run, named(run, "merged-4bit"), "perplexity")
    assert told == "quantisation +29 %, fine-tuning −41 %, 4-bit merge +67 %"
    assert path_words(run, named(run, "requantized"), "perplexity") == (
        "quantisation +29 %, dequantisation, fine-tuning and 16-bit merge −41 %, "
        "quantisation again +67 %"
    )
    assert path_words(run, named(run, "fp16"), "perplexity") == ""


def test_the_kinds_of_edges():
    def kind(*steps, known=1):
        parent, child = (
            VariantRecord("x", path, None, "the steps", None, {}) for path in (steps[:known], steps)
        )
        return edge_kind(parent, child)

    load, nf4, attach, merge = STEPS[:4]
    assert kind(load, attach) == "fine-tuning"
    assert kind(load, attach, merge, known=2) == "16-bit merge"
    assert kind(load, {"quantize": "int8"}, attach, merge, known=3) == "8-bit merge"
    assert kind(load, {"quantize": "group4"}, attach, merge, known=3) == "4-bit merge"
    assert kind(load, nf4, {"dequantize": "fp16"}, known=2) == "dequantisation"
    assert kind(load, attach, merge, nf4) == "fine-tuning, 16-bit merge and quantisation"
    two = kind(load, attach, {"attach": "b"}, known=2)
    assert two == "fine-tuning (b)"


def test_an_edge_that_was_not_measured_leaves_nothing_to_say(made_up):
    run = made_up.costly_run()
    other = replace(named(run, "nf4").scores["perplexity"], comparison={"data": "another"})
    run = with_scores(run, "nf4", perplexity=other)
    assert path_words(run, named(run, "merged-4bit"), "perplexity") == ""


def test_records_that_lead_back_to_themselves_end(made_up):
    run = made_up.costly_run()
    variants = tuple(replace(v, parent="nf4") if v.name == "fp16" else v for v in run.variants)
    run = replace(run, variants=variants)
    assert [v.name for v in lineage(run, named(run, "nf4"))] == ["fp16", "nf4"]
    assert path_words(run, named(run, "nf4"), "perplexity") != ""


def test_the_sentence_is_of_the_loss(made_up):
    assert path_sentences(made_up.costly_run()) == [
        "Perplexity from fp16 to merged-4bit: quantisation +29 %, fine-tuning −41 %, 4-bit merge "
        "+67 %; +27 % in all."
    ]


def test_without_a_loss_it_is_of_the_one_to_ship_and_of_the_worst(made_up):
    run = made_up.costly_run()
    run = replace(run, verdicts=run.verdicts[:2])
    assert path_sentences(run) == [
        "Perplexity from fp16 to fp16-merged-nf4: fine-tuning, 16-bit merge and quantisation "
        "−21 %.",
        "Perplexity from fp16 to nf4: quantisation +29 %.",
    ]


def test_the_sentence_stands_above_the_graph(made_up):
    page = render_html(made_up.costly_run()).replace("\N{NO-BREAK SPACE}", " ")
    (sentence,) = path_sentences(made_up.costly_run())
    assert page.index(sentence) < page.index('<ul class="tree narrow">')
    assert page.index('<h2 id="graph">') < page.index(sentence)
