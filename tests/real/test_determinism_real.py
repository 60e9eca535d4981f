"""Same suite, same machine, same numbers: real weights, twice from nothing."""

import json
from pathlib import Path

import pytest

from evalkit.cli import run_command_line

pytestmark = pytest.mark.real
QUICKSTART = Path(__file__).resolve().parents[2] / "suites" / "quickstart.yaml"
# Conversion, quantisation, training and merging, each once and as short as can be.
CHANGES = (
    *("variants=[fp16-merged-nf4]", "gates=[]", "metrics.divergence=null"),
    *("metrics.perplexity.tokens=1000", "adapters.reference.training.steps=2"),
)


def cold_run(folder: Path) -> tuple[float, bytes]:
    """Perplexity, and the adapter's tensors, of a run whose cache and store are new."""
    arguments = ["run", str(QUICKSTART), "--cache", str(folder), "--db", str(folder / "runs.db")]
    arguments += ["--reports", str(folder / "reports"), "--json", str(folder / "run.json")]
    assert run_command_line([*arguments, *(part for c in CHANGES for part in ("--set", c))]) == 0
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (adapter,) = folder.glob("adapters/*/adapter_model.safetensors")
    return told["variants"]["fp16-merged-nf4"]["metrics"]["perplexity"][
        "value"
    ], adapter.read_bytes()


def test_two_cold_runs_are_the_same_bits(
    real_source: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = (cold_run(tmp_path_factory.mktemp("cold")) for _ in range(2))
    assert second == first
