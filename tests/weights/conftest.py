"""Tiny bases and adapters to walk paths with. bitsandbytes quantises them for real."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from evalkit import paths
from evalkit.records import Corpus, Document, Progress
from evalkit.sources import WeightsSource
from evalkit.suite import AdapterSpec, LoraSpec, TrainingSpec
from evalkit.weights.building import BuildContext, BuiltVariant
from evalkit.weights.steps import build_variant

IDS = [0, 17, 40, 99, 5, 210, 33, 64, 301, 12, 77, 150]
SENTENCES = (
    "The model reads the words and the words are scored one by one.",
    "A quantised weight lies on a grid; an adapter moves it a little.",
    "Perplexity is the exponential of the mean loss of every token.",
)


@dataclass
class Bench:
    """A base, a cache, adapters; builds paths on them in float32 and looks at the logits."""

    context: BuildContext
    ticks: list[Progress] = field(default_factory=list)

    def build(self, *steps: object) -> BuiltVariant:
        path = paths.normalise(steps, dtype="fp32")
        return build_variant(path, self.context, job="score tiny", on_progress=self.ticks.append)

    def logits(self, *steps: object) -> Any:
        return logits_of(self.build(*steps).model)

    def logits_of(self, model: Any) -> Any:
        return logits_of(model)

    def adding(self, **adapters: Path) -> Bench:
        return Bench(replace(self.context, adapters={**self.context.adapters, **adapters}))

    def make_adapter(self, out: Path, **fields: Any) -> Path:
        return make_adapter(self.context.base.folder, out, **fields)

    def corpus(self, *texts: str) -> Corpus:
        documents = tuple(Document(f"d{i}", text) for i, text in enumerate(texts or SENTENCES))
        return Corpus("train", documents, "three sentences", "digest")

    def recipe(
        self, *, on: tuple[object, ...] = ({"quantize": "nf4"},), lora: Any = None, **fields: Any
    ) -> AdapterSpec:
        full = fields.get("method") == "full"
        return AdapterSpec.model_construct(
            on_path=paths.normalise(on, dtype="fp32"),
            data="train",
            lora=None if full else LoraSpec(**{"r": 4, **(lora or {})}),
            training=TrainingSpec(
                **{"steps": 2, "max_length": 32, "learning_rate": 1e-3, **fields}
            ),
            from_=None,
            revision=None,
        )

    def train(self, spec: AdapterSpec, out: Path, corpus: Corpus | None = None) -> dict[str, Any]:
        from evalkit.weights.training import train_adapter

        return train_adapter(
            "small",
            spec,
            corpus or self.corpus(),
            self.context,
            out=out,
            job="train small",
            on_progress=self.ticks.append,
        )


def logits_of(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([IDS])).logits.float()


def make_adapter(base: Path, out: Path, *, scale: float = 0.02, **fields: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = {"r": 4, "lora_alpha": 4, "target_modules": "all-linear", **fields}
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **chosen))
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, scale)
    peft_model.save_pretrained(out, save_embedding_layers=False)
    return out


def context_for(folder: Path, cache: Path) -> BuildContext:
    source = WeightsSource(
        kind="folder",
        folder=folder,
        filename=None,
        origin=f"./{folder.name}",
        digest=folder.name,
        precision="safetensors float32",
    )
    return BuildContext(
        base=source,
        adapters={},
        full=frozenset(),
        cache=cache,
        device="cpu",
        device_map=None,
        effective_dtypes={"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"},
    )


@pytest.fixture(scope="session")
def tiny_adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA for the tiny Llama: seen in the logits, far under half a 4-bit step."""
    return make_adapter(tiny_folder, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def bench(tiny_folder: Path, tiny_adapter: Path, tmp_path: Path) -> Bench:
    return Bench(context_for(tiny_folder, tmp_path / "cache")).adding(small=tiny_adapter)


@pytest.fixture
def gpt2_bench(tiny_gpt2_folder: Path, tmp_path: Path) -> Bench:
    return Bench(context_for(tiny_gpt2_folder, tmp_path / "cache"))


@pytest.fixture
def tied_bench(bench: Bench, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Bench:
    """The bench with a base that has one table for input and output."""
    folder = tmp_path / "tied"
    tiny_model.config.tie_word_embeddings = True
    tiny_model.tie_weights()
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    base = replace(bench.context.base, folder=folder, digest="tied", origin="./tied")
    bench.context = replace(bench.context, base=base)
    return bench.adding(small=bench.make_adapter(tmp_path / "for-tied"))
