"""Peak memory of building and scoring variants, beside what `evalkit plan` estimates.

    python benchmarks/memory.py FOLDER ADAPTER [VARIANT ...] [--batch-tokens 4096]

FOLDER is a model as save_pretrained writes it, ADAPTER a LoRA adapter for it. A variant is one of
the presets' names. Each is measured in this process, one after the other: for a table run one at a
time. Linux only: its kernel keeps the peak (VmHWM), and forgets it on demand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from evalkit import paths
from evalkit.corpora.python_reference import topics
from evalkit.records import Corpus, Document
from evalkit.sources import resolve_weights
from evalkit.suite import ModelSpec, PerplexitySpec

ADAPTER = {"attach": "adapter"}
VARIANTS = {
    "fp16": ({"load": "fp16"},),
    "nf4": ({"quantize": "nf4"},),
    "nf4+adapter": ({"quantize": "nf4"}, ADAPTER),
    "merged-4bit": ({"quantize": "nf4"}, ADAPTER, "merge"),
    "dequant-merged": ({"quantize": "nf4"}, "dequantize", ADAPTER, "merge"),
    "requantized": ({"quantize": "nf4"}, "dequantize", ADAPTER, "merge", {"quantize": "nf4"}),
    "fp16-merged": ({"load": "fp16"}, ADAPTER, "merge"),
    "fp16-merged-nf4": ({"load": "fp16"}, ADAPTER, "merge", {"quantize": "nf4"}),
}
DTYPES = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"}


def status() -> dict[str, int]:
    """What the kernel says of this process's memory, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}


@dataclass
class Watch:
    """The most memory of our own (not mapped from a file) since it began, looked at 200 times/s."""

    peak: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, status()["RssAnon"])


def measure(name: str, folder: Path, adapter: Path, cache: Path, batch_tokens: int) -> dict:
    """Builds and scores a variant twice; the first time warms the libraries up."""
    from evalkit.scoring.perplexity import score_perplexity
    from evalkit.weights import memory
    from evalkit.weights.building import BuildContext
    from evalkit.weights.steps import build_variant

    path = paths.normalise(VARIANTS[name], dtype="fp16")
    context = BuildContext(
        base=resolve_weights(ModelSpec(source=str(folder)), cache),
        adapters={"adapter": adapter},
        full=frozenset(),
        cache=cache,
        device="cpu",
        device_map=None,
        effective_dtypes=DTYPES,
    )
    documents = tuple(
        Document(str(n), text) for n, text in enumerate(topics().values()) if len(text) > 5000
    )
    corpus = Corpus("topics", documents, "Python", "topics")
    length = min(512, batch_tokens)
    spec = PerplexitySpec(
        on="topics", max_length=length, tokens=batch_tokens, batch_tokens=batch_tokens
    )

    def score(built):
        score_perplexity(
            built.model, built.tokenizer, corpus, spec, metric="perplexity",
            max_tokens_per_document=None, job="", on_progress=lambda progress: None,
        )  # fmt: skip

    score(build_variant(path, context, job="", on_progress=lambda progress: None))
    memory.release_memory()
    floor = status()
    with Watch() as built_peak:
        built = build_variant(path, context, job="", on_progress=lambda progress: None)
    Path("/proc/self/clear_refs").write_text("5")
    score(built)
    scored = status()["VmHWM"] - floor["VmRSS"]
    estimated = memory.estimate_bytes(
        folder, path, effective_dtypes=DTYPES, batch_tokens=batch_tokens
    )
    return {
        "variant": name,
        "floor": floor["VmRSS"],
        "weights": built.facts["weight_bytes"],
        "build": built_peak.peak - floor["RssAnon"],
        "score": scored,
        "measured": max(built_peak.peak - floor["RssAnon"], scored),
        "estimated": estimated - memory._RUNTIME,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--batch-tokens", type=int, default=4096)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        for name in given.variants:
            found = measure(name, given.folder, given.adapter, Path(cache), given.batch_tokens)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
