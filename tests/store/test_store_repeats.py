"""Repeats, noise floors and draws go into the store and come out of it unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from evalkit.errors import StoreError
from evalkit.records import JobRecord, NoiseFloor, Repeat, Score, VariantRecord
from evalkit.store import FAMILY, SEED, RepeatResult, Store, VariantResult

PATH = ({"load": "fp16"}, {"attach": "tuned"})
JOB = JobRecord("score tuned", "score", "done", 1.0, facts={"effective_dtype": "bf16"})
LABEL = "batches of 1,024 tokens, longest last"


def score(seed: int = 0, metric: str = "perplexity") -> Score:
    sums = np.random.default_rng(seed).normal(size=4)
    ids = ("a", "b", "c", "d")
    return Score(
        metric, "mean", float(sums.mean()), 0.1, "ppl/token", False, ids, ids, sums, np.ones(4)
    )


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store.open(place) as opened:
        yield opened


def start(store: Store) -> str:
    variants = [VariantRecord("tuned", PATH, None, "", None, {})]
    return store.start_run(
        suite="s", place="s.yaml", suite_text="", suite_json={}, arguments={}, provenance={},
        variants=variants,
    )  # fmt: skip


def scored(store: Store) -> str:
    run_id = start(store)
    store.record_variant(
        run_id, VariantResult("tuned", PATH, None, "", JOB, {"perplexity": ("k", score())})
    )
    return run_id


def repeat(label: str = "seed 1", **changes: object) -> RepeatResult:
    job = JobRecord(f"score tuned ({label})", "score", "done", 2.0)
    return replace(RepeatResult("tuned", "seed", label, job), **changes)  # type: ignore[arg-type]


def repeats_of(store: Store, run_id: str) -> tuple[Repeat, ...]:
    (variant,) = store.load_run(run_id).variants
    return variant.repeats


def test_repeats_come_back_in_their_order_with_all_their_scores(store: Store) -> None:
    run_id = scored(store)
    both = {"perplexity": ("k1", score(1)), "task/acc": ("k2", score(2, "task/acc"))}
    store.record_repeat(run_id, repeat("seed 2", scores=both))
    store.record_repeat(run_id, repeat("seed 1", scores={"perplexity": ("k3", score(3))}))
    aa = JobRecord("score tuned (A/A)", "score", "done", 2.0)
    store.record_repeat(
        run_id, RepeatResult("tuned", "aa", LABEL, aa, {"perplexity": ("k4", score(4))})
    )
    found = repeats_of(store, run_id)
    assert [(one.kind, one.label) for one in found] == [
        ("seed", "seed 2"),
        ("seed", "seed 1"),
        ("aa", LABEL),
    ]
    assert set(found[0].scores) == {"perplexity", "task/acc"}
    assert found[0].scores["perplexity"].sums.tobytes() == score(1).sums.tobytes()
    assert found[2].scores["perplexity"].value == score(4).value


def test_a_repeat_is_found_by_its_key_and_shown_by_later_runs(store: Store) -> None:
    first = scored(store)
    store.record_repeat(first, repeat(scores={"perplexity": ("k1", score(1))}))
    found = store.find_score("k1")
    assert found is not None
    second = scored(store)
    store.record_repeat(second, repeat(reused={"perplexity": found.id}))
    (shown,) = repeats_of(store, second)
    assert shown.scores["perplexity"].sums.tobytes() == score(1).sums.tobytes()


def test_a_second_attempt_takes_the_place_of_the_first(store: Store) -> None:
    run_id = scored(store)
    store.record_repeat(run_id, repeat(scores={"perplexity": ("k1", score(1))}))
    store.record_repeat(run_id, repeat(scores={"perplexity": ("k2", score(2))}))
    (one,) = repeats_of(store, run_id)
    assert one.scores["perplexity"].value == score(2).value


def test_a_repeat_that_failed_is_noted_where_readers_look(store: Store) -> None:
    run_id = scored(store)
    failed = JobRecord("score tuned (seed 1)", "score", "failed", 1.0, error="out of memory")
    store.record_repeat(run_id, repeat(job=failed))
    (variant,) = store.load_run(run_id).variants
    assert variant.repeats == ()
    assert variant.job is not None
    assert variant.job.error is None
    assert variant.job.facts["notes"] == ["seed 1 is missing: out of memory"]
    assert variant.job.facts["effective_dtype"] == "bf16"


def test_a_repeat_needs_its_variant(store: Store) -> None:
    run_id = scored(store)
    with pytest.raises(StoreError, match="has no variant other to repeat"):
        store.record_repeat(run_id, repeat(variant="other"))


def test_the_newest_floor_of_a_key_counts(store: Store) -> None:
    floor = NoiseFloor(
        "perplexity", 5e-4, -1.25e-5, "tuned", "r1", {"threads": 2, "dtypes": ["bf16"]}
    )
    assert store.find_noise_floor("key") is None
    store.record_noise_floor("key", floor)
    assert store.find_noise_floor("key") == floor
    newer = replace(floor, floor=0.1 + 0.2, run="r2")
    store.record_noise_floor("key", newer)
    assert store.find_noise_floor("key") == newer
    assert store.find_noise_floor("other") is None


def test_draws_of_a_family_are_found_by_their_seed(store: Store) -> None:
    def train(run_id: str, seed: int, family: str, status: str = "done", content: str = "") -> None:
        facts = {FAMILY: family, SEED: seed}
        job = JobRecord(f"train a (seed {seed})", "train", status, 1.0, facts=facts)  # type: ignore[arg-type]
        digest = content or f"digest {seed}"
        store.record_training(run_id, job, reuse_key=f"recipe {seed}", content_digest=digest)

    first = start(store)
    train(first, 2, "family")
    train(first, 0, "family")
    train(first, 1, "another")
    train(first, 3, "family", status="failed")
    second = start(store)
    train(second, 0, "family", status="reused", content="newer")
    found = store.find_draws("family")
    assert [(draw.seed, draw.run, draw.content_digest) for draw in found] == [
        (0, second, "newer"),
        (2, first, "digest 2"),
    ]
    assert store.find_draws("none") == ()


def test_deleting_a_run_leaves_a_repeats_score_to_be_found(store: Store) -> None:
    import sqlalchemy as sa

    from evalkit.store import tables

    run_id = scored(store)
    store.record_repeat(run_id, repeat(scores={"perplexity": ("k1", score(1))}))
    with store._writing() as session:
        session.execute(sa.delete(tables.Run).filter_by(id=run_id))
    with store._reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(tables.RepeatRow)) == 0
    assert store.find_score("k1") is not None
