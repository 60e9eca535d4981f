"""Where the names of points stand in a picture, so that none covers another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

_GAP = 12.0
"""Pixels between a point's middle and its name."""
_LINE = 17.0
"""Pixels from one line of text to the next."""
_RADIUS = 8.0
_FARTHEST = 14
"""Lines that a name may be moved up or down."""
_CHARACTER = 7.3
"""Pixels of a character of 13 pixels' size, a wide one."""


@dataclass(frozen=True)
class Label:
    """A name beside its point, in pixels from the upper left."""

    text: str
    x: float
    y: float
    """Of the text's middle."""
    align: Literal["left", "right"]
    is_moved: bool
    """So far from its point that a line should lead there."""


Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def place_labels(
    points: Sequence[tuple[str, float, float]],
    *,
    width: float,
    height: float,
    lines: Sequence[Box] = (),
) -> list[Label]:
    """Puts each name where it covers no point and no other name, as near to its point as it can.

    Args:
        points: (name, x, y), in pixels.
        width: of the picture; names that fit on neither side of their point are shortened.
        height: of the picture.
        lines: what else is drawn and should not be written over: left, top, right, bottom.

    Returns:
        A label for each point, in the order given.
    """
    taken: list[Box] = [
        *((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for _, x, y in points),
        *lines,
    ]
    placed: dict[int, Label] = {}
    # From the top down, so that a crowd of points fans out in its own order.
    for index in sorted(range(len(points)), key=lambda i: (points[i][2], points[i][1])):
        name, x, y = points[index]
        longest = max(int((max(x, width - x) - _GAP) / _CHARACTER), 1)
        text = name if len(name) <= longest else name[: longest - 1] + "…"
        label, box = _free_place(text, x, y, taken, width, height)
        taken.append(box)
        placed[index] = label
    return [placed[index] for index in range(len(points))]


def _free_place(
    text: str, x: float, y: float, taken: Sequence[Box], width: float, height: float
) -> tuple[Label, Box]:
    shifts = sorted(range(-_FARTHEST, _FARTHEST + 1), key=lambda lines: (abs(lines), lines))
    first: tuple[Label, Box] | None = None
    for lines, align in product(shifts, ("left", "right")):
        label, box = _at(text, x, y + lines * _LINE, "left" if align == "left" else "right", lines)
        inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
        if inside and not any(_overlap(box, other) for other in taken):
            return label, box
        if first is None and box[0] >= 0 and box[2] <= width:
            first = label, box
    return first or _at(text, x, y, "left", 0)


def _at(
    text: str, x: float, y: float, align: Literal["left", "right"], lines: int
) -> tuple[Label, Box]:
    size = len(text) * _CHARACTER
    start = x + _GAP if align == "left" else x - _GAP - size
    label = Label(text, x + _GAP if align == "left" else x - _GAP, y, align, lines != 0)
    return label, (start, y - _LINE / 2, start + size, y + _LINE / 2)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
