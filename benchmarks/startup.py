"""How long the command line takes to answer, as ratios to a bare interpreter, in one run.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import typer, rich": ["-c", "import typer, rich.console, rich.table, rich.progress"],
    "evalkit --help": ["-m", "evalkit", "--help"],
    "evalkit run --help": ["-m", "evalkit", "run", "--help"],
    "import torch": ["-c", "import torch"],
}
ROUNDS = 7


def seconds(arguments):
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main():
    times = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print(f"medians of {ROUNDS} alternating rounds")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22} {median * 1000:7.0f} ms   {median / bare:6.1f} × bare Python")


if __name__ == "__main__":
    main()
