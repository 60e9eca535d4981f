"""Seven ways to deploy an adapter: a process for each, as it is done today, or one evalkit run.

Both sides score the same documents, the same chunks and, with --data, the same BLiMP pairs on the
quickstart's variants, in turn. Beside them: the unchanged suite once more, and the suite with one
variant added.

    python benchmarks/field.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from field_suite import ADDED, EXACT, LENGTH, TASK, VARIANTS, Work, prepare, write_suite
from measuring import Cost, Goal, arguments_of, report, run_process

HERE = Path(__file__).resolve().parent
LM_EVAL_4BIT = (
    "import bitsandbytes.nn.modules as m; m.has_avx512bf16 = lambda: False; "
    "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
)
"""The command lm_eval for 4-bit weights: bitsandbytes' repacking off, as on the other side."""
NOISE = 1.5e-3
"""By how much bfloat16 may move a perplexity of 8,000 tokens in batches of another shape: three
times what benchmarks/scoring.py --batches finds. It shrinks with the root of the tokens."""
LIKELIHOOD_NOISE = 0.25
"""And a sentence's log-likelihood, in nats."""


@dataclass
class Side:
    """What one side costs, round by round, and what it found in the last."""

    costs: list[Cost] = field(default_factory=list)
    perplexities: dict[tuple[str, str], float] = field(default_factory=dict)
    pairs: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)


# ----------------------------------------------------------------------------- (a) by hand


def by_hand(work: Work, side: Side) -> None:
    """A process for each variant, and the command lm_eval for each."""
    total = Cost()
    with tempfile.TemporaryDirectory() as scratch:
        for name in VARIANTS:
            saved = Path(scratch) / name
            wanted = [saved] if work.pairs and name not in ("fp16", "nf4+adapter") else []
            cost, found = score_by_hand(work, name, work.dtype, *wanted)
            total += cost
            side.perplexities.update({(name, metric): v for metric, v in found.items()})
            if work.pairs:
                cost, side.pairs[name] = task_by_hand(work, name, Path(scratch))
                total += cost
    side.costs.append(total)


def score_by_hand(work: Work, name: str, dtype: str, *saved: Path) -> tuple[Cost, dict[str, float]]:
    """The script of field_variant.py."""
    settings = json.dumps({"dtype": dtype, "length": LENGTH, **work.sizes})
    script = [HERE / "field_variant.py", name, work.base, work.adapter, work.documents, settings]
    cost, said = run_process([*script, *saved], environment=work.environment)
    return cost, json.loads(said.splitlines()[-1])


def task_by_hand(work: Work, name: str, scratch: Path) -> tuple[Cost, list[tuple[float, ...]]]:
    """The command lm_eval, on the base or on what was saved."""
    folder = {"fp16": work.base, "nf4+adapter": scratch / "nf4"}.get(name, scratch / name)
    model = f"pretrained={folder},dtype={work.dtype},softmax_dtype=float32"
    if name == "nf4+adapter":
        model += f",peft={work.adapter}"
    command = ["-m", "lm_eval"] if name in ("fp16", "dequant-merged") else ["-c", LM_EVAL_4BIT]
    results = scratch / f"results-{name}"
    options = ["run", "--model", "hf", "--model_args", model, "--tasks", TASK]
    options += ["--include_path", work.tasks, "--limit", work.pairs, "--batch_size", 16]
    options += ["--device", "cpu", "--output_path", results, "--log_samples"]
    cost, _ = run_process(list(map(str, [*command, *options])), environment=work.environment)
    (file,) = results.rglob(f"samples_{TASK}_*.jsonl")
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    return cost, [tuple(float(pair[0]) for pair in s["filtered_resps"]) for s in samples]


# ----------------------------------------------------------------------------- (b) evalkit


def by_evalkit(work: Work, side: Side, suite: Path, scratch: Path) -> None:
    """One run from an empty cache and an empty store."""
    side.costs.append(evalkit_run(work, suite, scratch))
    read_store(scratch, side)


def evalkit_run(work: Work, suite: Path, scratch: Path, *flags: str) -> Cost:
    command = [*flags, "-m", "evalkit", "run", suite, "--db", scratch / "runs.db"]
    command += ["--cache", scratch / "cache", "--reports", scratch / "reports"]
    cost, _ = run_process(command, environment=work.environment)
    return cost


def read_store(scratch: Path, side: Side) -> None:
    """What the last run found, every sample included."""
    from evalkit.store import Store

    with Store.open(str(scratch / "runs.db")) as store:
        for variant in store.load_run().variants:
            for metric, score in variant.scores.items():
                if metric.startswith("perplexity/"):
                    side.perplexities[variant.name, metric] = score.value
                if metric == f"{TASK}/acc":
                    side.pairs[variant.name] = [o.log_likelihoods for o in score.outcomes]


def loads_torch(work: Work, suite: Path, scratch: Path) -> bool:
    """Whether a run of the suite imports torch."""
    code = (
        "import sys, runpy; sys.argv = ['evalkit', *sys.argv[1:]]\n"
        "try: runpy.run_module('evalkit', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    arguments = ["-c", code, "run", suite, "--db", scratch / "runs.db", "--cache"]
    arguments += [scratch / "cache", "--reports", scratch / "reports"]
    _, said = run_process(arguments, environment=work.environment)
    return said.splitlines()[-1] == "True"


# ----------------------------------------------------------------------------- the whole


@dataclass
class Measured:
    """Everything that was measured."""

    hand: Side = field(default_factory=Side)
    run: Side = field(default_factory=Side)
    checked: list[Cost] = field(default_factory=list)
    rerun: list[Cost] = field(default_factory=list)
    added: list[Cost] = field(default_factory=list)
    alone: list[Cost] = field(default_factory=list)
    torch_on_rerun: bool = False
    exact: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))


def measure(work: Work, rounds: int, say: Callable[[str], None]) -> Measured:
    found = Measured()
    plain = write_suite(work, "equal-work", [*VARIANTS])
    whole = write_suite(work, "with-checks", [*VARIANTS], checks=True)
    more = write_suite(work, "equal-work", [*VARIANTS, ADDED], file="more")
    single = write_suite(work, "alone", [ADDED])
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: a process for each variant")
        by_hand(work, found.hand)
        with tempfile.TemporaryDirectory() as folder:
            say("one evalkit run, the run again, a variant more")
            scratch = Path(folder)
            by_evalkit(work, found.run, plain, scratch)
            found.rerun += [evalkit_run(work, plain, scratch) for _ in range(3)]
            if number == 0:
                found.torch_on_rerun = loads_torch(work, plain, scratch)
            found.added.append(evalkit_run(work, more, scratch))
            for file in scratch.glob("runs.db*"):
                file.unlink()
            found.alone.append(evalkit_run(work, single, scratch))
        with tempfile.TemporaryDirectory() as folder:
            say("one evalkit run with its checks: survival, saved and loaded again, costs")
            found.checked.append(evalkit_run(work, whole, Path(folder)))
    say("both in float32")
    hand, run = found.exact
    _, values = score_by_hand(work, "fp16", "float32")
    hand.perplexities = {("fp32", metric): value for metric, value in values.items()}
    with tempfile.TemporaryDirectory() as folder:
        by_evalkit(work, run, write_suite(work, "exact", [EXACT]), Path(folder))
    return found


def apart(one: Side, other: Side, metric: str) -> float:
    """The largest relative difference of two sides' perplexities of one protocol."""
    assert one.perplexities.keys() == other.perplexities.keys()
    mine = {key: value for key, value in one.perplexities.items() if key[1] == metric}
    return max(abs(value / other.perplexities[key] - 1) for key, value in mine.items())


def likelihoods_apart(one: Side, other: Side) -> float:
    """The largest difference of two sides' log-likelihoods of a sentence, in nats."""
    assert one.pairs.keys() == other.pairs.keys()
    return max(
        math.dist([a], [b])
        for name, pairs in one.pairs.items()
        for mine, theirs in zip(pairs, other.pairs[name], strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


def accuracies_apart(one: Side, other: Side) -> float:
    """The largest difference of two sides' accuracies, as a fraction."""

    def accuracy(pairs: list[tuple[float, ...]]) -> float:
        return statistics.fmean(good > bad for good, bad in pairs)

    return max(abs(accuracy(p) - accuracy(other.pairs[name])) for name, p in one.pairs.items())


def median(costs: list[Cost], what: str) -> float:
    """Of "wall", "cpu" or "peak" over the rounds."""
    return statistics.median(getattr(cost, what) for cost in costs)


def goals(work: Work, found: Measured) -> list[Goal]:
    hand, run = found.hand, found.run

    def both(what: str, goal: str, one: list[Cost], two: list[Cost], bound: float) -> list[Goal]:
        """One ratio by the clock and one by the processor: at least `bound`, or if < 0 at most."""
        rows = []
        for kind, name in (("wall", "time by the clock"), ("cpu", "processor time")):
            ratio = median(one, kind) / median(two, kind)
            met = ratio >= bound if bound > 0 else ratio <= -bound
            shown = f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×"
            rows.append(Goal(f"{what}, {name}", goal, shown, met, clock=kind == "wall"))
        return rows

    memory = median(run.costs, "peak") / median(hand.costs, "peak")
    again = median(found.rerun, "wall")
    rows = [
        *both("cold: by hand / evalkit", "at least 2", hand.costs, run.costs, 2),
        *both("cold, evalkit making its own checks too: by hand / evalkit", "over 1", hand.costs,
              found.checked, 1),
        Goal("cold: peak memory, evalkit / the largest process by hand", "at most 1",
             f"{memory:.2f} ×", memory <= 1),
        *both("unchanged suite again: by hand / evalkit", "at least 100", hand.costs, found.rerun,
              100),
        Goal("unchanged suite again: seconds", "under 2", f"{again:.1f}", again < 2, clock=True),
        Goal("unchanged suite again: torch is imported", "no",
             "yes" if found.torch_on_rerun else "no", not found.torch_on_rerun),
        *both("one variant added: evalkit / that variant's run alone", "at most 1.05", found.added,
              found.alone, -1.05),
    ]  # fmt: skip
    for metric, tokens in work.n_scored.items():
        allowed = NOISE * math.sqrt(8000 / tokens)
        short, long = apart(hand, run, metric), apart(*found.exact, metric)
        rows += [
            Goal(f"{metric}, largest relative difference, {work.dtype}",
                 f"noise of {tokens} tokens ({allowed:.0e})", f"{short:.1e}", short <= allowed),
            Goal(f"{metric}, relative difference, float32", "at most 1e-4", f"{long:.1e}",
                 long <= 1e-4),
        ]  # fmt: skip
    if hand.pairs:
        nats, share = likelihoods_apart(hand, run), accuracies_apart(hand, run)
        rows += [
            Goal("BLiMP: log-likelihoods, largest difference in nats",
                 f"noise ({LIKELIHOOD_NOISE})", f"{nats:.1e}", nats <= LIKELIHOOD_NOISE),
            Goal("BLiMP: accuracies, largest difference", "0", f"{share:.3f}", share == 0),
        ]  # fmt: skip
    return rows


def work_options(parser: argparse.ArgumentParser) -> None:
    """How much there is to score."""
    parser.add_argument("--data", type=Path, help="the folder with blimp/*.jsonl")
    parser.add_argument("--documents", type=int, default=42, help="how many are scored")
    parser.add_argument("--pairs", type=int, default=100, help="how many BLiMP pairs")


def main() -> None:
    parser = arguments_of(__doc__)
    work_options(parser)
    given: argparse.Namespace = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(Path(folder), given.data, documents=given.documents, pairs=given.pairs)
        found = measure(work, given.rounds, lambda text: print(text, file=sys.stderr, flush=True))
    notes = [
        f"{len(VARIANTS)} variants, each of {work.n_tokens} tokens in documents and chunks and "
        f"{sum(work.sentences)} in {len(work.sentences)} sentences; rounds: {given.rounds}"
    ]
    sides = {"by hand": found.hand.costs, "evalkit": found.run.costs}
    sides |= {"with checks": found.checked, "again": found.rerun}
    for name, costs in (sides | {"added": found.added, "alone": found.alone}).items():
        said = (f"{c.wall:.1f} s, {c.cpu:.1f} s CPU, {c.peak / 2**30:.2f} GiB" for c in costs)
        print(f"{name}: {'; '.join(said)}", file=sys.stderr)
    if not work.pairs:
        notes.append("BLiMP was left out: --data names no folder with blimp/*.jsonl")
    report("Seven variants: a process for each, or one run", goals(work, found), notes, given.json)


if __name__ == "__main__":
    main()
