"""A training step of the quickstart with the adapter in its base's dtype, and as trl makes it.

trl makes adapters of quantised weights bfloat16. Where the base is computed in float32, as on a CPU
without bfloat16, evalkit trains them in float32. In turn, ratios of tokens a second; nothing to see
on a CPU with bfloat16, where the two are the same:

    OMP_NUM_THREADS=1 python benchmarks/training.py [--steps 4] [--rounds 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import timeit
from pathlib import Path
from unittest import mock

from measuring import ROOT

from evalkit.corpora import load_corpus
from evalkit.machine import default_cache, detect_machine
from evalkit.sources import resolve_weights
from evalkit.suite import load_suite
from evalkit.weights import training
from evalkit.weights.building import BuildContext
from evalkit.weights.loading import prepare_base

ADAPTER = "reference"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="steps of each training")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each side")
    given = parser.parse_args()
    print(f"an adapter's product, bfloat16 / float32: {product_ratio():.0f}", flush=True)
    suite = load_suite(ROOT / "suites" / "quickstart.yaml")
    cache, machine = default_cache(), detect_machine()
    source = resolve_weights(suite.model, cache)
    prepare_base(source, cache, on_progress=lambda progress: None)
    corpus = load_corpus("train", suite.data["train"], cache=cache)
    recipe = suite.adapters[ADAPTER]
    assert recipe.training is not None
    steps = recipe.training.model_copy(update={"steps": given.steps})
    context = BuildContext(
        base=source,
        adapters={},
        full=frozenset(),
        cache=cache,
        device=machine.device,
        device_map=None,
        effective_dtypes=machine.effective_dtypes(),
    )

    def speed() -> float:
        """Tokens a second."""
        with tempfile.TemporaryDirectory() as folder:
            facts = training.train_adapter(
                ADAPTER,
                recipe.model_copy(update={"training": steps}),
                corpus,
                context,
                out=Path(folder) / ADAPTER,
                job="",
                on_progress=lambda progress: None,
            )
        return float(facts["tokens_per_second"])

    def speed_as_trl_makes_it() -> float:
        with mock.patch.object(training, "_train_in_float32"):
            return speed()

    speed()  # libraries are imported, what is kept is made
    ratios = [speed() / speed_as_trl_makes_it() for _ in range(given.rounds)]
    dtype = machine.effective_dtypes()["fp16"]
    print(f"base in {dtype}: evalkit / trl as it is {statistics.median(ratios):.2f}", flush=True)
    print("rounds:", ", ".join(f"{ratio:.2f}" for ratio in ratios))


def product_ratio() -> float:
    """Time of a step's 768 tokens through B of rank 16, in bfloat16 as a multiple of float32."""
    import torch

    times = []
    for dtype in (torch.bfloat16, torch.float32):
        tokens, weights = torch.randn(768, 16).to(dtype), torch.randn(16, 1536).to(dtype)
        times.append(min(timeit.repeat(lambda: tokens @ weights, number=1, repeat=20)))  # noqa: B023
    return times[0] / times[1]


if __name__ == "__main__":
    main()
