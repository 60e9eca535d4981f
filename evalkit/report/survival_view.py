"""What merges kept of their adapters, layer by layer: tables for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalkit.records import SURVIVAL, RunRecord, Score
from evalkit.records.integrity import ModuleSurvival, Survival
from evalkit.report.words import MINUS, clean, counted, percent

MOST_LAYERS, MOST_KINDS = 160, 24
"""Rows and columns of a table at most: a file may name any number of modules."""
LEVELS: tuple[tuple[float, str, str], ...] = (
    (0.9, "all", "90 % and more"),
    (0.5, "most", "50 to 90 %"),
    (0.1, "little", "10 to 50 %"),
    (float("-inf"), "none", "under 10 %"),
)
"""From which survival on, the class of a cell, and the legend's words."""


@dataclass(frozen=True)
class Cell:
    """The survival of one module, or of several together."""

    words: str
    """In percent, without the sign; empty: there is no such module."""
    level: str
    """'all', 'most', 'little', 'none'; empty where nothing was wanted."""
    title: str


@dataclass(frozen=True)
class HeatRow:
    """One layer, with each kind of module and all of them together."""

    layer: str
    cells: tuple[Cell, ...]
    pooled: Cell


@dataclass(frozen=True)
class SurvivalCard:
    """One merged variant."""

    name: str
    total: str
    readings: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    pooled: HeatRow | None
    """All layers together; None where the modules are not known."""
    left_out: str


def survival_cards(run: RunRecord) -> list[SurvivalCard]:
    """A card for every variant whose merge was measured."""
    return [_card(v.name, v.scores[SURVIVAL]) for v in run.variants if SURVIVAL in v.scores]


def kinds_table(run: RunRecord) -> tuple[list[str], list[list[str]]] | None:
    """Columns and rows of a table by kind of module, untrusted text as it is.

    Returns:
        None where no merge was measured.
    """
    measured = {v.name: v.scores[SURVIVAL] for v in run.variants if SURVIVAL in v.scores}
    if not measured:
        return None
    by_kind = {name: Survival(score.modules).by_kind() for name, score in measured.items()}
    kinds = list(dict.fromkeys(kind for found in by_kind.values() for kind in found))[:MOST_KINDS]
    columns = ["variant", "total", *(label for label, _ in _readings(None)), *kinds]
    rows = [
        [
            name,
            percent(score.value),
            *(words for _, words in _readings(score)),
            *(_percent(found.survival if (found := by_kind[name].get(k)) else None) for k in kinds),
        ]
        for name, score in measured.items()
    ]
    return columns, rows


def _card(name: str, score: Score) -> SurvivalCard:
    survival = Survival(score.modules)
    by_layer, by_kind = survival.by_layer(), survival.by_kind()
    layers, kinds = list(by_layer)[:MOST_LAYERS], tuple(by_kind)[:MOST_KINDS]
    parts = survival.by_place()
    rows = tuple(
        HeatRow(
            layer=_layer_words(layer),
            cells=tuple(_cell(parts.get((layer, kind)), f"{layer} {kind}") for kind in kinds),
            pooled=_cell(by_layer[layer], f"{layer}, all modules"),
        )
        for layer in layers
    )
    whole = tuple(_cell(by_kind[kind], f"all layers, {kind}") for kind in kinds)
    pooled = HeatRow("all", whole, _cell(survival.pooled, "all modules")) if kinds else None
    more = [
        counted(count - shown, f"more {noun}")
        for count, shown, noun in (
            (len(by_layer), len(layers), "layer"),
            (len(by_kind), len(kinds), "kind"),
        )
        if count > shown
    ]
    left_out = f"{' and '.join(more)}: see the JSON" if more else ""
    readings = tuple(_readings(score))
    return SurvivalCard(name, percent(score.value), readings, kinds, rows, pooled, left_out)


def _readings(score: Score | None) -> list[tuple[str, str]]:
    """What the weights say beside the total, in a fixed order."""
    extra = score.extra if score is not None else {}
    return [
        (label, words(extra[name]) if name in extra else "–") for name, label, words in _READINGS
    ]


def _share_words(share: float) -> str:
    if 0 < share < 1e-5:
        return "under 0.001 %"
    return f"{share * 100:.2g} %" if share < 0.01 else percent(share)


_READINGS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("mean", "mean over modules", percent),
    ("relative_error", "relative error", lambda value: f"{value:.3g}"),
    ("relative_size", "‖ΔW‖/‖W‖", lambda value: f"{value:.2g}"),
    ("changed_share", "codes changed", _share_words),
)


def _cell(part: ModuleSurvival | None, place: str) -> Cell:
    if part is None:
        return Cell("", "", "")
    kept, where = part.survival, clean(place, longest=200)
    if kept is None:
        return Cell("–", "", f"{where}: the adapter changes nothing")
    level = next(name for least, name, _ in LEVELS if kept >= least)
    return Cell(_short(kept * 100), level, f"{where}: {percent(kept)}")


def _short(value: float) -> str:
    """Two or three digits: a cell has room for no more."""
    size = abs(value)
    text = f"{value:.{0 if size >= 9.95 else 1}f}" if size < 1e4 else f"{value:.0e}"
    return text.replace("-", MINUS) if float(text) else "0"


def _layer_words(layer: str) -> str:
    return clean(layer, longest=80)


def _percent(kept: float | None) -> str:
    return "–" if kept is None else percent(kept)
