"""What scoring costs over the bare forward pass, and how far another batching moves perplexity.

On the quickstart's model and held-out topics, in bfloat16 where the CPU has it. Ratios within one
run, the two sides in turn:

    python benchmarks/scoring.py
"""

import statistics
import time
from pathlib import Path

import torch

from evalkit.corpora import load_corpus
from evalkit.machine import default_cache, detect_machine
from evalkit.scoring.forward import forward_losses, score_windows
from evalkit.scoring.layout import plan_layout
from evalkit.scoring.perplexity import score_perplexity
from evalkit.scoring.windows import batch_size
from evalkit.sources import resolve_weights
from evalkit.suite import load_suite
from evalkit.weights.loading import load_model, load_tokenizer, prepare_base, torch_dtype

SUITE = Path(__file__).resolve().parents[1] / "suites" / "quickstart.yaml"
ROUNDS = 5
BATCHES = (512, 1024, 2048, 4096, 8192)


def main():
    suite, cache = load_suite(SUITE), default_cache()
    spec, limit = suite.metrics.perplexity["perplexity"], suite.data["test"].max_tokens_per_document
    folder = prepare_base(resolve_weights(suite.model, cache), cache, on_progress=lambda tick: None)
    dtype = detect_machine().effective_dtypes()["bf16"]
    model = load_model(folder, dtype=torch_dtype(dtype), device_map={"": "cpu"})
    tokenizer = load_tokenizer(folder)
    corpus = load_corpus("test", suite.data["test"], cache=cache)
    layout = plan_layout(tokenizer, corpus, spec, limit)

    def bare():
        started = time.perf_counter()
        for batch in batches(layout.windows, spec.batch_tokens):
            longest = max(len(window.inputs) for window in batch)
            with torch.no_grad():
                model(
                    input_ids=torch.zeros((len(batch), longest), dtype=torch.long), use_cache=False
                )
        return time.perf_counter() - started

    def scored():
        started = time.perf_counter()
        for _ in score_windows(model, layout.windows, batch_tokens=spec.batch_tokens):
            pass
        return time.perf_counter() - started

    forward_losses(model, layout.windows[:1])
    bare()
    ratios = [scored() / bare() for _ in range(ROUNDS)]
    print(f"{layout.n_tokens} tokens in {len(layout.windows)} windows, {dtype}")
    print(f"scoring / bare forward: median {statistics.median(ratios):.3f} of {ROUNDS} rounds")

    def perplexity(batch_tokens):
        score = score_perplexity(
            model,
            tokenizer,
            corpus,
            spec.model_copy(update={"batch_tokens": batch_tokens}),
            metric="perplexity",
            max_tokens_per_document=limit,
            job="",
            on_progress=lambda tick: None,
        )
        return score.value

    alone = perplexity(1)
    for size in BATCHES:
        shift = perplexity(size) / alone - 1
        print(f"batches of {size:5} tokens: perplexity {shift:+.1e} against single windows")


def batches(windows, budget):
    todo = sorted(windows, key=lambda window: -len(window.inputs))
    while todo:
        candidates = todo[: max(1, budget // len(todo[0].inputs))]
        size = batch_size([len(window.inputs) for window in candidates], budget)
        yield todo[:size]
        todo = todo[size:]


if __name__ == "__main__":
    main()
