"""What variants cost, and which one to ship, as Markdown."""

from __future__ import annotations

from evalkit.records import RunRecord
from evalkit.report.advice import advice
from evalkit.report.costs import ON_THE_FRONT, READ_ONCE, cost_table
from evalkit.report.markdown.text import block, code, details, prose, table, within

LONGEST = 3_500
"""Characters of the table of costs at most."""


def costs_part(run: RunRecord) -> str:
    """A folded table of bytes, load time and speeds; '' where nothing was measured."""
    found = cost_table(run)
    if found is None:
        return ""
    columns = ["variant", "disk", "memory", "load s\\*", "scoring tok/s\\*", "decoding tok/s\\*"]
    rows = [
        [
            code(row.name),
            *(
                prose(words or "–")
                for words in (
                    row.disk, row.memory, row.load_seconds, row.scoring_speed, row.decode_speed
                )
            ),
            *([prose(row.bits_per_byte or "–"), "yes" if row.on_front else ""] * found.has_front),
        ]
        for row in found.rows
    ]  # fmt: skip
    columns += ["bits/byte", "on the front"] * found.has_front
    lines = table(columns, rows, right=range(1, 7)).split("\n")
    kept, more = within(lines, LONGEST, "variant")
    captions = [f"\\* {READ_ONCE}", *([ON_THE_FRONT] if found.has_front else [])]
    caption = f"<sub>{'. '.join(captions)}.</sub>"
    parts = ["\n".join(kept), more, caption]
    return details("Costs", "\n\n".join(part for part in parts if part))


def advice_part(run: RunRecord) -> str:
    """What to ship and why, with the command to copy; '' where no gate was judged."""
    if not run.verdicts:
        return ""
    found = advice(run)
    if found.variant is None:
        return prose(found.words, longest=600)
    reasons = prose("; ".join(found.reasons), longest=600)
    words = f"Recommended: {code(found.variant)} – {reasons}."
    # A command that was shortened or cleaned would do something else.
    shown = found.command is not None and len(found.command) <= 400
    return f"{words}\n\n{block(found.command or '')}" if shown else words
