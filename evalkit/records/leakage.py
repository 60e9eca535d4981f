"""What of a scored corpus was found in the data that an adapter was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Overlap:
    """The scored documents that are in the training data, word for word or nearly."""

    train: str
    """Name of the corpus that was trained on."""
    scored: str
    """Name of the corpus that is scored."""
    n_train: int
    n_scored: int
    """Documents of each that hold a word."""
    exact: int
    """Scored documents whose words are those of a training document."""
    near: int
    """Further ones that are near-duplicates of a training document."""
    threshold: float
    """From this resemblance on, two documents are near-duplicates."""
    worst: tuple[str, str, float] | None = None
    """Id of the scored document, id of the training document, and their resemblance, 0 to 1."""
    near_skipped: str = ""
    """Why near-duplicates were not looked for; empty where they were."""

    @property
    def leaked(self) -> int:
        """Scored documents that a model may know by heart."""
        return self.exact + self.near

    @property
    def sentence(self) -> str:
        """What was found, as a sentence without its full stop."""
        if not self.leaked:
            found = "exactly" if self.near_skipped else "exactly or nearly"
            said = f"of {self.n_scored:,} documents of {self.scored}, none is {found} in "
        else:
            verb = "is" if self.leaked == 1 else "are"
            said = (
                f"{self.leaked:,} of {self.n_scored:,} documents of {self.scored} {verb} also in "
            )
        said += f"the training data {self.train}"
        if self.leaked:
            said += f" ({self.exact:,} exactly, {self.near:,} nearly)"
        if self.worst is not None and self.leaked:
            said += f"; the worst pair is {self.worst[0]} and {self.worst[1]}"
            said += f" (resemblance {self.worst[2]:.2f})"
        return said

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON; `overlap_from_json` reads them back."""
        return {**asdict(self), "worst": list(self.worst) if self.worst else None}


def overlap_from_json(obj: Mapping[str, Any]) -> Overlap:
    """Reads back what `Overlap.to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    worst = obj["worst"]
    return Overlap(
        train=str(obj["train"]),
        scored=str(obj["scored"]),
        n_train=int(obj["n_train"]),
        n_scored=int(obj["n_scored"]),
        exact=int(obj["exact"]),
        near=int(obj["near"]),
        threshold=float(obj["threshold"]),
        worst=None if worst is None else (str(worst[0]), str(worst[1]), float(worst[2])),
        near_skipped=str(obj.get("near_skipped", "")),
    )
