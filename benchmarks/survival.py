"""What measuring survival takes beside building the variant that it is measured on.

The quickstart's base with a random adapter of its shape, on the four paths that merge it; seconds
are the processor's, and a ratio is of one variant, built and measured in one process:

    OMP_NUM_THREADS=1 python benchmarks/survival.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from measuring import ROOT

from evalkit import paths
from evalkit.machine import default_cache, detect_machine
from evalkit.sources import resolve_weights
from evalkit.suite import load_suite
from evalkit.weights.building import BuildContext
from evalkit.weights.integrity import measure_survival
from evalkit.weights.loading import prepare_base
from evalkit.weights.steps import build_variant

NF4 = {"quantize": {"type": "nf4", "double_quant": True}}
PATHS = {
    "merged-4bit": [NF4, {"attach": "random"}, "merge"],
    "dequant-merged": [NF4, "dequantize", {"attach": "random"}, "merge"],
    "requantized": [NF4, "dequantize", {"attach": "random"}, "merge", NF4],
    "fp16-merged-nf4": [{"attach": "random"}, "merge", NF4],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="times that each variant is built")
    given = parser.parse_args()
    cache, machine = default_cache(), detect_machine()
    source = resolve_weights(load_suite(ROOT / "suites" / "quickstart.yaml").model, cache)
    base = prepare_base(source, cache, on_progress=lambda progress: None)
    with tempfile.TemporaryDirectory() as folder:
        context = BuildContext(
            base=source,
            adapters={"random": random_adapter(base, Path(folder))},
            full=frozenset(),
            cache=cache,
            device=machine.device,
            device_map=None,
            effective_dtypes=machine.effective_dtypes(),
        )
        for name, steps in PATHS.items():
            path = paths.normalise(steps, dtype="fp16")
            took(path, context)  # what is kept is made, and libraries are imported
            ratios = [took(path, context) for _ in range(given.rounds)]
            print(f"{name:16} survival / build {statistics.median(ratios):.2f}", flush=True)


def took(path: paths.Path, context: BuildContext) -> float:
    """Processor time of measuring, as a multiple of that of building."""
    times = [time.process_time()]
    built = build_variant(path, context, job="", on_progress=lambda progress: None)
    times.append(time.process_time())
    measure_survival(path, built, context, job="", on_progress=lambda progress: None)
    times.append(time.process_time())
    return (times[2] - times[1]) / (times[1] - times[0])


def random_adapter(base: Path, folder: Path) -> Path:
    """LoRA of rank 16 on every linear layer, as small as training leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.05)
    wrapped.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
