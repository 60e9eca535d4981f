"""The Guanaco comparison in small on real conversations: 30 training steps, 24 documents."""

import json
from pathlib import Path

import pytest

from evalkit.cli import run_command_line

pytestmark = [pytest.mark.real, pytest.mark.shared_data]
SUITE = Path(__file__).resolve().parents[2] / "suites" / "guanaco-smoke.yaml"


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, real_cache, shared_data):
    folder = tmp_path_factory.mktemp("guanaco-smoke")
    data = shared_data / "guanaco"
    code = run_command_line(
        [
            *("run", str(SUITE), "--cache", str(real_cache), "--db", str(folder / "runs.db")),
            *("--reports", str(folder / "reports"), "--json", str(folder / "run.json")),
            *("--set", f"data.train={data / 'train.jsonl'}"),
            *("--set", f"data.test={data / 'test.jsonl'}"),
            *("--set", "data.test.limit=24", "--set", "adapters.guanaco.training.steps=30"),
        ]
    )
    return code, json.loads((folder / "run.json").read_text(encoding="utf-8"))


def test_every_variant_is_scored(smoke):
    code, told = smoke
    assert code in {0, 1}
    assert {variant["status"] for variant in told["variants"].values()} == {"scored"}


def test_the_order_of_the_variants_is_that_of_the_published_comparison(smoke):
    values = {n: v["metrics"]["perplexity"]["value"] for n, v in smoke[1]["variants"].items()}
    assert values["nf4+adapter"] < values["fp16"] < values["nf4"]
    assert values["merged-4bit"] > values["nf4+adapter"] + 0.8 * (
        values["nf4"] - values["nf4+adapter"]
    )
    assert values["fp16-merged-nf4"] < values["merged-4bit"]
    assert values["dequant-merged"] == pytest.approx(values["nf4+adapter"], rel=0.01)


def test_conversations_are_the_clusters(smoke):
    for verdict in smoke[1]["verdicts"]:
        assert verdict["n_clusters"] < verdict["n_units"] == 24


def test_a_lost_adapter_is_seen_on_24_documents(smoke):
    by_variant = {v["variant"]: v for v in smoke[1]["verdicts"]}
    assert by_variant["merged-4bit"]["verdict"] == "REGRESSED"
    assert by_variant["merged-4bit"]["ok"]
