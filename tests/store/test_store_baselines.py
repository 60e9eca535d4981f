"""Baselines in the store: history, imports, and one transaction for each."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import StoreError
from evalkit.records import Baseline, Budget, Gate, JobRecord, SampleOutcome, Score
from evalkit.store import BaselineSummary, Store, VariantResult, baselines, tables

GATE = Gate("perplexity", "nf4", "baseline", max_increase=Budget(0.1 + 0.2, "relative"))


def score(seed: int = 0, *, metric: str = "perplexity") -> Score:
    generator = np.random.default_rng(seed)
    sums = generator.normal(size=5)
    sums[0] = -0.0
    return Score(
        metric=metric,
        kind="mean",
        value=float(sums.sum()) / 3,
        stderr=1 / 3,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=tuple("abcde"),
        clusters=("x", "x", "y", "y", "z"),
        sums=sums,
        counts=np.arange(1.0, 6.0),
        extra={"bits_per_byte": 0.1},
        comparison={"data": "d1"},
    )


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store.open(place) as store:
        yield store


def run(store: Store, *, suite: str = "tiny", seed: int = 0, key: str = "key") -> str:
    run_id = store.start_run(
        suite=suite, place="s.yaml", suite_text="", suite_json={}, arguments={},
        provenance={"packages": {"torch": "2.13.0"}}, gates=(GATE,),
    )  # fmt: skip
    for number, name in enumerate(("fp16", "nf4")):
        made = score(seed + number)
        store.record_variant(
            run_id,
            VariantResult(
                name=name, path=({"load": name},), parent=None, edge="",
                job=JobRecord(f"score {name}", "score", "done", 1.0),
                scores={"perplexity": (f"{key} {name}", made)},
            ),
        )  # fmt: skip
    return run_id


def elsewhere(**changes: object) -> Baseline:
    made = Baseline(
        name="main", suite="tiny", run="20250101-000000-beef",
        promoted="2025-01-01T00:00:00.000000+00:00", forced=True, gates=(GATE,),
        provenance={"device": "cpu"}, scores={"nf4": {"perplexity": score(9)}},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def rows(store: Store, table: type[tables.Base]) -> int:
    with Session(store._engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def same(found: Score, wanted: Score) -> bool:
    arrays = found.sums.tobytes() == wanted.sums.tobytes()
    plain = replace(found, sums=wanted.sums, counts=wanted.counts)
    return arrays and found.counts.tobytes() == wanted.counts.tobytes() and plain == wanted


def test_a_promoted_run_is_found_with_its_scores_gates_and_provenance(store: Store) -> None:
    run_id = run(store)
    scores = rows(store, tables.ScoreRow)
    promoted = store.promote(run_id, "main", forced=True)
    found = store.find_baseline("tiny", "main")
    assert found is not None
    assert (found.name, found.suite, found.run, found.forced) == ("main", "tiny", run_id, True)
    assert found.promoted == promoted.promoted
    assert found.gates == (GATE,)
    assert found.provenance == {"packages": {"torch": "2.13.0"}}
    assert found.scores.keys() == {"fp16", "nf4"}
    assert same(found.scores["fp16"]["perplexity"], score(0))
    assert same(found.scores["nf4"]["perplexity"], score(1))
    assert rows(store, tables.ScoreRow) == scores


def test_the_newest_of_a_suite_and_a_name_counts_and_the_older_stay(store: Store) -> None:
    first, second, other = run(store), run(store, seed=3, key="b"), run(store, suite="other")
    old = store.promote(first, "main")
    store.promote(second, "main")
    store.promote(first, "release")
    store.promote(other, "main")
    assert store.find_baseline("tiny", "main").run == second  # type: ignore[union-attr]
    assert store.find_baseline("tiny", "release").run == first  # type: ignore[union-attr]
    assert store.find_baseline("other", "main").run == other  # type: ignore[union-attr]
    assert store.find_baseline("tiny", "nothing") is None
    assert store.find_baseline("nothing", "main") is None
    again = store.find_baseline("tiny", "main", promoted=old.promoted)
    assert again is not None
    assert again.run == first
    assert store.find_baseline("tiny", "main", promoted="1999") is None
    listed = store.list_baselines()
    assert [(b.suite, b.name, b.run, b.current) for b in listed] == [
        ("other", "main", other, True),
        ("tiny", "release", first, True),
        ("tiny", "main", second, True),
        ("tiny", "main", first, False),
    ]
    assert listed[0] == BaselineSummary(
        suite="other", name="main", run=other, promoted=listed[0].promoted, forced=False,
        current=True, variants=2, scores=2,
    )  # fmt: skip


def test_a_baseline_outlives_its_run(store: Store) -> None:
    run_id = run(store)
    store.promote(run_id, "main")
    with Session(store._writer) as session, session.begin():
        session.execute(sa.delete(tables.Run).filter_by(id=run_id))
    found = store.find_baseline("tiny", "main")
    assert found is not None
    assert same(found.scores["nf4"]["perplexity"], score(1))


def test_an_imported_baseline_is_the_newest_and_read_back_bit_for_bit(store: Store) -> None:
    store.promote(run(store), "main")
    assert store.import_baseline(elsewhere()) is True
    found = store.find_baseline("tiny", "main")
    assert found is not None
    assert replace(found, scores={}) == elsewhere(scores={})
    assert same(found.scores["nf4"]["perplexity"], score(9))


def test_importing_the_same_again_writes_nothing(store: Store) -> None:
    assert store.import_baseline(elsewhere()) is True
    counts = [rows(store, t) for t in (tables.BaselineRow, tables.ScoreRow, tables.UnitSet)]
    assert store.import_baseline(elsewhere()) is False
    assert (
        store.import_baseline(elsewhere(provenance={}, gates=(replace(GATE, place="x"),))) is False
    )
    assert counts == [rows(store, t) for t in (tables.BaselineRow, tables.ScoreRow, tables.UnitSet)]


@pytest.mark.parametrize(
    "change",
    [
        {"gates": ()},
        {"forced": False},
        {"promoted": "2026"},
        {"scores": {"nf4": {"perplexity": score(10)}}},
        {"scores": {"nf4": {"perplexity": replace(score(9), answers="a" * 64)}}},
        {"scores": {"nf4": {"perplexity": score(9)}, "fp16": {"perplexity": score(9)}}},
    ],
    ids=str,
)
def test_importing_another_of_the_same_name_makes_it_the_newest(
    store: Store, change: dict[str, object]
) -> None:
    store.import_baseline(elsewhere())
    assert store.import_baseline(elsewhere(**change)) is True
    assert len(store.list_baselines()) == 2


def test_an_older_file_can_be_made_the_baseline_again(store: Store) -> None:
    store.import_baseline(elsewhere())
    scores = rows(store, tables.ScoreRow)
    store.promote(run(store), "main")
    assert store.import_baseline(elsewhere()) is True
    assert store.find_baseline("tiny", "main").run == elsewhere().run  # type: ignore[union-attr]
    assert rows(store, tables.ScoreRow) == scores + 2


def test_an_imported_score_is_never_reused_for_a_computed_one(store: Store) -> None:
    store.import_baseline(elsewhere())
    with Session(store._engine) as session:
        (key,) = session.scalars(sa.select(tables.ScoreRow.reuse_key))
    assert key.startswith("imported:")
    assert len(key) <= 64


def test_a_digest_of_answers_stands_in_for_outcomes_that_were_left_out(store: Store) -> None:
    outcomes = tuple(SampleOutcome("0", "1", False, (0.5, -n / 3)) for n in range(5))
    task = replace(score(2, metric="t/acc"), outcomes=outcomes)
    whole = elsewhere(scores={"nf4": {"t/acc": task}})
    store.import_baseline(whole)
    found = store.find_baseline("tiny", "main").scores["nf4"]["t/acc"]  # type: ignore[union-attr]
    assert found.outcomes == outcomes
    assert len(found.answers) == 64
    bare = elsewhere(scores={"nf4": {"t/acc": replace(task, outcomes=(), answers=found.answers)}})
    assert store.import_baseline(bare) is False


def test_a_run_without_scores_is_no_baseline(store: Store) -> None:
    empty = store.start_run(
        suite="tiny", place="", suite_text="", suite_json={}, arguments={}, provenance={}
    )
    with pytest.raises(StoreError, match=f"run {empty} has no scores"):
        store.promote(empty, "main")
    with pytest.raises(StoreError, match="no run nothing"):
        store.promote("nothing", "main")
    assert store.list_baselines() == ()


def test_an_import_that_fails_half_way_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = baselines.write_score, []

    def once(*arguments: object) -> int:
        if written:
            raise RuntimeError("in the middle")
        written.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(baselines, "write_score", once)
    two = elsewhere(scores={"a": {"perplexity": score(1)}, "b": {"perplexity": score(2)}})
    with pytest.raises(RuntimeError, match="in the middle"):
        store.import_baseline(two)
    assert written
    assert [rows(store, t) for t in (tables.BaselineRow, tables.ScoreRow, tables.UnitSet)] == [
        0
    ] * 3


def test_a_run_keeps_which_baseline_judged_it(store: Store) -> None:
    run_id = run(store)
    store.note_baseline(run_id, {"name": "main"})
    provenance = store.load_run(run_id).provenance
    assert provenance == {"packages": {"torch": "2.13.0"}, "baseline": {"name": "main"}}
