"""Writes docs/bad-inputs.md from the cases that the tests run: see tests/shared/bad_inputs.py.

python docs/generate_bad_inputs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """\
# Bad inputs, and what you get

Written by `docs/generate_bad_inputs.py` from `tests/shared/bad_inputs.py`, whose every case
`tests/test_bad_inputs.py` runs through the command line. The message is a part of what is printed,
word for word; no case ends with a traceback. Exit codes: 2 the suite, the data or the command line
is wrong, 3 a job failed, 0 it works. What evalkit guards against, and what not:
[security.md](security.md).
"""


def page() -> str:
    """The page as it should be."""
    sys.path.insert(0, str(ROOT / "tests" / "shared"))
    from bad_inputs import EVERY

    parts = [HEAD]
    for section, cases in EVERY.items():
        rows = "".join(
            f"| {_cell(case.tried)} | {_message(case.message, case.code)} | {case.code} |\n"
            for case in cases
        )
        columns = "| Input | What is printed | Exit code |\n|---|---|---|\n"
        parts.append(f"## {section}\n\n{columns}{rows}")
    return "\n".join(parts)


def _message(message: str, code: int) -> str:
    if not message:
        return "nothing: it works" if code == 0 else ""
    return f"`{_cell(message)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    (ROOT / "docs" / "bad-inputs.md").write_text(page(), encoding="utf-8")
