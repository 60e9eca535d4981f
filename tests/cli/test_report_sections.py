"""What jobs record comes out of the store and into the reports: the whole line, on a tiny model."""

from __future__ import annotations

import json
import re

import pytest

from evalkit.cli import run_command_line

pytestmark = pytest.mark.system

SUITE = """\
name: tiny
model: {folder}
data: {{train: train.jsonl, test: test.jsonl}}
adapters:
  tuned:
    on: nf4
    data: train
    lora: {{r: 8, alpha: 16}}
    training: {{steps: 12, batch_size: 4, max_length: 64, learning_rate: 1e-2, seed: 0}}
variants: [fp16, nf4, nf4+adapter, merged-4bit]
metrics:
  perplexity: {{on: test, max_length: 64}}
  divergence: {{on: test, reference: fp16, max_length: 64}}
  samples: {{prompts: ["The model reads"], max_new_tokens: 8}}
gates:
  - {{metric: perplexity, variant: nf4+adapter, against: nf4, max_increase: 0%}}
"""


def test_divergence_survival_checks_and_samples_reach_every_report(
    tmp_path, tiny_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", "100")
    texts = ["The model reads the words one by one.", "A weight lies on a grid, and stays there."]
    for name, count in (("train", 48), ("test", 24)):
        rows = [json.dumps({"text": f"{texts[n % 2]} {name} {n}."}) for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "suite.yaml").write_text(SUITE.format(folder=tiny_folder))
    assert run_command_line(["run", "suite.yaml", "--json", "r.json", "--markdown", "r.md"]) == 0

    variants = json.loads((tmp_path / "r.json").read_text())["variants"]
    assert "divergence" not in variants["fp16"]["metrics"]
    assert variants["nf4+adapter"]["metrics"]["divergence"]["same_top"] <= 1
    detail = variants["merged-4bit"]["survival_detail"]
    assert detail["total"] == variants["merged-4bit"]["survival"]
    assert len(detail["by_layer"]) > 1
    assert "q_proj" in detail["by_kind"]
    checks = {name: [c["check"] for c in v["checks"]] for name, v in variants.items()}
    assert "finite" in checks["fp16"]
    assert checks["merged-4bit"][-1] == "merge"
    assert [s["prompt"] for s in variants["nf4"]["samples"]] == ["The model reads"]
    assert variants["fp16"]["samples"][0]["first_difference"] is None

    out = capsys.readouterr().out
    assert re.search(r"nats/token from fp16; ± standard error", out)
    page = next((tmp_path / "reports").glob("tiny/*/index.html")).read_text(encoding="utf-8")
    for heading in ("divergence", "survival", "checks", "samples"):
        assert f'<h2 id="{heading}">' in page
    markdown = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "How far predictions moved" in markdown
    assert "What merges kept of their adapters" in markdown
