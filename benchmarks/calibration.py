"""How often the verdicts are wrong, by simulation: the tables of docs/statistics.md.

    python benchmarks/calibration.py                       # small: about two minutes
    python benchmarks/calibration.py --replicates 2000 --db STORE --run RUN   # the published tables

Everything is judged by `evalkit.judging.gates.judge`, from scores as a run would hold them.
Documents are drawn from a population whose true effect is known; nothing about a model is simulated
but that. With a store and a run of it, the run's own clusters are populations too.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from populations import (
    BY_LENGTH,
    TAILS,
    Measured,
    Pair,
    accuracies,
    halls_transformation,
    hits,
    measured,
    pair,
    plain_student,
    studentised_bootstrap,
)

from evalkit.judging.gates import Evidence, judge
from evalkit.records import Budget, Gate, Verdict
from evalkit.statistics.clusters import Bootstrap, paired_ratio
from evalkit.store import Store

BUDGET = Budget(0.02, "relative")
LIMIT = math.log1p(BUDGET.amount)
UNEVENNESS = (0.0, 0.7, 1.2)
CLUSTERS = (10, 20, 40, 80, 160, 320)
Rows = Iterator[list[str]]


def verdicts(pairs: Iterable[Pair], **limits: object) -> list[Verdict]:
    """Judge one suite, a gate a pair."""
    gates, scores = [], {}
    for index, (variant, reference) in enumerate(pairs):
        scores[f"a{index}"], scores[f"b{index}"] = {"m": variant}, {"m": reference}
        given = limits or {"max_increase": BUDGET}
        gates.append(Gate("m", f"a{index}", f"b{index}", **given))
    return list(judge(gates, Evidence(scores), bootstrap=None))


def percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    header = list(header)
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def tally(found: Counter[str], one: Pair, limit: float) -> Verdict:
    """Judge a pair and count what became of it, by evalkit's rule and by plain Student."""
    (verdict,) = verdicts([one])
    low, high = plain_student(*one)
    few = verdict.effective_clusters < 20
    found[verdict.verdict.replace("IMPROVED", "PASS")] += 1
    found["covered"] += verdict.low <= math.expm1(limit) <= verdict.high
    found["few"] += few
    found["plain PASS"] += high <= LIMIT and not few
    found["plain REGRESSED"] += low > LIMIT
    found["plain covered"] += low <= limit <= high
    return verdict


def at_the_budget(replicates: int, seed: int) -> Rows:
    """One gate, the true effect exactly on the budget: every PASS and REGRESSED is false."""
    cells = itertools.product(TAILS, UNEVENNESS, CLUSTERS)
    for cell, (tail, unevenness, clusters) in enumerate(cells):
        generator = np.random.default_rng([seed, 1, cell])
        found, effective = Counter[str](), 0.0
        for _ in range(replicates):
            one = pair(generator, clusters=clusters, unevenness=unevenness, tail=tail, effect=LIMIT)
            effective += tally(found, one, LIMIT).effective_clusters / replicates
        counts = ("few", "PASS", "REGRESSED", "covered", "plain PASS", "plain covered")
        yield [tail, f"{unevenness:g}", str(clusters), f"{effective:.0f}"] + [
            percent(found[name], replicates) for name in counts
        ]


def effects_by_length(replicates: int, seed: int) -> Rows:
    """The same where effects depend on length, as one estimate of skewness assumes not."""
    for cell, (how, clusters) in enumerate(itertools.product(BY_LENGTH, (80, 160, 320))):
        generator = np.random.default_rng([seed, 9, cell])
        one = partial(pair, generator, clusters=clusters, unevenness=1.2, by_length=how)
        found, effective = Counter[str](), 0.0
        for _ in range(replicates):
            drawn = one(tail="log-normal", effect=LIMIT)
            effective += tally(found, drawn, LIMIT).effective_clusters / replicates
        counts = ("few", "PASS", "REGRESSED", "covered", "plain PASS", "plain covered")
        yield [how, str(clusters), f"{effective:.0f}"] + [
            percent(found[name], replicates) for name in counts
        ]


def real_clusters(populations: list[Measured], replicates: int, seed: int) -> Rows:
    """The clusters of a real run, drawn with replacement, moved to where the effect is known."""
    for cell, (real, factor) in enumerate(itertools.product(populations, (1, 2))):
        generator = np.random.default_rng([seed, 5, cell])
        found, effective, widths = Counter[str](), 0.0, []
        clusters = factor * (int(real.names.max()) + 1)
        for _ in range(replicates):
            one = real.draw(generator, clusters, LIMIT)
            verdict = tally(found, one, LIMIT)
            effective += verdict.effective_clusters / replicates
            low, high = plain_student(*one)
            widths.append((math.log1p(verdict.high) - math.log1p(verdict.low)) / (high - low))
        counts = ("PASS", "REGRESSED", "covered", "plain PASS", "plain covered")
        yield (
            [real.name, f"{real.skewness():.1f}", str(clusters), f"{effective:.0f}"]
            + [percent(found[name], replicates) for name in counts]
            + [f"{np.median(widths):.2f}"]
        )


def by_true_effect(replicates: int, seed: int) -> Rows:
    """What a gate says as the truth moves: 0 is an A/A comparison, between them is power."""
    shares = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    names = ("PASS", "IMPROVED", "INCONCLUSIVE", "REGRESSED", "plain PASS", "plain REGRESSED")
    cells = itertools.product(("normal", "exponential", "log-normal"), (40, 160), shares)
    for cell, (tail, clusters, share) in enumerate(cells):
        generator = np.random.default_rng([seed, 2, cell])
        truth, found = math.log1p(share * BUDGET.amount), Counter[str]()
        for _ in range(replicates):
            one = pair(generator, clusters=clusters, unevenness=0.5, tail=tail, effect=truth)
            found["IMPROVED"] += tally(found, one, truth).verdict == "IMPROVED"
        row = [tail, str(clusters), f"{share:g} b"]
        yield row + [percent(found[name], replicates) for name in names]


def several_gates(replicates: int, seed: int) -> Rows:
    """Five independent gates on the budget: any false REGRESSED, and all of them passing."""
    tails = ("normal", "exponential", "exponential, gains long")
    for cell, (tail, clusters) in enumerate(itertools.product(tails, (40, 160))):
        generator = np.random.default_rng([seed, 3, cell])
        found = Counter[str]()
        for _ in range(replicates):
            pairs = [
                pair(generator, clusters=clusters, unevenness=0.5, tail=tail, effect=LIMIT)
                for _ in range(5)
            ]
            judged = verdicts(pairs)
            found["any"] += any(v.verdict == "REGRESSED" for v in judged)
            found["unadjusted"] += any((v.p_value or 0.0) <= 0.025 for v in judged)
            found["all"] += all(v.verdict in ("PASS", "IMPROVED") for v in judged)
        counts = ("any", "unadjusted", "all")
        yield [tail, str(clusters)] + [percent(found[name], replicates) for name in counts]


def intervals(replicates: int, seed: int) -> Rows:
    """Coverage of the 95 % interval: evalkit's, the cluster bootstrap's, and clusters ignored."""
    truth, draws = 0.02, Bootstrap(resamples=400)
    for cell, (clusters, documents) in enumerate(itertools.product((20, 40, 80), (1, 5))):
        generator = np.random.default_rng([seed, 4, cell])
        one = partial(pair, generator, unevenness=0.5, tail="normal", effect=truth)
        found = Counter[str]()
        for _ in range(replicates):
            a, b = one(clusters=clusters, documents=documents)
            seen = paired_ratio(a.sums, a.counts, b.sums, b.counts, a.clusters, bootstrap=draws)
            naive = paired_ratio(a.sums, a.counts, b.sums, b.counts, a.unit_ids, bootstrap=None)
            found["ours"] += seen.low <= truth <= seen.high
            found["bootstrap"] += seen.bootstrap_low <= truth <= seen.bootstrap_high
            found["naive"] += naive.low <= truth <= naive.high
        counts = ("ours", "bootstrap", "naive")
        yield [str(clusters), str(documents)] + [
            percent(found[name], replicates) for name in counts
        ]


def other_corrections(replicates: int, seed: int) -> Rows:
    """False PASS of the known corrections for skewness, taken as they are."""
    cells = itertools.product(("normal", "exponential", "log-normal"), (40, 160))
    for cell, (tail, clusters) in enumerate(cells):
        generator = np.random.default_rng([seed, 8, cell])
        found = Counter[str]()
        for _ in range(replicates):
            one = pair(generator, clusters=clusters, unevenness=0.0, tail=tail, effect=LIMIT)
            tally(found, one, LIMIT)
            found["bootstrap-t"] += studentised_bootstrap(generator, *one)[1] <= LIMIT
            found["Hall"] += halls_transformation(*one)[1] <= LIMIT
        names = ("plain PASS", "Hall", "bootstrap-t", "PASS")
        yield [tail, str(clusters)] + [percent(found[name], replicates) for name in names]


HITS = (
    *((size, 1, rate, 0.0) for size in (50, 200, 1000) for rate in (0.02, 0.05, 0.2)),
    *((60, 8, rate, together) for rate in (0.04, 0.2) for together in (0.0, 0.3)),
    (200, 5, 0.04, 0.5),
)


def hits_and_misses(replicates: int, seed: int) -> Rows:
    """Paired samples, the true loss on a budget of 2 points; then, of no loss, what passes."""
    budget = Budget(0.02, "points")
    for cell, (clusters, samples, flipping, together) in enumerate(HITS):
        generator = np.random.default_rng([seed, 6, cell])
        one = partial(
            hits,
            generator,
            clusters=clusters,
            samples=samples,
            flipping=flipping,
            together=together,
        )
        found = Counter[str]()
        for _ in range(replicates):
            drawn = one(effect=-budget.amount)
            (verdict,) = verdicts([drawn], max_decrease=budget)
            found[verdict.verdict.replace("IMPROVED", "PASS")] += 1
            found["covered"] += verdict.low <= -budget.amount <= verdict.high
            found["plain"] += plain_student(*drawn)[0] >= -budget.amount
            (same,) = verdicts([one(effect=0.0)], max_decrease=budget)
            found["power"] += same.verdict in ("PASS", "IMPROVED")
        row = [str(clusters), str(samples), f"{100 * flipping:g}", f"{together:g}"]
        counts = ("PASS", "REGRESSED", "covered", "plain", "power")
        yield row + [percent(found[name], replicates) for name in counts]


def least_accuracy(replicates: int, seed: int) -> Rows:
    """An accuracy gate's `min`, the true accuracy exactly on it."""
    cells = itertools.product(((50, 1, 0.0), (500, 1, 0.0), (60, 8, 0.3)), (0.6, 0.9, 0.99))
    for cell, ((clusters, samples, together), level) in enumerate(cells):
        generator = np.random.default_rng([seed, 7, cell])
        found = Counter[str]()
        for _ in range(replicates):
            drawn = accuracies(
                generator, clusters=clusters, samples=samples, level=level, together=together
            )
            evidence = Evidence({"a": {"m": drawn}})
            (verdict,) = judge([Gate("m", "a", minimum=level)], evidence, bootstrap=None)
            found[verdict.verdict] += 1
            found["covered"] += verdict.low <= level <= verdict.high
        row = [str(clusters), str(samples), f"{together:g}", f"{level:g}"]
        yield row + [percent(found[name], replicates) for name in ("PASS", "REGRESSED", "covered")]


RATES = ["false PASS", "false REGRESSED", "covered"]
PLAIN = ["plain t: false PASS", "covered"]
VERDICTS = ["PASS", "IMPROVED", "INCONCLUSIVE", "REGRESSED"]
SECTIONS = {
    "At the budget": (at_the_budget, ["tail", "unevenness", "G", "G_eff", "few", *RATES, *PLAIN]),
    "Effects that depend on length, at the budget": (
        effects_by_length,
        ["log-normal effects", "G", "G_eff", "few", *RATES, *PLAIN],
    ),
    "By true effect": (
        by_true_effect,
        ["tail", "G", "true effect", *VERDICTS, "plain t: PASS", "REGRESSED"],
    ),
    "Five gates at the budget": (
        several_gates,
        ["tail", "G", "any REGRESSED", "the same without Holm", "all pass"],
    ),
    "Coverage of three intervals": (
        intervals,
        ["G", "documents a cluster", "evalkit's", "bootstrap", "clusters ignored"],
    ),
    "False PASS with other corrections for skewness": (
        other_corrections,
        ["tail", "G", "plain t", "Hall's transformation", "bootstrap-t", "evalkit's"],
    ),
    "Hits and misses, a loss of 2 points on a budget of 2 points": (
        hits_and_misses,
        ["G", "samples each", "flips %", "correlation", *RATES, PLAIN[0], "PASS without a loss"],
    ),
    "Least accuracy, on the limit": (
        least_accuracy,
        ["G", "samples each", "correlation", "accuracy", *RATES],
    ),
}
REAL = ["variant − parent", "skewness", "G", "G_eff", *RATES, *PLAIN, "width to plain t's"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=200, help="draws a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--db", help="a store, whose --run gives real populations")
    parser.add_argument("--run", default="latest", help="a run with a perplexity")
    given = parser.parse_args()
    sections = dict(SECTIONS)
    if given.db:
        with Store.open(given.db) as store:
            populations = measured(store.load_run(given.run))
        sections["Clusters of a real run, at the budget"] = (
            partial(real_clusters, populations),
            REAL,
        )
    error = 100 * math.sqrt(0.025 * 0.975 / given.replicates)
    print(f"{given.replicates} replicates a cell, seed {given.seed}; all rates in %.")
    print(f"Monte-Carlo standard error of a 2.5 % rate: {error:.2f} points.\n")
    for title, (rows, header) in sections.items():
        print(f"### {title}\n")
        for line in table(header, rows(given.replicates, given.seed)):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
