"""How long the command line takes to answer, as ratios to a bare interpreter, in one run.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics

from measuring import Goal, arguments_of, report, run_process

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import typer, rich": ["-c", "import typer, rich.console, rich.table, rich.progress"],
    "evalkit --help": ["-m", "evalkit", "--help"],
    "evalkit run --help": ["-m", "evalkit", "run", "--help"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    given = arguments_of(__doc__).parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(given.rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(run_process(arguments)[0].wall)
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["python -c pass"]
    goals = [
        Goal(
            f"{name}, seconds",
            "at most 0.3",
            f"{medians[name]:.2f}",
            medians[name] <= 0.3,
            clock=True,
        )
        for name in ("evalkit --help", "evalkit run --help")
    ]
    notes = [f"{name}: {median / bare:.1f} × bare Python" for name, median in medians.items()]
    report("The command line's answer", goals, notes, given.json)


if __name__ == "__main__":
    main()
