"""The machine's noise on real weights in half precision: what other batches move."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evalkit.executors.local import LocalExecutor
from evalkit.judging.noise import own_floors
from evalkit.records import RunRecord
from evalkit.runner import run_suite
from evalkit.running.options import RunOptions
from evalkit.sources import WeightsSource
from evalkit.store import Store
from evalkit.suite import load_suite

pytestmark = pytest.mark.real

QUICKSTART = Path(__file__).resolve().parents[2] / "suites" / "quickstart.yaml"
# Documents of many lengths: where all are equally long no row is padded, and other batches can
# come out bit-identical.
CHANGES = [
    *("variants=[fp16]", "gates=[]", "metrics.divergence=null"),
    *("metrics.perplexity.tokens=null", "data.test.limit=12"),
]


class Nobody:
    """A watcher that looks away."""

    def started(self, *_: object) -> None: ...

    def on_progress(self, *_: object) -> None: ...

    def job_ended(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def measured(
    real_base: Path, real_source: WeightsSource, real_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunRecord:  # fmt: skip
    """The quickstart's 16-bit variant scored twice: in batches of 4,096 tokens, and of 1,024."""
    place = tmp_path_factory.mktemp("noise") / "runs.db"
    with Store.open(str(place)) as store:
        return run_suite(
            load_suite(QUICKSTART, overrides=CHANGES),
            RunOptions(cache=real_cache, noise="score"),
            store=store,
            executor=LocalExecutor(),
            watcher=Nobody(),
        )


def test_the_floor_is_of_the_size_that_half_precision_has(measured: RunRecord) -> None:
    (variant,) = measured.variants
    assert variant.job is not None
    assert variant.job.error is None
    floor = own_floors(measured)["fp16"]["perplexity"]
    print(f"floor {floor.floor:.2e}, shift {floor.shift:+.2e}, {floor.condition}")
    if variant.job.facts["effective_dtype"] == "fp32":
        pytest.skip("this CPU computes fp16 in float32: no half precision to measure")
    assert 4.9e-4 <= floor.floor <= 5e-3
    assert floor.shift != 0.0, "padded rows go through other kernels"


def test_the_pair_scored_the_same_tokens(measured: RunRecord) -> None:
    (variant,) = measured.variants
    (again,) = variant.repeats
    score, other = variant.scores["perplexity"], again.scores["perplexity"]
    assert again.label == "batches of 1,024 tokens, longest last"
    assert (score.counts == other.counts).all()
    assert dict(score.comparison) == dict(other.comparison)
    assert math.isclose(score.value, other.value, rel_tol=5e-3)
