"""How well the Ray executor's order fills 8 and 64 workers: a simulation on measured job times.

python benchmarks/scaling.py

Jobs are put in order by what the executor puts them in order by: `Queue.longest_first` with
`longest_paths` of the work that `job_order` tells from a suite, in tokens, before anything has run.
Only their seconds are then the measured ones. Efficiency is a lower bound, divided by the time that
the schedule takes: the critical path, or where it is longer the time that some jobs cannot but take
when they are shared out evenly between the earliest that one can start and the latest it may end.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from evalkit.executors.queue import Queue, longest_paths

# Seconds of a run of suites/guanaco-smoke.yaml (SmolLM2 135M, two cores of an AMD EPYC, one job
# after another): the whole job, and of it loading. That run took its adapter from the cache;
# another of the same suite on the same machine trained it in 819.8 s.
SCORES = {
    "fp16": (92.4, 0.9),
    "nf4": (148.6, 0.5),
    "nf4+adapter": (113.2, 1.0),
    "merged-4bit": (144.1, 4.1),
    "dequant-merged": (182.7, 1.4),
    "requantized": (151.7, 4.4),
    "fp16-merged": (104.9, 1.3),
    "fp16-merged-nf4": (87.7, 3.5),
}
PLAIN = ("fp16", "nf4")
REFERENCE = 36.4
# Costs and checks, which one shard does alone: of nf4+adapter, that has no divergence, what is left
# beside loading (1.0 s) and perplexity (104.9 s).
ALONE = 7.3
TRAINING = (409.9, 819.8, 1639.6)  # 120 steps at twice the speed, as measured, and at half of it
START = 3.0  # a worker's process imports torch and transformers: 2.35 s
# What `job_order` makes of the same suite, in tokens.
TOKENS = {"train": 3 * 120 * 1024, "reference": 2000 + 8192, "score": 2000 + 37144 + 8192}


@dataclass(frozen=True)
class Job:
    seconds: float
    tokens: float
    needs: tuple[str, ...] = ()


Jobs = dict[str, Job]


def evaluation(adapters: int, training: float, *, shards: int = 1, divergence: bool = True) -> Jobs:
    """One suite: so many recipes, every way to deploy each, and the base in 16 and 4 bits."""
    jobs = {f"train {n}": Job(training, TOKENS["train"]) for n in range(adapters)}
    compared: tuple[str, ...] = ()
    if divergence:
        jobs["reference"] = Job(REFERENCE, TOKENS["reference"], ("train 0",))
        compared = ("reference",)
    for name in PLAIN:
        add_score(jobs, name, name, compared, shards)
    for n in range(adapters):
        for name in (name for name in SCORES if name not in PLAIN):
            is_reference = divergence and n == 0 and name == "nf4+adapter"
            needs = (f"train {n}", *(() if is_reference else compared))
            add_score(jobs, f"{name} {n}", name, needs, shards)
    return jobs


def add_score(jobs: Jobs, title: str, variant: str, needs: tuple[str, ...], shards: int) -> None:
    """A variant's job, or one for each shard: all of them load, the first does the rest alone."""
    seconds, load = SCORES[variant]
    shared = (seconds - load - ALONE) / shards
    for index in range(shards):
        own = load + shared + (ALONE if index == 0 else 0)
        jobs[f"{title} [{index}]"] = Job(own, TOKENS["score"], needs)


def schedule(jobs: Jobs, workers: int) -> float:
    """Seconds until the last job has ended, each started as the executor would."""
    paths = paths_of(jobs)
    queue: Queue[str] = Queue()
    waiting = dict(jobs)
    ended: set[str] = set()
    running: list[tuple[float, str]] = []
    now = 0.0

    def set_free() -> None:
        for turn, name in enumerate(jobs):
            if name in waiting and ended.issuperset(waiting[name].needs):
                queue.add(name, turn=turn, path=paths[name])
                del waiting[name]

    set_free()
    while queue or running:
        for ready in queue.longest_first(lambda _: len(running) < workers):
            heapq.heappush(running, (now + START + jobs[ready.job].seconds, ready.job))
        now, name = heapq.heappop(running)
        ended.add(name)
        set_free()
    assert not waiting
    return now


def paths_of(jobs: Jobs) -> Mapping[str, float]:
    needs: dict[str, Collection[str]] = {name: job.needs for name, job in jobs.items()}
    return longest_paths({name: job.tokens for name, job in jobs.items()}, needs)


def lower_bound(jobs: Jobs, workers: int) -> tuple[float, float]:
    """Of the seconds of any schedule: the critical path, and what no schedule is shorter than.

    A set of jobs of which none can start before `head`, and each leaves work of `tail` behind it,
    takes `head` + its work on busy workers + `tail` at least (Carlier 1982, of one machine). All
    jobs are one such set; those that wait for a training are another.
    """
    seconds = {name: job.seconds for name, job in jobs.items()}
    needs: dict[str, Collection[str]] = {name: job.needs for name, job in jobs.items()}
    paths = longest_paths(seconds, needs)
    tails = {name: paths[name] - seconds[name] for name in jobs}
    heads: dict[str, float] = {}
    for name in jobs:  # A job stands behind those that it needs.
        heads[name] = max((heads[n] + seconds[n] for n in jobs[name].needs), default=0.0)
    critical = bound = max(paths.values())
    for head in set(heads.values()):
        for tail in set(tails.values()):
            work = sum(seconds[n] for n in jobs if heads[n] >= head and tails[n] >= tail)
            bound = max(bound, (head + work / workers + tail) * (work > 0))
    return critical, bound


def main() -> None:
    cases = {
        "1 recipe": {"adapters": 1},
        "1 recipe, 8 shards": {"adapters": 1, "shards": 8},
        "8 recipes": {"adapters": 8},
        "16 recipes": {"adapters": 16},
        "16 recipes, 2 shards": {"adapters": 16, "shards": 2},
        "64 recipes": {"adapters": 64},
        "64 recipes, 2 shards": {"adapters": 64, "shards": 2},
        "128 recipes": {"adapters": 128},
    }
    columns = ("jobs", "alone", "schedule", "critical", "bound")
    print(f"{'evaluation':21} workers {' '.join(f'{column:>8}' for column in columns)} effic.")
    for title, options in cases.items():
        for workers in (8, 64):
            found = []
            for training in TRAINING:
                jobs = evaluation(training=training, **options)  # type: ignore[arg-type]
                found.append((jobs, schedule(jobs, workers), *lower_bound(jobs, workers)))
            shares = [bound / seconds for _, seconds, _, bound in found]
            jobs, seconds, critical, bound = found[1]
            alone = sum(job.seconds for job in jobs.values())
            print(
                f"{title:21} {workers:7} {len(jobs):8} {alone:8.0f} {seconds:8.0f} "
                f"{critical:8.0f} {bound:8.0f} "
                f"{bound / seconds:6.1%}  ({min(shares):.1%} to {max(shares):.1%})"
            )


if __name__ == "__main__":
    main()
