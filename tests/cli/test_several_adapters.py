"""One suite with several adapters: swapped on a base, stacked, exported; beside whole training."""

import json
from pathlib import Path

import pytest

from evalkit.cli import run_command_line

pytestmark = pytest.mark.system

TEXTS = (
    "The model reads the words and the words are scored one by one, and then again.",
    "A quantised weight lies on a grid; an adapter moves it a little, never more.",
    "Perplexity is the exponential of the mean loss of every token that is scored.",
)
SUITE = """\
name: several
model: {{source: {folder}, dtype: fp32}}
data:
  train: train.jsonl
  test: test.jsonl
adapters:
  one:
    on: nf4
    data: train
    lora: {{r: 8, alpha: 16}}
    training: {{steps: 8, batch_size: 4, max_length: 64, learning_rate: 1e-2}}
  two:
    on: nf4
    data: train
    lora: {{r: 4, target_modules: [q_proj, v_proj, down_proj], use_rslora: true}}
    training: {{steps: 4, batch_size: 4, max_length: 64, learning_rate: 3e-2, seed: 5}}
  sixteen:
    on: [load: bf16]
    data: train
    training: {{steps: 8, batch_size: 4, max_length: 64, learning_rate: 1e-2}}
  whole:
    on: [load: fp32]
    data: train
    training: {{method: full, steps: 8, batch_size: 4, max_length: 64, learning_rate: 3e-3}}
variants:
  - nf4
  - nf4+one
  - nf4+two
  - both: [quantize: nf4, attach: one, attach: two]
  - turned: [quantize: nf4, attach: two, attach: one]
  - bf16
  - bf16+sixteen
  - sixteen-merged: [load: bf16, attach: sixteen, merge]
  - fp32
  - whole: [load: fp32, attach: whole]
metrics:
  perplexity: {{on: test, max_length: 64}}
"""


@pytest.fixture
def workplace(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    for name, count in (("train", 8), ("test", 4)):
        rows = [{"text": f"{text} {name} {n}."} for n in range(count) for text in TEXTS]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("suite.yaml").write_text(SUITE.format(folder=tiny_folder))
    return tmp_path


def perplexities(*arguments):
    assert run_command_line(["run", "suite.yaml", "--json", "result.json", *arguments]) == 0
    told = json.loads(Path("result.json").read_text())["variants"]
    return {name: variant["metrics"]["perplexity"]["value"] for name, variant in told.items()}


def perplexity_of(folder):
    """Of an exported folder as transformers loads it, scored without evalkit's weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for row in Path("test.jsonl").read_text().splitlines():
        ids = [tokenizer.bos_token_id, *tokenizer(json.loads(row)["text"])["input_ids"]]
        with torch.inference_mode():
            # bitsandbytes puts 4-bit weights on a GPU, where there is one.
            seen = model(input_ids=torch.tensor([ids]).to(model.device)).logits
            logits = seen[0, :-1].cpu()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
        total, count = total + float(loss), count + len(ids) - 1
    return float(torch.tensor(total / count).exp())


def test_adapters_are_swapped_stacked_and_compared_with_whole_training(workplace, monkeypatch):
    seen = perplexities()
    assert len({round(seen[name], 6) for name in ("nf4", "nf4+one", "nf4+two", "both")}) == 4
    assert seen["nf4+one"] < 0.95 * seen["nf4"]
    assert seen["nf4+two"] != pytest.approx(seen["nf4"], rel=1e-3)
    assert seen["turned"] == pytest.approx(seen["both"], rel=1e-5), "the order does not matter"
    assert seen["bf16+sixteen"] < 0.95 * seen["bf16"]
    assert seen["sixteen-merged"] == pytest.approx(seen["bf16+sixteen"], rel=2e-2)
    assert seen["whole"] < 0.95 * seen["fp32"]

    assert run_command_line(["export", "both", "exported"]) == 0
    assert perplexity_of("exported") == pytest.approx(seen["both"], rel=1e-4)
    assert run_command_line(["export", "whole", "tuned"]) == 0
    assert perplexity_of("tuned") == pytest.approx(seen["whole"], rel=1e-4)

    # Beside others an adapter is what it is alone: nothing of a neighbour is left on the base.
    monkeypatch.setenv("EVALKIT_DB", str(workplace / "alone.db"))
    for name in ("one", "two"):
        alone = perplexities("--set", f"variants=[nf4, nf4+{name}]")
        assert alone["nf4"] == seen["nf4"]
        assert alone[f"nf4+{name}"] == seen[f"nf4+{name}"]
