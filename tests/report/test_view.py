"""Rows of the tables, and the graph."""

from __future__ import annotations

from dataclasses import replace

from evalkit.report import details, view
from evalkit.report.facts import interval, storage_bits, twin_without_adapter, variant_named
from evalkit.report.strips import loss_history, strip, strip_domains


def test_what_needs_attention_comes_first(made_up):
    rows = view.gate_rows(made_up.run())
    assert [row.verdict for row in rows] == ["REGRESSED", "IMPROVED", "PASS"]
    assert rows[0].remark == "as expected: ok"


def test_a_message_loses_only_what_the_columns_say(made_up):
    message = "perplexity of nf4 is +28.8 % against fp16, at most +30 % allowed; few clusters; more"
    gate = made_up.gate("nf4", "fp16", 0.3)
    judged = made_up.verdict(gate, "INCONCLUSIVE", (0.2, 0.288, 0.4), message=message)
    assert view.more_words(judged) == "few clusters; more"
    other = made_up.verdict(gate, "ERRORED", None, message="perplexity of nf4 is gone; why")
    assert view.more_words(other) == "perplexity of nf4 is gone; why"


def test_the_graph_hangs_each_variant_under_its_parent(made_up):
    (root,) = details.graph(made_up.run(), "perplexity")
    assert root.name == "fp16"
    assert [node.name for node in root.children] == ["nf4", "fp16-merged-nf4"]
    nf4 = root.children[0]
    assert nf4.change == "+29.3 %"
    merged = nf4.children[0].children[0]
    assert (merged.name, merged.edge, merged.change) == ("merged-4bit", "merge", "+66.7 %")


def test_a_graph_with_a_loop_still_shows_every_variant(made_up):
    one, two, *_ = made_up.run().variants
    looped = (replace(one, parent=two.name), replace(two, parent=one.name))
    nodes = details.graph(made_up.run(variants=looped), "perplexity")
    assert {nodes[0].name, nodes[0].children[0].name} == {one.name, two.name}


def test_shared_facts_are_told_once(made_up):
    shared, cards = details.job_table(made_up.run())
    assert ("effective_dtype", "bf16") in shared
    assert all(dict(card.facts).keys() == {"weight_bytes"} for card in cards)


def test_storage_follows_the_last_step(made_up):
    run = made_up.run()
    bits = {variant.name: storage_bits(variant.path) for variant in run.variants}
    assert bits == {
        "fp16": 16, "nf4": 4, "nf4+adapter": 4, "merged-4bit": 4, "dequant-merged": 16,
        "requantized": 4, "fp16-merged-nf4": 4,
    }  # fmt: skip


def test_twins(made_up):
    run = made_up.run()

    def twin(name):
        found = twin_without_adapter(run, variant_named(run, name))
        return found.name if found else None

    assert twin("merged-4bit") == "nf4"
    assert twin("requantized") == "nf4"
    assert twin("fp16-merged-nf4") == "nf4"
    assert twin("dequant-merged") is None


def test_the_interval_is_students_on_the_log_scale(made_up):
    low, high = interval(made_up.score(10.0, stderr=0.4))
    # t(41, 0.975) = 2.0195 (tables)
    assert abs(high / 10.0 - 2.718281828 ** (2.0195 * 0.04)) < 1e-4
    assert abs(low * high - 100.0) < 1e-9
    assert interval(made_up.score(10.0, stderr=None)) is None


def test_strips_of_one_unit_share_a_scale(made_up):
    verdicts = made_up.run().verdicts
    domains = strip_domains(verdicts)
    improved, passed, lost = (strip(verdict, domains) for verdict in verdicts)
    assert improved.zero == passed.zero == lost.zero
    assert improved.effect < improved.zero < passed.effect < passed.budget < lost.low < lost.effect
    assert improved.low > 0
    assert lost.high < 100
    assert (passed.allowed_from, passed.allowed_to) == (0.0, passed.budget)


def test_loss_histories_in_the_forms_that_trainers_log():
    assert loss_history({"losses": [2.0, 1.5]}) == [2.0, 1.5]
    assert loss_history({"loss": [[1, 2.0], [2, 1.5]]}) == [2.0, 1.5]
    assert loss_history({"loss_history": [{"step": 1, "loss": 2.0}, {"loss": 1.5}]}) == [2.0, 1.5]
    assert loss_history({"final_loss": 1.0, "steps": [1, 2]}) == []
