"""What running an unchanged suite again takes, as ratios to importing torch and to the first run.

    python benchmarks/rerun.py [SUITE] [STORE]

SUITE is the quickstart unless said otherwise. Without STORE it is run once in a folder that is
thrown away, which takes minutes; with a store that has a run of it, nothing is computed. Each round
runs it again as a command, which reads every number from the store and writes a report of its own.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import environment_with

SUITE = Path(__file__).parents[1] / "suites" / "quickstart.yaml"
ROUNDS = 7
IMPORTS = "import torch, transformers"


def main():
    suite = sys.argv[1] if len(sys.argv) > 1 else str(SUITE)
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[2] if len(sys.argv) > 2 else f"{folder}/runs.db"
        again = ["-m", "evalkit", "run", suite, "--db", store, "--reports", f"{folder}/reports"]
        first = measured(again)[0]
        commands = {
            "run again": again,
            f"python -c '{IMPORTS}'": ["-c", IMPORTS],
            "evalkit --help": ["-m", "evalkit", "--help"],
        }
        times = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, arguments in commands.items():
                times[name].append(measured(arguments))
    print(f"best and median of {ROUNDS} alternating rounds; the first call took {first:.1f} s")
    for name, values in times.items():
        walls, computed = zip(*values, strict=True)
        wall = f"{min(walls):6.2f} {statistics.median(walls):6.2f}"
        cpu = f"{min(computed):6.2f} {statistics.median(computed):6.2f}"
        print(f"{name:40} wall {wall} s   user and system {cpu} s")
    best = {name: min(wall for wall, _ in values) for name, values in times.items()}
    mine, imports = best["run again"], best[f"python -c '{IMPORTS}'"]
    print(f"run again / imports: {mine / imports:.2f}")
    print(f"run again / first call: {mine / first:.3f}")


def measured(arguments):
    """Seconds on the clock, and seconds of user and system time, of one command."""
    before, started = used(), time.perf_counter()
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment_with({}))
    wall = time.perf_counter() - started
    if done.returncode not in (0, 1):  # a gate that is not ok is no failure here
        sys.exit(done.stderr)
    return wall, used() - before


def used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
