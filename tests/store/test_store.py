"""Records go into the store and come out of it unchanged; a transaction is whole or absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from stored_runs import (
    GATES,
    JOB,
    PATH,
    SAMPLES,
    TRAINING,
    VERDICTS,
    assert_same_bits,
    make_score,
    result,
    start,
)

from evalkit.errors import StoreError, UsageError
from evalkit.records import (
    Gate,
    JobRecord,
    RunRecord,
    Sample,
    VariantRecord,
)
from evalkit.store import Store, tables


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store.open(place) as store:
        yield store


def count(store: Store, table: type[tables.Base]) -> int:
    with Session(store._engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_every_field_of_every_record_comes_back_bit_for_bit(store: Store) -> None:
    scores = {"perplexity": make_score(), "perplexity/b": make_score("perplexity/b", seed=1)}
    run_id = start(store)
    store.record_training(run_id, TRAINING, reuse_key="recipe")
    store.record_variant(
        run_id,
        result(
            scores={name: (f"key {name}", score) for name, score in scores.items()},
            samples=SAMPLES,
            samples_key="texts",
        ),
    )
    store.record_verdicts(run_id, VERDICTS)
    store.finish_run(run_id, seconds=0.1 + 0.2, exit_code=1)

    found = store.load_run(run_id)

    stored_job = dataclasses.replace(JOB, error="warning: \\udcff is no character")
    wanted = RunRecord(
        id=run_id,
        suite="quickstart",
        started=found.started,
        seconds=0.1 + 0.2,
        exit_code=1,
        suite_text="name: quickstart\n# ✓\n",
        suite_json={"name": "quickstart", "lora": {"r": 16, "dropout": 0.0}},
        arguments={"given": {"set": ["a=1"]}, "defaulted": {"db": None}},
        provenance={"git": {"dirty": True}, "versions": {"torch": "2.13.0"}},
        variants=(VariantRecord("nf4", PATH, "fp16", "quantise nf4", stored_job, scores, SAMPLES),),
        adapters=(TRAINING,),
        verdicts=VERDICTS,
        gates=GATES,
        place="suites/quickstart.yaml",
    )
    assert_same_bits(found, wanted)


def test_the_records_of_the_round_trip_leave_no_field_at_its_default() -> None:
    for record in (make_score(), VERDICTS[0], JOB):
        for field in dataclasses.fields(record):
            # What a baseline from a file has in the place of outcomes.
            if field.name != "answers" and field.default is not dataclasses.MISSING:
                assert getattr(record, field.name) != field.default, field.name
    set_somewhere = {
        field.name
        for gate in GATES
        for field in dataclasses.fields(gate)
        if getattr(gate, field.name) != field.default
    }
    assert set_somewhere == {field.name for field in dataclasses.fields(Gate)}


def test_values_that_are_not_finite_in_sums_survive(store: Store) -> None:
    payload = np.array([np.nan, np.inf, -np.inf, 1.0])
    payload.view(np.uint64)[0] = 0x7FF8_DEAD_BEEF_0001
    score = dataclasses.replace(
        make_score(n=4), sums=payload, clusters=tuple(f"document-{i}-é" for i in range(4))
    )
    run_id = start(store)
    store.record_variant(run_id, result(scores={"perplexity": ("k", score)}))
    found = store.load_run(run_id).variants[0].scores["perplexity"]
    assert found.sums.tobytes() == payload.tobytes()
    assert found.clusters == found.unit_ids


def test_a_non_contiguous_array_is_stored_by_value(store: Store) -> None:
    score = dataclasses.replace(make_score(n=4), sums=np.arange(8.0)[::2])
    run_id = start(store)
    store.record_variant(run_id, result(scores={"perplexity": ("k", score)}))
    found = store.load_run(run_id).variants[0].scores["perplexity"]
    assert found.sums.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_scores_are_found_by_key_and_shown_by_later_runs(store: Store) -> None:
    score = make_score()
    first = start(store)
    store.record_variant(first, result(scores={"perplexity": ("key", score)}))
    found = store.find_score("key")
    assert found is not None
    assert (found.run, found.metric, found.value, found.stderr) == (
        first,
        "perplexity",
        score.value,
        score.stderr,
    )
    assert found.extra == score.extra
    assert store.find_score("another key") is None

    second = start(store)
    job = JobRecord("score nf4", "score", "reused", 0.0, reused_from=found.run)
    store.record_variant(second, result(job=job, reused={"perplexity": found.id}))
    variant = store.load_run(second).variants[0]
    assert_same_bits(dict(variant.scores), {"perplexity": score})
    assert variant.job is not None
    assert variant.job.reused_from == first
    assert_same_bits(store.load_score(found.id), score)
    assert count(store, tables.ScoreRow) == 1


def test_the_newest_of_equal_keys_is_reused(store: Store) -> None:
    for seed in (1, 2):
        run_id = start(store)
        store.record_variant(run_id, result(scores={"perplexity": ("key", make_score(seed=seed))}))
    found = store.find_score("key")
    assert found is not None
    assert found.run == run_id
    assert found.value == make_score(seed=2).value


def test_samples_are_found_by_key(store: Store) -> None:
    first = start(store)
    store.record_variant(first, result(samples=SAMPLES, samples_key="texts"))
    found = store.find_samples("texts")
    assert found is not None
    assert (found.run, found.samples) == (first, SAMPLES)
    second = start(store)
    store.record_variant(second, result(reused_samples=found.id))
    assert store.load_run(second).variants[0].samples == SAMPLES
    assert count(store, tables.SampleSet) == 1
    with pytest.raises(StoreError, match="samples need a reuse key"):
        store.record_variant(second, result(samples=SAMPLES))


def test_only_a_finished_training_is_found(store: Store) -> None:
    run_id = start(store)
    failed = dataclasses.replace(TRAINING, status="failed", error="loss nan at step 3")
    store.record_training(run_id, failed, reuse_key="recipe")
    assert store.find_training("recipe") is None
    store.record_training(run_id, TRAINING, reuse_key="recipe", content_digest="abc")
    found = store.find_training("recipe")
    assert found is not None
    assert (found.run, found.content_digest) == (run_id, "abc")
    assert_same_bits(found.job, TRAINING)
    assert store.load_run(run_id).adapters == (TRAINING,)


def test_units_that_scores_share_are_stored_once(store: Store) -> None:
    run_id = start(store)
    for seed, name in enumerate(("fp16", "nf4", "merged")):
        store.record_variant(
            run_id, result(name, scores={"perplexity": (name, make_score(seed=seed))})
        )
    assert count(store, tables.UnitSet) == 1
    other = dataclasses.replace(make_score(), counts=np.ones(7))
    store.record_variant(run_id, result("nf4", scores={"perplexity": ("k", other)}))
    assert count(store, tables.UnitSet) == 2


def test_planned_variants_keep_the_order_of_the_suite(store: Store) -> None:
    planned = [VariantRecord(name, PATH, None, "", None, {}) for name in ("fp16", "nf4", "merged")]
    run_id = start(store, variants=planned)
    assert store.load_run(run_id).variants == tuple(planned)
    for name in ("merged", "another", "fp16"):
        store.record_variant(run_id, result(name))
    found = store.load_run(run_id).variants
    assert [variant.name for variant in found] == ["fp16", "nf4", "merged", "another"]
    assert found[1] == planned[1]
    assert found[2].edge == "quantise nf4"


def test_a_second_result_takes_the_place_of_the_first(store: Store) -> None:
    run_id = start(store)
    failed = JobRecord("score nf4", "score", "failed", 1.0, error="out of memory")
    partial = {"perplexity": ("a", make_score()), "perplexity/b": ("b", make_score("perplexity/b"))}
    store.record_variant(
        run_id, result(job=failed, scores=partial, samples=SAMPLES, samples_key="s")
    )
    store.record_variant(run_id, result(scores={"perplexity": ("a", make_score(seed=5))}))
    (variant,) = store.load_run(run_id).variants
    assert list(variant.scores) == ["perplexity"]
    assert variant.scores["perplexity"].value == make_score(seed=5).value
    assert variant.samples == ()
    assert variant.job is not None
    assert variant.job.status == "reused"
    assert store.find_score("b") is not None, "what was scored can still be reused"


def test_verdicts_are_replaced_when_a_run_is_judged_again(store: Store) -> None:
    run_id = start(store)
    store.record_verdicts(run_id, VERDICTS)
    store.record_verdicts(run_id, VERDICTS[1:])
    assert store.load_run(run_id).verdicts == VERDICTS[1:]


@pytest.mark.parametrize(
    "broken",
    [
        {"reused": {"perplexity/b": 999}},
        {"reused": {"perplexity": 1}},
        {"samples": SAMPLES},
        {"samples": (Sample("p", "t", (object(),)),), "samples_key": "s"},  # type: ignore[arg-type]
        {"reused_samples": 999},
    ],
    ids=["no such score", "computed and reused", "no key", "no JSON", "no such samples"],
)
def test_a_transaction_that_fails_leaves_nothing(store: Store, broken: dict[str, object]) -> None:
    run_id = start(store)
    before = store.load_run(run_id)
    with pytest.raises(StoreError):
        store.record_variant(run_id, result(scores={"perplexity": ("k", make_score())}, **broken))
    assert store.load_run(run_id) == before
    assert store.find_score("k") is None
    for table in (tables.Job, tables.ScoreRow, tables.UnitSet, tables.TokenLossRow):
        assert count(store, table) == 0, table
    store.record_variant(run_id, result(scores={"perplexity": ("k", make_score())}))
    assert store.find_score("k") is not None


def test_an_interrupt_within_a_transaction_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start(store)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evalkit.store.writing._show_scores", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.record_variant(run_id, result(scores={"perplexity": ("k", make_score())}))
    monkeypatch.undo()
    assert count(store, tables.ScoreRow) == 0
    store.record_variant(run_id, result(scores={"perplexity": ("k", make_score())}))


def test_a_score_must_be_named_as_its_metric(store: Store) -> None:
    run_id = start(store)
    with pytest.raises(StoreError, match="a score of perplexity was given as one of kl"):
        store.record_variant(run_id, result(scores={"kl": ("k", make_score())}))


def test_runs_are_named_by_latest_id_or_unique_start(store: Store) -> None:
    with pytest.raises(UsageError, match="no runs yet"):
        store.load_run()
    first, second = start(store, suite="one"), start(store, suite="two")
    assert sorted([second, first]) == sorted({first, second})
    assert store.load_run("latest").id == second
    assert store.load_run(first).suite == "one"
    shared = first[:4]
    with pytest.raises(UsageError, match=f"2 or more runs begin with {shared}"):
        store.load_run(shared)
    unique = first if first[:-1] == second[:-1] else first[:-1]
    assert store.load_run(unique).id == first
    for unknown in ("nonsense", "", "%"):
        with pytest.raises(UsageError, match=second):
            store.load_run(unknown)


def test_recording_into_a_run_that_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="no run 2020"):
        store.record_variant("2020", result())
    with pytest.raises(StoreError, match="no run 2020"):
        store.finish_run("2020", seconds=1.0, exit_code=0)
    with pytest.raises(StoreError, match="no score 7"):
        store.load_score(7)


def test_summaries_count_variants_and_verdicts(store: Store) -> None:
    planned = [VariantRecord(name, PATH, None, "", None, {}) for name in ("fp16", "nf4", "int8")]
    older = start(store, variants=planned)
    store.record_variant(older, result("nf4"))
    failed = JobRecord("score int8", "score", "failed", 1.0, error="out of memory")
    store.record_variant(older, result("int8", job=failed))
    store.record_verdicts(older, (*VERDICTS, VERDICTS[1]))
    store.finish_run(older, seconds=3.5, exit_code=3)
    newer = start(store)
    summaries = store.list_runs()
    assert [summary.id for summary in summaries] == [newer, older]
    assert (summaries[0].seconds, summaries[0].exit_code, summaries[0].variants) == (None, None, 0)
    assert (summaries[1].variants, summaries[1].scored, summaries[1].exit_code) == (3, 1, 3)
    assert summaries[1].verdicts == {"REGRESSED": 1, "MISSING": 2}
    assert [summary.id for summary in store.list_runs(1)] == [newer]


def test_deleting_a_run_keeps_the_scores_that_others_show(store: Store) -> None:
    first, second = start(store), start(store)
    store.record_variant(first, result(scores={"perplexity": ("key", make_score())}))
    found = store.find_score("key")
    assert found is not None
    store.record_variant(second, result(reused={"perplexity": found.id}))
    with store._writing() as session:
        session.execute(sa.delete(tables.Run).filter_by(id=first))
    assert count(store, tables.Variant) == 1
    assert_same_bits(store.load_run(second).variants[0].scores["perplexity"], make_score())


def test_a_reader_sees_one_state_while_another_writes(store: Store) -> None:
    run_id = start(store)
    with store._reading() as session:
        query = sa.select(sa.func.count()).select_from(tables.Job)
        assert session.scalar(query) == 0
        store.record_variant(run_id, result())
        assert session.scalar(query) == 0
    assert count(store, tables.Job) == 1
