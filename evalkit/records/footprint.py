"""What a variant costs: bytes, parameters, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """One measure of what a variant costs, as gates name it."""

    unit: str
    higher_is_better: bool
    title: str
    """For people."""
    is_timed: bool = False
    """Read off a clock, once: it moves from run to run."""


COSTS: Mapping[str, Cost] = {
    "disk": Cost("bytes", False, "weights on disk"),
    "memory": Cost("bytes", False, "weights in memory"),
    "peak_memory": Cost("bytes", False, "peak memory of scoring", is_timed=True),
    "load_seconds": Cost("s", False, "load time", is_timed=True),
    "scoring_speed": Cost("tokens/s", True, "scoring speed", is_timed=True),
    "decode_speed": Cost("tokens/s", True, "decoding speed", is_timed=True),
}
"""What is measured of every variant beside its quality, by the name of the metric."""


@dataclass(frozen=True)
class Footprint:
    """What one variant takes on the machine that scored it."""

    memory_bytes: int
    """Weights in memory, with their scales and with adapters that are on top."""
    disk_bytes: int
    """Weights as they are saved, without the few kilobytes of the files' headers; adapters too."""
    parameters: int
    """Weights of the base; of quantised ones the weights, not the bytes."""
    trainable_parameters: int
    """Weights of the adapters on the variant's path, merged or not; 0 without one."""
    load_seconds: float
    """Building the variant, its cached parts read and not made."""
    scoring_tokens_per_second: float
    decode_tokens_per_second: float
    """Greedily, one text at a time."""
    peak_resident_bytes: int = 0
    """The process's, while it built and scored the variant; 0 where it was not watched."""
    peak_device_bytes: int = 0
    """CUDA's allocator, likewise."""

    @property
    def trainable_share(self) -> float:
        """Of all weights, the adapters' own included, as PEFT prints it."""
        return self.trainable_parameters / (self.parameters + self.trainable_parameters)

    @property
    def bits_per_weight(self) -> float:
        """Bits on the disk for each weight of the base."""
        return 8 * self.disk_bytes / self.parameters
