"""Which points no other point beats. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def pareto_front(
    points: Mapping[str, tuple[float, float]], *, same: float = 0.0
) -> tuple[str, ...]:
    """Names of the points that no other equals or beats in both measures and beats in one.

    Lower is better in both: bytes and bits per byte, say. Equal points stand or fall together.

    Args:
        points: by name.
        same: what the first measure may be larger by, as a share of it, and count as equal.

    Returns:
        Names by rising first measure; equal points in the order given.
    """
    return tuple(
        name
        for name, point in sorted(points.items(), key=lambda item: item[1])
        if not any(_beats(other, point, same) for other in points.values())
    )


def _beats(one: tuple[float, float], other: tuple[float, float], same: float) -> bool:
    no_larger = one[0] <= other[0] * (1 + same)
    smaller = one[0] * (1 + same) < other[0]
    return no_larger and one[1] <= other[1] and (smaller or one[1] < other[1])
