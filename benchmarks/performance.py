"""Runs the benchmarks of speed and memory, and writes the generated part of docs/performance.md.

    python benchmarks/performance.py --data ../shared/data

About three quarters of an hour on two cores that nothing else uses, half an hour with `--rounds 1`,
and almost twice that on a CPU without bfloat16.
`--page` writes the page from results that are there already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from measuring import ROOT, machine_line

from evalkit.machine import detect_machine

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured in {}: begin -->", "<!-- measured in {}: end -->"
"""Around the part of a kind of CPU: one that computes in bfloat16, or in float32."""
WITH_DATA = ("field.py", "least.py", "tasks.py")
SCRIPTS = {"field.py": 2, "least.py": 3, "scoring.py": 3, "tasks.py": 3, "startup.py": 7}
"""The benchmarks in their order, and how often their sides alternate."""
MET = {True: "yes", False: "**no**", None: "–"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder with blimp/ and mmlu/")
    parser.add_argument("--results", type=Path, default=ROOT / "reports" / "performance")
    parser.add_argument("--rounds", type=int, help="alternations of each, at most")
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    given = parser.parse_args()
    data = given.data if given.data is not None and given.data.is_dir() else None
    given.results.mkdir(parents=True, exist_ok=True)
    if not given.page:
        for script, rounds in SCRIPTS.items():
            if script == "tasks.py" and data is None:
                print(f"{script} is left out: --data names no folder", file=sys.stderr)
                continue
            measure(script, min(rounds, given.rounds or rounds), given.results, data)
    write_page(given.results)


def measure(script: str, rounds: int, results: Path, data: Path | None) -> None:
    """One benchmark in a process of its own; its goals as a file in `results`."""
    file = (results / script).with_suffix(".json")
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--rounds", str(rounds)]
    command += ["--json", str(file)]
    if script in WITH_DATA and data is not None:
        command += ["--data", str(data)]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, env={**os.environ, **environment})


def write_page(results: Path) -> None:
    """Replace what is between this kind of CPU's markers; all the rest stays as it is."""
    kind = "bfloat16" if detect_machine().bf16 else "float32"
    begin, end = BEGIN.format(kind), END.format(kind)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    files = [(results / script).with_suffix(".json") for script in SCRIPTS]
    parts = [section(json.loads(f.read_text(encoding="utf-8"))) for f in files if f.is_file()]
    missing = [file.stem for file in files if not file.is_file()]
    head = f"Measured on: {machine_line()}."
    if missing:
        head += f" Not measured this time: {', '.join(missing)}."
    body = "\n\n".join([begin, head, *parts, end])
    PAGE.write_text(before + body + after, encoding="utf-8")
    print(f"wrote {PAGE}")


def section(found: dict[str, object]) -> str:
    """One benchmark as a table of goals, and what it noted."""
    goals = found["goals"]
    notes = found["notes"]
    assert isinstance(goals, list) and isinstance(notes, list)  # noqa: PT018
    rows = [
        f"| {goal['what']} | {goal['goal'] or '–'} | {goal['measured']} | {MET[goal['met']]} |"
        for goal in goals
    ]
    table = ["| what | goal | measured | met |", "|---|---|---|---|", *rows]
    listed = [f"- {note}" for note in notes]
    return "\n".join([f"### {found['title']}", "", *table, "", *listed])


if __name__ == "__main__":
    main()
