"""How large a store of N runs is, and what reading it takes as it grows.

    python benchmarks/store.py [RUNS] [DOCUMENTS_WITH_TOKENS]

Fills a store through its own interface as a suite of guanaco's size would that is trained anew
each time: 8 variants of 100 documents in clusters, 4 metrics with a value for each document, 400
tokens of 64 documents (a suite's default) for the token view, a training, 4 gates. The numbers are
made up; none is shared between runs, which is the worst case. The last run is taken up again by
one more, as a rerun does.

Then the same runs go into a PostgreSQL server of this machine, on a socket and with its own default
settings, and the same calls are timed on both stores in turn.
"""

import functools
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from measuring import environment_with

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "shared"))
from postgres import Server, newest_binaries

from evalkit.records import Budget, Gate, JobRecord, Score, TokenLosses, Verdict
from evalkit.report.comparing.comparison import compare_sides, side_of_run
from evalkit.report.html import write_report
from evalkit.store import FAMILY, SEED, Store, VariantResult

VARIANTS = (
    "fp16",
    "nf4",
    "nf4+adapter",
    "merged-4bit",
    "dequant-merged",
    "requantized",
    "fp16-merged-nf4",
    "fp16-merged",
)
METRICS = ("perplexity", "perplexity/wiki", "divergence", "blimp/acc")
DOCUMENTS, CLUSTERS = 100, 80
SHOWN = int(sys.argv[2]) if len(sys.argv) > 2 else 64
TOKENS = 400
"""Documents whose tokens are kept, and how many of each."""
ROUNDS, ROUNDS_OF_BOTH = 5, 21
WORDS = tuple(f" word{index}" for index in range(5000))


def main():
    n_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        place, reports = Path(folder) / "runs.db", Path(folder) / "reports"
        runs = filled(str(place), n_runs)
        size = place.stat().st_size / 1e6
        print(f"{n_runs:,} runs, {len(VARIANTS)} variants, {len(METRICS)} metrics, {DOCUMENTS} "
              f"documents: {size:.1f} MB, {size / n_runs:.3f} MB a run", flush=True)  # fmt: skip
        with Store.open(str(place)) as store:
            in_process(store, runs, reports)
        on_both(place, runs, Path(folder))
        as_commands(place, runs, reports)


def filled(place, n_runs):
    """Makes a store of so many runs; their ids."""
    started = time.perf_counter()
    with Store.open(place) as store:
        runs = [add_run(store, index) for index in range(n_runs)]
    print(f"filled in {time.perf_counter() - started:.0f} s", flush=True)
    return runs


def in_process(store, runs, reports):
    page = functools.partial(draw, store, runs[-1], reports)
    report("in process", "report, first page", page, 1)
    for name, call in reading(store, runs, reports).items():
        report("in process", name, call)
    report("in process", "rerun: what is stored", lambda: stored_again(store, len(runs) - 1))


def reading(store, runs, reports):
    """What is asked of a store, by name."""
    old, new = runs[0], runs[-1]
    return {
        "compare": lambda: compare_sides(
            *(side_of_run(store.load_run(run), None) for run in (old, new)), most_moved=5
        ),
        "report, page drawn before": lambda: draw(store, new, reports),
        "runs": store.list_runs,
    }


def draw(store, run, reports):
    write_report(store.load_run(run), reports)


def on_both(place, runs, folder):
    """Times the same calls on SQLite and on PostgreSQL, a round of each in turn."""
    binaries = newest_binaries()
    if binaries is None:
        print("PostgreSQL: not timed, there is no server from version 15 on", flush=True)
        return
    server = Server(binaries, settings={})
    try:
        database = server.new_database()
        url = server.url(database)
        there = filled(url, len(runs))
        server.execute("ANALYZE", database=database)  # as its autovacuum would have before long
        with Store.open(str(place)) as sqlite, Store.open(url) as postgresql:
            ours = everything(sqlite, runs, folder / "reports")
            theirs = everything(postgresql, there, folder / "postgresql")
            for name, call in ours.items():
                beside(name, call, theirs[name])
    finally:
        server.stop()


def everything(store, runs, reports):
    """What is asked of a store and written to it, by name; the page is drawn once before."""
    draw(store, runs[-1], reports)
    new = itertools.count(len(runs))
    return {
        **reading(store, runs, reports),
        "a run is stored": lambda: add_run(store, next(new)),
        "rerun: what is stored": lambda: stored_again(store, len(runs) - 1),
    }


def beside(name, sqlite, postgresql):
    """Medians of seconds on the clock, and of each round's PostgreSQL as a multiple of SQLite."""
    pairs = [(seconds(sqlite), seconds(postgresql)) for _ in range(ROUNDS_OF_BOTH)]
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    middle = ratios[len(ratios) // 4 : -(len(ratios) // 4)]
    print(f"{name:26} SQLite {ours:7.3f} s   PostgreSQL {theirs:7.3f} s   "
          f"{statistics.median(ratios):5.2f} times (middle half {middle[0]:.2f} to "
          f"{middle[-1]:.2f})", flush=True)  # fmt: skip


def seconds(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def as_commands(place, runs, reports):
    arguments = {
        "compare": ["compare", runs[0], runs[-1]],
        "report, page drawn before": ["report", runs[-1], "--reports", str(reports)],
        "runs": ["runs"],
        "--help, for scale": ["--help"],
    }
    environment = environment_with({"EVALKIT_DB": str(place)})
    for name, given in arguments.items():
        command = [sys.executable, "-m", "evalkit", *given]

        def call(command=command):
            subprocess.run(command, check=True, capture_output=True, env=environment)

        report("as a command", name, call)


def report(where, name, call, rounds=ROUNDS):
    """Medians of seconds on the clock, and of user and system time."""
    walls, computed = [], []
    for _ in range(rounds):
        before, started = used(), time.perf_counter()
        call()
        walls.append(time.perf_counter() - started)
        computed.append(used() - before)
    wall, cpu = statistics.median(walls), statistics.median(computed)
    print(f"{where:14}{name:26} wall {wall:7.3f} s   user and system {cpu:7.3f} s", flush=True)


def used():
    """Seconds of user and system time of this process and of its children."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


# --------------------------------------------------------------------------------- filling


def add_run(store, index, *, again=False):
    """One run as `evalkit run` would write it; `again`: one that takes all from run `index`."""
    limit = Budget(0.1, "relative")
    gates = [Gate("perplexity", name, against="fp16", max_increase=limit) for name in VARIANTS[1:5]]
    run = store.start_run(
        suite="bench",
        place="bench.yaml",
        suite_text="name: bench\n" * 150,
        suite_json={"name": "bench", "metrics": {"perplexity": {"on": "test"}}},
        arguments={"given": {"suite": "bench.yaml"}, "defaulted": {}},
        provenance=provenance(index),
        gates=gates,
    )
    train(store, run, index, again=again)
    for position, name in enumerate(VARIANTS):
        keys = {metric: f"{index}-{name}-{metric}" for metric in METRICS}
        known = {metric: store.find_score(key) for metric, key in keys.items()} if again else {}
        made = {} if again else {m: (keys[m], score(m, position, index)) for m in METRICS}
        job = JobRecord(
            f"score {name}", "score", "reused" if again else "done", 1.0, facts={"dtype": "bf16"}
        )
        parent = "fp16" if position else None
        reused = {metric: found.id for metric, found in known.items()}
        result = VariantResult(name, ({"load": "fp16"},), parent, "load fp16", job, made, reused)
        store.record_variant(run, result)
    verdict = Verdict(gates[0], "PASS", True, effect=0.01, low=0.001, high=0.02, n_units=DOCUMENTS)
    store.record_verdicts(run, [replace(verdict, gate=gate) for gate in gates])
    store.finish_run(run, seconds=1.0, exit_code=0)
    return run


def train(store, run, index, *, again):
    recipe, seed = f"recipe-{index}", index % 5
    found = store.find_training(recipe) if again else None
    facts = {FAMILY: "family", SEED: seed, "losses": [2.0] * 200}
    status = "done" if found is None else "reused"
    job = JobRecord("train guanaco", "train", status, 60.0, facts=facts)
    store.record_training(run, job, reuse_key=recipe, content_digest=f"adapter-{index}")
    if again:
        store.find_draws("family")


def stored_again(store, index):
    """Everything that a rerun asks of the store and writes, without planning and judging."""
    store.load_run(add_run(store, index, again=True))


def provenance(index):
    packages = {"torch": f"2.{index // 100}.0", "peft": "0.21.2", "transformers": "5.23.0"}
    return {
        "git": {"revision": f"{index:040x}", "dirty": index % 5 == 0},
        "packages": packages,
        "device": "cpu",
        "device_name": "made up",
        "python": "3.11.2",
    }


def score(metric, position, index):
    generator = np.random.default_rng([METRICS.index(metric), position, index])
    is_task, is_divergence = metric.endswith("acc"), metric == "divergence"
    counts = np.ones(DOCUMENTS) if is_task else np.arange(DOCUMENTS) % 300 + 50.0
    sums = counts * abs(generator.normal(0.5 if is_task else 2.3, 0.2, DOCUMENTS))
    mean = float(sums.sum() / counts.sum())
    is_perplexity = not (is_task or is_divergence)
    return Score(
        metric=metric,
        kind="perplexity" if is_perplexity else "mean",
        value=float(np.exp(mean)) if is_perplexity else mean,
        stderr=0.02,
        unit="ppl/token" if is_perplexity else "accuracy" if is_task else "nats/token",
        higher_is_better=is_task,
        unit_ids=tuple(f"document-{document}" for document in range(DOCUMENTS)),
        clusters=tuple(f"cluster-{document % CLUSTERS}" for document in range(DOCUMENTS)),
        sums=sums,
        counts=counts,
        extra={"n_tokens": float(counts.sum()), "bits_per_byte": mean / 3}
        if is_perplexity
        else {"top_agreement": 0.9},
        comparison={"data": "d", "prompts" if is_task else "protocol": "documents"},
        token_losses=tuple(tokens(unit, (index + position) % 40) for unit in range(SHOWN))
        if metric == "perplexity"
        else (),
    )


@functools.cache
def tokens(unit, kind):
    """Every run's documents are the same; what the model makes of them is not."""
    generator = np.random.default_rng([unit, kind])
    text = tuple(WORDS[(unit * TOKENS + place) % len(WORDS)] for place in range(TOKENS))
    losses = generator.gamma(1.0, 2.3, TOKENS).astype(np.float32)
    likeliest = tuple(WORDS[index] for index in generator.integers(0, len(WORDS), TOKENS))
    return TokenLosses(unit, text, losses, likeliest, np.exp(-losses))


if __name__ == "__main__":
    main()
