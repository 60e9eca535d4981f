"""What running an unchanged suite again takes, as ratios to importing torch and to the first run.

    python benchmarks/rerun.py [SUITE] [STORE] [--beside CHECKOUT]

SUITE is the quickstart unless said otherwise. Without STORE it is run once in a folder that is
thrown away, which takes minutes; with a store that has a run of it, nothing is computed. Each round
runs it again as a command, which reads every number from the store and writes a report of its own;
with --beside, another version of evalkit does the same in turn.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import ROOT, environment_with

ROUNDS = 7
IMPORTS = "import torch, transformers"
OTHER = "run again, the other version"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", nargs="?", type=Path, default=ROOT / "suites" / "quickstart.yaml")
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--beside", type=Path, help="another checkout of evalkit")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs.db" if given.store is None else given.store.resolve()
        run = ["-m", "evalkit", "run", given.suite.resolve(), "--db", store, "--reports"]
        again = [*map(str, run), f"{folder}/reports"]
        first = measured(again)[0]
        commands = {
            "run again": again,
            f"python -c '{IMPORTS}'": ["-c", IMPORTS],
            "evalkit --help": ["-m", "evalkit", "--help"],
        }
        versions = dict.fromkeys(commands, ROOT)
        if given.beside is not None:
            commands[OTHER] = [*map(str, run), f"{folder}/others"]
            versions[OTHER] = given.beside.resolve()
            measured(commands[OTHER], versions[OTHER])
        times = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, arguments in commands.items():
                times[name].append(measured(arguments, versions[name]))
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
    if OTHER in times:
        wall, cpu = (
            statistics.median(t[kind] for t in times["run again"])
            / statistics.median(t[kind] for t in times[OTHER])
            for kind in (0, 1)
        )
        print(f"run again / {OTHER}, medians: clock {wall:.2f}, processor time {cpu:.2f}")


def measured(arguments, version=ROOT):
    """Seconds on the clock, and of user and system time, of one command with a checkout's code."""
    before, started = used(), time.perf_counter()
    command = [sys.executable, *arguments]
    environment = environment_with({"PYTHONPATH": str(version)})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=version)
    wall = time.perf_counter() - started
    if done.returncode not in (0, 1):  # a gate that is not ok is no failure here
        sys.exit(done.stderr)
    return wall, used() - before


def used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
