"""What is kept of a perplexity's tokens: losses and likeliest tokens of the first units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from evalkit.records import TokenLosses
from evalkit.scoring.forward import WindowScores
from evalkit.scoring.layout import Layout
from evalkit.scoring.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_TOKENS = 400
"""Of each unit, the first ones: about a page, which is what a reader looks at. A score of 64 units
then adds some 600 KB to the store, however long they are."""


def with_tops(layout: Layout, units: int) -> Layout:
    """The same layout, whose windows want the likeliest token wherever it will be kept.

    Args:
        layout: the units' windows in their order.
        units: how many of the first units are kept.
    """
    left = [KEPT_TOKENS] * min(units, len(layout.unit_ids))
    windows = []
    for window in layout.windows:
        if window.unit < len(left):
            window = replace(window, n_tops=min(len(window.targets), left[window.unit]))
            left[window.unit] -= window.n_tops
        windows.append(window)
    return replace(layout, windows=tuple(windows))


def kept_losses(
    tokenizer: PreTrainedTokenizerBase,
    layout: Layout,
    scores: Sequence[WindowScores],
    units: int,
) -> tuple[TokenLosses, ...]:
    """Tokens, losses and likeliest tokens of the first units, as `with_tops` had them measured.

    Args:
        tokenizer: the model's.
        layout: from `with_tops`.
        scores: of each of its windows.
        units: how many of the first units are kept.
    """
    texts: dict[int, str] = {}
    kept = []
    for unit in range(min(units, len(layout.unit_ids))):
        mine = [index for index, window in enumerate(layout.windows) if window.unit == unit]
        pieces: list[str] = []
        for window in (layout.windows[index] for index in mine):
            stop = window.first + window.n_tops
            pieces.extend(layout.texts[window.text].pieces(window.first, stop))
        tops = np.concatenate([scores[index].top_ids for index in mine]).tolist()
        for token in tops:
            if token not in texts:
                texts[token] = token_text(tokenizer, token)
        kept.append(
            TokenLosses(
                unit,
                tuple(pieces),
                np.concatenate([scores[i].losses[: layout.windows[i].n_tops] for i in mine]),
                tuple(texts[token] for token in tops),
                np.concatenate([scores[index].top_probabilities for index in mine]),
            )
        )
    return tuple(kept)
