"""How often the verdicts are wrong, by simulation: the tables of docs/statistics.md.

    python benchmarks/calibration.py                       # small: about 20 seconds
    python benchmarks/calibration.py --replicates 2000     # the published tables

Everything is judged by `evalkit.gates.judge`, from scores as a run would hold them. Documents are
drawn from a population whose true effect is known; nothing about a model is simulated but that.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from evalkit.gates import judge
from evalkit.records import Budget, Gate, Score, Verdict
from evalkit.statistics import Bootstrap, paired_ratio

BUDGET = Budget(0.02, "relative")
EFFECT_SPREAD = 0.05  # nats per token, between clusters
TAILS = ("normal", "t3", "exponential", "log-normal")
UNEVENNESS = (0.0, 0.7, 1.2)
CLUSTERS = (10, 20, 40, 80, 160)


def tail_draws(generator: np.random.Generator, tail: str, size: int) -> np.ndarray:
    """Draws with mean 0 and variance 1; skewness 0, 0, 2 and 6.2, losses on the long side."""
    if tail == "normal":
        return generator.normal(0.0, 1.0, size)
    if tail == "t3":
        return generator.standard_t(3, size) / math.sqrt(3)
    if tail == "exponential":
        return generator.exponential(1.0, size) - 1.0
    lognormal = np.exp(generator.normal(0.0, 1.0, size))
    return (lognormal - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def score(sums: np.ndarray, counts: np.ndarray, clusters: tuple[str, ...]) -> Score:
    ids = tuple(f"d{i}" for i in range(len(sums)))
    return Score(
        metric="perplexity",
        kind="perplexity",
        value=math.exp(sums.sum() / counts.sum()),
        stderr=None,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=ids,
        clusters=clusters,
        sums=sums,
        counts=counts,
    )


def pair(
    generator: np.random.Generator,
    *,
    clusters: int,
    unevenness: float,
    tail: str,
    effect: float,
    documents: int = 1,
) -> tuple[Score, Score]:
    """A variant and its reference: `effect` nats per token apart in truth.

    A cluster's token count is log-normal with `unevenness` as the logarithm's deviation, and
    independent of its effect, so that the ratio's true value is the effect's mean.
    """
    size = np.maximum(1.0, np.round(150 * np.exp(generator.normal(0.0, unevenness, clusters))))
    counts = np.repeat(size, documents)
    names = tuple(f"c{i // documents}" for i in range(clusters * documents))
    shift = np.repeat(effect + EFFECT_SPREAD * tail_draws(generator, tail, clusters), documents)
    noise = generator.normal(0.0, 0.2, len(counts)) / np.sqrt(counts)
    reference = counts * generator.normal(2.5, 0.4, len(counts))
    variant = reference + counts * (shift + noise)
    return score(variant, counts, names), score(reference, counts, names)


def verdicts(pairs: Iterable[tuple[Score, Score]]) -> list[Verdict]:
    """Judge one suite, a gate a pair."""
    gates, scores = [], {}
    for index, (variant, reference) in enumerate(pairs):
        scores[f"a{index}"], scores[f"b{index}"] = (
            {"perplexity": variant},
            {"perplexity": reference},
        )
        gates.append(Gate("perplexity", f"a{index}", f"b{index}", max_increase=BUDGET))
    return list(judge(gates, scores, {}, bootstrap=None))


def percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    header = list(header)
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def at_the_budget(replicates: int, seed: int) -> Iterator[list[str]]:
    """One gate, the true effect exactly on the budget: every PASS and REGRESSED is false."""
    truth = math.log1p(BUDGET.amount)
    cells = itertools.product(TAILS, UNEVENNESS, CLUSTERS)
    for cell, (tail, unevenness, clusters) in enumerate(cells):
        generator = np.random.default_rng([seed, 1, cell])
        found = Counter[str]()
        effective = 0.0
        for _ in range(replicates):
            one = pair(generator, clusters=clusters, unevenness=unevenness, tail=tail, effect=truth)
            (verdict,) = verdicts([one])
            found[verdict.verdict.replace("IMPROVED", "PASS")] += 1
            found["covered"] += verdict.low <= BUDGET.amount <= verdict.high
            found["plain"] += verdict.low > BUDGET.amount  # the interval has G − 1 degrees
            found["few"] += verdict.effective_clusters < 20
            effective += verdict.effective_clusters / replicates
        counts = ("few", "PASS", "REGRESSED", "plain", "covered")
        yield [tail, f"{unevenness:g}", str(clusters), f"{effective:.0f}"] + [
            percent(found[name], replicates) for name in counts
        ]


def by_true_effect(replicates: int, seed: int) -> Iterator[list[str]]:
    """What a gate says as the truth moves: 0 is an A/A comparison, between them is power."""
    shares = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
    names = ("PASS", "IMPROVED", "INCONCLUSIVE", "REGRESSED")
    for cell, (clusters, share) in enumerate(itertools.product((40, 160), shares)):
        generator = np.random.default_rng([seed, 2, cell])
        truth, found = math.log1p(share * BUDGET.amount), Counter[str]()
        for _ in range(replicates):
            one = pair(generator, clusters=clusters, unevenness=0.5, tail="normal", effect=truth)
            found[verdicts([one])[0].verdict] += 1
        row = [str(clusters), f"{share:g} b"]
        yield row + [percent(found[name], replicates) for name in names]


def several_gates(replicates: int, seed: int) -> Iterator[list[str]]:
    """Five independent gates on the budget: any false REGRESSED, and all of them passing."""
    truth = math.log1p(BUDGET.amount)
    for cell, clusters in enumerate((40, 160)):
        generator = np.random.default_rng([seed, 3, cell])
        found = Counter[str]()
        for _ in range(replicates):
            pairs = [
                pair(generator, clusters=clusters, unevenness=0.5, tail="normal", effect=truth)
                for _ in range(5)
            ]
            judged = verdicts(pairs)
            found["any"] += any(v.verdict == "REGRESSED" for v in judged)
            found["unadjusted"] += any((v.p_value or 0.0) <= 0.025 for v in judged)
            found["all"] += all(v.verdict in ("PASS", "IMPROVED") for v in judged)
        counts = ("any", "unadjusted", "all")
        yield [str(clusters)] + [percent(found[name], replicates) for name in counts]


def intervals(replicates: int, seed: int) -> Iterator[list[str]]:
    """Coverage of the 95 % interval: clustered t, cluster bootstrap, and clusters ignored."""
    truth, draws = 0.02, Bootstrap(resamples=400)
    for cell, (clusters, documents) in enumerate(itertools.product((20, 40, 80), (1, 5))):
        generator = np.random.default_rng([seed, 4, cell])
        found = Counter[str]()
        for _ in range(replicates):
            a, b = pair(
                generator,
                clusters=clusters,
                unevenness=0.5,
                tail="normal",
                effect=truth,
                documents=documents,
            )
            seen = paired_ratio(a.sums, a.counts, b.sums, b.counts, a.clusters, bootstrap=draws)
            naive = paired_ratio(a.sums, a.counts, b.sums, b.counts, a.unit_ids, bootstrap=None)
            found["t"] += seen.low <= truth <= seen.high
            found["bootstrap"] += seen.bootstrap_low <= truth <= seen.bootstrap_high
            found["naive"] += naive.low <= truth <= naive.high
        counts = ("t", "bootstrap", "naive")
        yield [str(clusters), str(documents)] + [
            percent(found[name], replicates) for name in counts
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=300, help="draws a cell")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    error = 100 * math.sqrt(0.025 * 0.975 / given.replicates)
    print(f"{given.replicates} replicates a cell, seed {given.seed}; all rates in %.")
    print(f"Monte-Carlo standard error of a 2.5 % rate: {error:.2f} points.\n")
    sections = {
        "At the budget": (
            at_the_budget,
            [
                "tail",
                "unevenness",
                "G",
                "G_eff",
                "few",
                "false PASS",
                "false REGRESSED",
                "the same on G − 1",
                "covered",
            ],
        ),
        "By true effect": (
            by_true_effect,
            ["G", "true effect", "PASS", "IMPROVED", "INCONCLUSIVE", "REGRESSED"],
        ),
        "Five gates at the budget": (
            several_gates,
            ["G", "any REGRESSED", "the same without Holm", "all pass"],
        ),
        "Coverage of three intervals": (
            intervals,
            ["G", "documents a cluster", "clustered t", "bootstrap", "clusters ignored"],
        ),
    }
    for title, (rows, header) in sections.items():
        print(f"### {title}\n")
        for line in table(header, rows(given.replicates, given.seed)):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
