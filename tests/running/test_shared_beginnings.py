"""A merge that two variants of a run begin with is made once."""

import pytest
from small_run import SHARING, numbers, small_run, write_suite

_, MERGED, AGAIN = SHARING


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder, on_the_cpu):
    folder = tmp_path_factory.mktemp("shared")
    write_suite(folder, tiny_folder, variants=SHARING)
    return folder


def step_seconds(record, name):
    (job,) = (variant.job for variant in record.variants if variant.name == name)
    return job.facts["step_seconds"]


def test_it_is_made_once_and_gone_when_the_run_is_over(folder):
    whole, jobs = small_run(folder)
    assert set(jobs.values()) == {"done"}
    made = step_seconds(whole, MERGED)
    assert list(made)[-1].endswith(" merge")
    assert {name: step_seconds(whole, AGAIN)[name] for name in made} == made, "measured once"
    assert list((folder / "cache" / "scratch").iterdir()) == []

    alone, jobs = small_run(folder, only=(AGAIN,), force=True)
    assert jobs[f"score {AGAIN}"] == "done"
    assert step_seconds(alone, AGAIN).keys() == step_seconds(whole, AGAIN).keys()
    assert numbers(alone)[AGAIN] == numbers(whole)[AGAIN]


def test_nothing_is_kept_for_a_variant_whose_numbers_are_stored(folder, monkeypatch):
    small_run(folder)
    (folder / "runs.db").rename(folder / "before.db")
    small_run(folder, only=(AGAIN,))

    def keep(*_):
        raise AssertionError("nobody goes on from it")

    monkeypatch.setattr("evalkit.weights.steps.keep", keep)
    _, jobs = small_run(folder)
    assert jobs[f"score {AGAIN}"] == "reused"
    assert jobs[f"score {MERGED}"] == "done"
