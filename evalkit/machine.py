"""What this machine is: device, memory, and the number formats it computes in. No torch needed."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """The device that scores, by name, with what can move a number on it."""

    device: Device
    name: str
    """'NVIDIA A100-SXM4-40GB', or the CPU's model name."""
    driver: str
    """The CUDA driver's version; empty on a CPU."""
    memory: int
    """Bytes of the device's memory: the GPU's, or the RAM."""
    bf16: bool
    """Whether bfloat16 matrix products run in hardware."""
    cores: int
    threads: int = 1
    """That a CPU computes with: sums in another order round differently. 1 on a GPU."""

    def effective_dtypes(self) -> dict[str, str]:
        """What each dtype name of a suite is really computed in here.

        A CPU has no float16 matrix products: `fp16` means bfloat16 where the CPU has it, else
        float32.
        """
        if self.device == "cuda":
            return {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
        short = "bf16" if self.bf16 else "fp32"
        return {"fp32": "fp32", "bf16": short, "fp16": short}


@functools.cache
def detect_machine() -> Machine:
    """Looks at this machine once a process.

    CUDA counts only where an NVIDIA driver answers and the installed torch is built for it.
    """
    import psutil

    gpu = _query_gpu() if _torch_has_cuda() else None
    if gpu is not None:
        return gpu
    return Machine(
        device="cpu",
        name=_cpu_name(),
        driver="",
        memory=psutil.virtual_memory().total,
        bf16=_cpu_has_bf16(),
        cores=_cores(),
        threads=_threads(),
    )


def _query_gpu() -> Machine | None:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [row.split(", ") for row in answer.stdout.strip().splitlines()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    index = int(visible) if visible.isdigit() and int(visible) < len(rows) else 0
    if not rows or len(rows[index]) != 3:
        return None
    name, driver, memory = rows[index]
    mebibytes = int(re.sub(r"\D", "", memory) or 0)
    return Machine(
        device="cuda",
        name=name,
        driver=driver,
        memory=mebibytes * 2**20,
        bf16=True,
        cores=_cores(),
    )


def _torch_has_cuda() -> bool:
    """Reads torch's version file: importing torch takes two seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    version_file = Path(spec.submodule_search_locations[0]) / "version.py"
    try:
        text = version_file.read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _cpu_info(), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def cpu_repacks_4bit() -> bool:
    """Whether bitsandbytes repacks 4-bit weights in place here (CPUs with AVX512-BF16)."""
    return "avx512_bf16" in _cpu_flags()


def _cpu_has_bf16() -> bool:
    return bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> set[str]:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpu_info(), re.MULTILINE)
    return set(flags.group(1).split()) if flags else set()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(named) if named.isdigit() and int(named) > 0 else _cores()


def default_cache() -> Path:
    """The folder for converted and quantised weights and trained adapters.

    `EVALKIT_CACHE`, else the user's cache folder of this platform.
    """
    return Path(os.environ.get("EVALKIT_CACHE") or platformdirs.user_cache_dir("evalkit"))


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of these distributions; 'absent' for what is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
    # A package's own description is most of its metadata, and takes long to parse.
    line = re.search(r"^Version: *(\S+)", found.read_text("METADATA") or "", re.MULTILINE)
    return line.group(1) if line else found.version


def readable_bytes(count: int) -> str:
    """'24.0 GB': powers of ten, as memory in a suite is written."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
