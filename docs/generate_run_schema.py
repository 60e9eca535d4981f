"""Writes docs/run.schema.json from the models: run it after a change to the JSON of a run.

python docs/generate_run_schema.py
"""

from __future__ import annotations

from pathlib import Path

from evalkit.report.json.schema import run_schema_text


def main() -> None:
    """Write the file."""
    Path(__file__).with_name("run.schema.json").write_text(run_schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
