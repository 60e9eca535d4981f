"""A run of seven variants from nothing, beside the least that must be done for it (limit.py).

The sides take turns, and who goes first does too: how fast a machine is moves within minutes.

    python benchmarks/least.py --data ../shared/data
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from field import HERE, evalkit_run, work_options
from field_suite import VARIANTS, Work, prepare, write_suite
from measuring import Cost, Goal, arguments_of, report, run_process

WITHIN = 1.15


def measure(work: Work, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """What evalkit and the least cost, round by round."""
    suite = write_suite(work, "equal-work", [*VARIANTS])
    wanted = {"dtype": work.dtype, "tokens": work.n_tokens, "sentences": work.sentences}
    limit = [HERE / "limit.py", work.base, work.adapter, json.dumps(wanted)]
    ours: list[Cost] = []
    least: list[Cost] = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            sides = [
                lambda scratch=Path(folder): ours.append(evalkit_run(work, suite, scratch)),
                lambda: least.append(run_process(limit, environment=work.environment)[0]),
            ]
            for side in sides if number % 2 == 0 else reversed(sides):
                side()
        print(f"round {number + 1}: {ours[-1]} {least[-1]}", file=sys.stderr, flush=True)
    return ours, least


def main() -> None:
    parser = arguments_of(__doc__)
    work_options(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(Path(folder), given.data, documents=given.documents, pairs=given.pairs)
        ours, least = measure(work, given.rounds)
    rows, notes = [], [f"rounds: {given.rounds}"]
    for kind, name in (("wall", "time by the clock"), ("cpu", "processor time")):
        mine, other = ([getattr(cost, kind) for cost in costs] for costs in (ours, least))
        ratio = statistics.median(mine) / statistics.median(other)
        what = f"cold: evalkit / the least that must be done, {name}"
        goal = f"at most {WITHIN}"
        rows.append(Goal(what, goal, f"{ratio:.2f} ×", ratio <= WITHIN, clock=kind == "wall"))
        by_round = ", ".join(f"{a / b:.2f}" for a, b in zip(mine, other, strict=True))
        notes.append(f"{name}, round by round: {by_round}")
    report("Beside the least that must be done", rows, notes, given.json)


if __name__ == "__main__":
    main()
