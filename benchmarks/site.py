"""How long the pages of a thousand runs take: from nothing, with nothing new, after one more run.

    python benchmarks/site.py [RUNS]

Fills a store through its own interface, as runs would: seven variants, three metrics, three gates.
The scores are made up and a dozen runs share each, so that filling is quick; what is read back is
as much as if each had its own.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from evalkit.records import Budget, Gate, JobRecord, Score, Verdict
from evalkit.report.site import write_site
from evalkit.store import Store, VariantResult

VARIANTS = ("fp16", "nf4", "nf4+adapter", "merged-4bit", "dequant-merged", "requantized", "fp16-merged-nf4")
METRICS = ("perplexity", "perplexity/wiki", "blimp/acc")
DOCUMENTS = 200
KINDS = 80
"""How many different results there are."""


def main():
    n_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder, Store.open(f"{folder}/runs.db") as store:
        started = time.perf_counter()
        ids = {}
        for index in range(n_runs):
            add_run(store, index, ids)
        print(f"{n_runs:,} runs, {len(VARIANTS)} variants, {len(METRICS)} metrics, "
              f"filled in {time.perf_counter() - started:.0f} s")  # fmt: skip
        site = Path(folder) / "site"
        times = [timed(store, site, "from nothing"), timed(store, site, "nothing new")]
        add_run(store, n_runs, ids)
        times.append(timed(store, site, "one more run"))
        print(f"nothing new / from nothing: {times[1] / times[0]:.3f}")
        print(f"one more run / from nothing: {times[2] / times[0]:.3f}")
        sizes = {path.name: path.stat().st_size for path in (site / "bench").glob("*.html")}
        print(", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sorted(sizes.items())))


def timed(store, site, what):
    started = time.perf_counter()
    done = write_site(store, site)
    seconds = time.perf_counter() - started
    print(f"{what}: {seconds:.2f} s, {done.written:,} files written, {done.unchanged:,} unchanged")
    return seconds


def add_run(store, index, ids):
    gates = [
        Gate("perplexity", name, against="fp16", max_increase=Budget(0.1, "relative"), place="a:1")
        for name in VARIANTS[1:4]
    ]
    run = store.start_run(
        suite="bench", place="bench.yaml", suite_text="name: bench\n", suite_json={"name": "bench"},
        arguments={"given": {"suite": "bench.yaml"}, "defaulted": {}},
        provenance={
            "git": {"revision": f"{index:040x}", "dirty": index % 5 == 0},
            "packages": {"torch": f"2.{index // 100}.0", "peft": "0.21.2", "transformers": "5.23.0"},
            "device": "cpu", "device_name": "made up", "python": "3.11.2",
        },
        gates=gates,
    )  # fmt: skip
    for position, name in enumerate(VARIANTS):
        kind = (index // 12) % KINDS
        known = ids.get((kind, name))
        result = VariantResult(
            name, ({"load": "fp16"},), "fp16" if position else None, "load fp16",
            JobRecord(f"score {name}", "score", "reused" if known else "done", 1.0, facts={"effective_dtype": "bf16"}),
            scores={} if known else {metric: (f"{kind}-{name}-{metric}", score(metric, position, kind)) for metric in METRICS},
            reused=known or {},
        )  # fmt: skip
        store.record_variant(run, result)
        if not known:
            ids[kind, name] = {m: store.find_score(f"{kind}-{name}-{m}").id for m in METRICS}
    store.record_verdicts(run, [
        Verdict(gate, "PASS", True, effect=0.01, low=0.001, high=0.02, p_value=0.5, n_units=DOCUMENTS, n_clusters=DOCUMENTS)
        for gate in gates
    ])  # fmt: skip
    store.finish_run(run, seconds=1.0, exit_code=0)


def score(metric, position, kind):
    generator = np.random.default_rng([position, kind])
    names = tuple(f"document-{index}" for index in range(DOCUMENTS))
    is_task = metric.endswith("acc")
    value = 0.8 if is_task else 10.0 + position
    value *= 1 + generator.normal(0, 0.01)
    sums = generator.normal(0, 1, DOCUMENTS)
    return Score(
        metric, "mean" if is_task else "perplexity", value, value * 0.02, "accuracy" if is_task else "ppl/token",
        is_task, names, names, sums, np.full(DOCUMENTS, 50.0), {"n_tokens": 1e4},
        {"data": "d", "prompts": "p"} if is_task else {"data": "d", "protocol": "documents"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
