"""A reference's log-probabilities in 16 bits, over the whole vocabulary, in a memory-mapped file.

Each row is x = ln p − max ln p on its own even grid: code c stands for (c − 65535)·s, with s a
65,534th of the row's range, so that every x is off by at most δ = s/2. What lies more than `RANGE`
nats under the likeliest token gets code 0, no probability at all: less than 1e-11 together, for a
vocabulary of a million. At 30 nats δ is 2.3e-4, while a 16-bit float is off by 7.8e-3 at −16 nats.

Reading normalises again: p̂ ∝ exp(x̂). Then ln p̂ − ln p = η lies within an interval of length 2δ
around 0, Σp̂(e^−η − 1) = 0, and for any q, with d = ln p̂ − ln q,

    KL(p‖q) − KL(p̂‖q) = Σ p̂ (e^−η − 1) d + KL(p‖p̂),
    |KL(p‖q) − KL(p̂‖q)| ≤ (e^2δ − 1) Σ p̂ |d| + δ²/2,

the last term by Hoeffding's lemma, for p is p̂ tilted by a function of range 2δ. The first is the
worst case, all roundings conspiring; they do not, and the mean over thousands of tokens is off by
far less. With q = p all that is left is δ²/2, under 5e-8.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import ScoringError
from evalkit.scoring.token_pairs import KnownRows
from evalkit.scoring.windows import Window

if TYPE_CHECKING:
    import torch

RANGE = 40.0
"""Nats under a row's maximum that are kept."""
_TOP = 65535
_FILES = ("codes", "scales", "tops", "losses")
_ROW_BYTES = 4 + 4 + 8


def reference_bytes(tokens: int, vocabulary: int) -> int:
    """Size of a reference on the disk, but for a few hundred bytes of headers."""
    return tokens * (2 * vocabulary + _ROW_BYTES)


def encode(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Puts rows of logits on their 16-bit grids.

    Args:
        logits: (rows, vocabulary), float64; −inf is no probability.

    Returns:
        Codes as int16 with the bits of uint16, (rows, vocabulary); the grids' steps, float32,
        (rows,).
    """
    import torch

    below = logits - logits.amax(-1, keepdim=True)
    floor = below.clamp(min=-RANGE).amin(-1)
    steps = (-floor / (_TOP - 1)).clamp(min=1e-12).float()
    codes = (below / steps.double()[:, None]).clamp(min=-2 * _TOP).round().to(torch.int32) + _TOP
    codes = codes.clamp(min=0)
    signed = torch.where(codes > 2**15 - 1, codes - 2**16, codes)
    return signed.to(torch.int16), steps


def decode(codes: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Turns `encode`'s results back into x̂, float64; code 0 into −inf."""
    import torch

    unsigned = codes.to(torch.int32) & 0xFFFF
    values = (unsigned - _TOP).double() * steps.double()[:, None]
    return values.masked_fill_(unsigned == 0, -torch.inf)


@dataclass(frozen=True)
class LogProbs:
    """An open reference: row i belongs to the i-th scored position of the layout."""

    codes: NDArray[np.uint16]
    """(positions, vocabulary), memory-mapped."""
    scales: NDArray[np.float32]
    """(positions,): the step of each row's grid."""
    tops: NDArray[np.int32]
    """(positions,): the likeliest token; the first of several."""
    losses: NDArray[np.float64]
    """(positions,): −ln p of the token that came, not rounded."""

    @property
    def vocabulary(self) -> int:
        """Width of the reference's logits."""
        return int(self.codes.shape[1])

    def write(self, rows: slice, logits: torch.Tensor, known: KnownRows) -> None:
        """Stores rows whose logits, in float64, say what is known."""
        codes, steps = encode(logits)
        self.codes[rows] = codes.cpu().numpy().view(np.uint16)
        self.scales[rows] = steps.cpu().numpy()
        self.tops[rows] = known.tops.cpu().numpy()
        self.losses[rows] = known.losses.cpu().numpy()

    def read(self, rows: slice, device: torch.device) -> KnownRows:
        """Gives rows back, but for the rounding."""
        import torch

        def moved(values: NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.array(values)).to(device)  # a copy: torch wants to write

        steps = moved(self.scales[rows])
        below = decode(moved(self.codes[rows].view(np.int16)), steps)
        losses = moved(self.losses[rows])
        return KnownRows(below, steps.double() / 2, moved(self.tops[rows]), losses)


def create(folder: Path, windows: Sequence[Window], vocabulary: int) -> LogProbs:
    """Makes the files of a reference, to be filled row by row.

    Args:
        folder: exists and is empty.
        windows: what is scored; their digest is kept.
        vocabulary: width of the logits.

    Raises:
        OSError: the disk has no room for all of it.
    """
    positions = sum(len(window.targets) for window in windows)
    shapes = dict.fromkeys(_FILES, (positions,)) | {"codes": (positions, vocabulary)}
    dtypes = {"codes": "<u2", "scales": "<f4", "tops": "<i4", "losses": "<f8"}
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.dtype(dtypes[name]), shape=shapes[name]
        )
        for name in _FILES
    }
    for name in _FILES:
        _take_room(folder / f"{name}.npy")
    (folder / "windows.json").write_text(json.dumps({"digest": windows_digest(windows)}))
    return LogProbs(**arrays)


def open_log_probs(folder: Path, windows: Sequence[Window]) -> LogProbs:
    """Opens a reference for reading.

    Raises:
        ScoringError: there is none, or it is of other tokens than these.
    """
    try:
        digest = json.loads((folder / "windows.json").read_text())["digest"]
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES}
    except (OSError, ValueError, KeyError) as error:
        raise ScoringError(f"{folder}: holds no reference's log-probabilities: {error}") from error
    if digest != windows_digest(windows):
        raise ScoringError(
            f"{folder}: the reference was scored on other tokens: divergence needs the same data, "
            "lengths and tokenizer on both sides"
        )
    return LogProbs(**arrays)


def _take_room(file: Path) -> None:
    """Takes the file's blocks now: a full disk is an error here, and a killed process later."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def windows_digest(windows: Sequence[Window]) -> str:
    """Digest of every token that is read or scored, in order."""
    content = hashlib.sha256()
    for window in windows:
        for ids in (window.inputs, window.targets):
            content.update(len(ids).to_bytes(8, "little"))
            content.update(ids.astype("<i8").tobytes())
    return content.hexdigest()
