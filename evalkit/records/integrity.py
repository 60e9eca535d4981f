"""What a merge did to the weights, module by module, and what checks of the weights found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

_Group = TypeVar("_Group", bound=Hashable)
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True)
class ModuleSurvival:
    """What became of the change that adapters wanted to make to one weight, or to several pooled.

    *Wanted* is what the adapters add. *Happened* is the weight at the path's end minus that of the
    same path without the adapters. All sums run over the elements, in float64.
    """

    module: str
    """'model.layers.0.self_attn.q_proj', or the name of a group."""
    inner: float
    """⟨happened, wanted⟩."""
    wanted: float
    """‖wanted‖²."""
    error: float
    """‖happened − wanted‖²."""
    weight: float
    """‖W‖² of the weight without the adapters."""
    codes: int = 0
    """Quantised weights compared; 0 where an end of the path is not quantised."""
    codes_changed: int = 0

    @property
    def survival(self) -> float | None:
        """⟨happened, wanted⟩/‖wanted‖²: 1 is all of the adapter, 0 none; None if none was wanted.

        It is the slope of the regression of happened on wanted, so rounding noise that is
        unrelated to the adapter leaves it where it is.
        """
        return self.inner / self.wanted if self.wanted > 0 else None

    @property
    def relative_error(self) -> float | None:
        """‖happened − wanted‖/‖wanted‖: rounding noise counts in full."""
        return math.sqrt(self.error / self.wanted) if self.wanted > 0 else None

    @property
    def relative_size(self) -> float | None:
        """‖wanted‖/‖W‖: how large the adapter is beside the weights."""
        return math.sqrt(self.wanted / self.weight) if self.weight > 0 else None

    @property
    def changed_share(self) -> float | None:
        """Share of the codes that changed; None where an end of the path is not quantised."""
        return self.codes_changed / self.codes if self.codes else None


@dataclass(frozen=True)
class Survival:
    """How much of the merged adapters is in the weights at the end of a path."""

    modules: tuple[ModuleSurvival, ...]
    """Every weight that a merged adapter targets, in the model's order."""
    seconds: float = 0.0
    """What measuring it took."""

    @property
    def pooled(self) -> ModuleSurvival:
        """All modules as one."""
        return _pool("all", self.modules)

    @property
    def total(self) -> float | None:
        """*The* survival: inner products summed over modules, over squared norms summed.

        A module counts by the size of its change. None where the adapters change nothing.
        """
        return self.pooled.survival

    @property
    def mean(self) -> float | None:
        """The mean of the modules' survivals: every module that is to change counts alike."""
        values = [part.survival for part in self.modules if part.survival is not None]
        return sum(values) / len(values) if values else None

    def by_layer(self) -> dict[str, ModuleSurvival]:
        """Pooled by the model's layers: "0", "1", ...; what is in no layer under its own name."""
        return self._grouped(layer_of)

    def by_kind(self) -> dict[str, ModuleSurvival]:
        """Pooled by the last part of the name: "q_proj", "down_proj", ..."""
        return self._grouped(kind_of)

    def by_place(self) -> dict[tuple[str, str], ModuleSurvival]:
        """Pooled by layer and kind: a layer may have several modules of one kind."""
        return self._grouped(lambda name: (layer_of(name), kind_of(name)))

    def _grouped(self, group: Callable[[str], _Group]) -> dict[_Group, ModuleSurvival]:
        groups: dict[_Group, list[ModuleSurvival]] = {}
        for part in self.modules:
            groups.setdefault(group(part.module), []).append(part)
        return {place: _pool(str(place), parts) for place, parts in groups.items()}


@dataclass(frozen=True)
class Finding:
    """What one check of a variant's weights came to."""

    check: str
    """'finite', 'reload', 'flavour', 'zero adapter', 'leakage', 'merge'."""
    ok: bool
    message: str
    """One sentence."""
    severe: bool = False
    """A variant with a severe finding that is not ok has no scores worth keeping: its job fails."""

    @property
    def fails(self) -> bool:
        """Whether the variant's job fails."""
        return self.severe and not self.ok


def layer_of(module: str) -> str:
    """'11' of 'model.layers.11.self_attn.q_proj'; the name itself of what is in no layer."""
    return found[1] if (found := _NUMBER.search(module)) else module


def kind_of(module: str) -> str:
    """'q_proj' of 'model.layers.11.self_attn.q_proj'."""
    return module.rpartition(".")[2]


def _pool(name: str, parts: Iterable[ModuleSurvival]) -> ModuleSurvival:
    inner = wanted = error = weight = 0.0
    codes = changed = 0
    for part in parts:
        inner += part.inner
        wanted += part.wanted
        error += part.error
        weight += part.weight
        codes += part.codes
        changed += part.codes_changed
    return ModuleSurvival(name, inner, wanted, error, weight, codes, changed)
