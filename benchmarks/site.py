"""How long the pages of a thousand runs take: from nothing, with nothing new, after one more run.

    python benchmarks/site.py [RUNS]

Fills a store through its own interface, as runs would: seven variants, three metrics, three gates.
The scores are made up and a dozen runs share each, so that filling is quick; what is read back is
as much as if each had its own.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from evalkit.records import Budget, Gate, JobRecord, Score, Verdict
from evalkit.report.site import write_site
from evalkit.store import Store, VariantResult

VARIANTS = (
    "fp16",
    "nf4",
    "nf4+adapter",
    "merged-4bit",
    "dequant-merged",
    "requantized",
    "fp16-merged-nf4",
)
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
    limit = Budget(0.1, "relative")
    gates = [Gate("perplexity", name, against="fp16", max_increase=limit) for name in VARIANTS[1:4]]
    run = store.start_run(
        suite="bench",
        place="bench.yaml",
        suite_text="name: bench\n",
        suite_json={"name": "bench"},
        arguments={"given": {"suite": "bench.yaml"}, "defaulted": {}},
        provenance=provenance(index),
        gates=gates,
    )
    for position in range(len(VARIANTS)):
        add_variant(store, run, position, index // 12 % KINDS, ids)
    verdict = Verdict(gates[0], "PASS", True, effect=0.01, low=0.001, high=0.02, n_units=DOCUMENTS)
    store.record_verdicts(run, [replace(verdict, gate=gate) for gate in gates])
    store.finish_run(run, seconds=1.0, exit_code=0)


def provenance(index):
    packages = {"torch": f"2.{index // 100}.0", "peft": "0.21.2", "transformers": "5.23.0"}
    return {
        "git": {"revision": f"{index:040x}", "dirty": index % 5 == 0},
        "packages": packages,
        "device": "cpu",
        "device_name": "made up",
        "python": "3.11.2",
    }


def add_variant(store, run, position, kind, ids):
    name = VARIANTS[position]
    keys = {metric: f"{kind}-{name}-{metric}" for metric in METRICS}
    known = ids.get((kind, name))
    made = {} if known else {m: (keys[m], score(m, position, kind)) for m in METRICS}
    status = "reused" if known else "done"
    job = JobRecord(f"score {name}", "score", status, 1.0, facts={"effective_dtype": "bf16"})
    parent = "fp16" if position else None
    store.record_variant(
        run,
        VariantResult(
            name, ({"load": "fp16"},), parent, "load fp16", job, scores=made, reused=known or {}
        ),
    )
    if not known:
        ids[kind, name] = {metric: store.find_score(key).id for metric, key in keys.items()}


def score(metric, position, kind):
    generator = np.random.default_rng([position, kind])
    names = tuple(f"document-{index}" for index in range(DOCUMENTS))
    is_task = metric.endswith("acc")
    value = (0.8 if is_task else 10.0 + position) * (1 + generator.normal(0, 0.01))
    return Score(
        metric=metric,
        kind="mean" if is_task else "perplexity",
        value=value,
        stderr=value * 0.02,
        unit="accuracy" if is_task else "ppl/token",
        higher_is_better=is_task,
        unit_ids=names,
        clusters=names,
        sums=generator.normal(0, 1, DOCUMENTS),
        counts=np.full(DOCUMENTS, 50.0),
        extra={"n_tokens": 1e4},
        comparison={"data": "d", "prompts" if is_task else "protocol": "documents"},
    )


if __name__ == "__main__":
    main()
