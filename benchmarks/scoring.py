"""What scoring costs over the bare forward pass, its peak memory, and what another batching moves.

On the quickstart's model and held-out topics, in bfloat16 where the CPU has it. The bare side runs
the forward pass over FULL batches, with the output layer and a float32 cross-entropy, the best
that a model can do on so many tokens; documents are of uneven length. In turn, ratios of tokens a
second of the processor's time, which other work on the machine moves least:

    python benchmarks/scoring.py [--batches]
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from measuring import ROOT, Goal, arguments_of, report

from evalkit.corpora import load_corpus
from evalkit.machine import default_cache, detect_machine
from evalkit.scoring.forward import PIECE, score_windows
from evalkit.scoring.layout import plan_layout
from evalkit.scoring.perplexity import score_perplexity
from evalkit.sources import resolve_weights
from evalkit.suite import load_suite
from evalkit.weights.loading import load_model, prepare_base, torch_dtype
from evalkit.weights.tokenizers import load_tokenizer

SUITE = ROOT / "suites" / "quickstart.yaml"
BATCHES = (512, 1024, 2048, 4096, 8192)
STEP = 32
"""Rows of the bare side's float32 cross-entropy at once: 16 to 64 are the fastest."""


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--batches", action="store_true", help="also how batches move perplexity")
    given = parser.parse_args()
    suite, cache = load_suite(SUITE), default_cache()
    spec, limit = suite.metrics.perplexity["perplexity"], suite.data["test"].max_tokens_per_document
    spec = spec.model_copy(update={"tokens": None})
    folder = prepare_base(resolve_weights(suite.model, cache), cache, on_progress=lambda tick: None)
    dtype = detect_machine().effective_dtypes()["bf16"]
    model = load_model(folder, dtype=torch_dtype(dtype), device_map={"": "cpu"})
    tokenizer = load_tokenizer(folder)
    corpus = load_corpus("test", suite.data["test"], cache=cache)
    windows = plan_layout(tokenizer, corpus, spec, limit).windows
    n_tokens = sum(len(window.inputs) for window in windows)

    def bare() -> float:
        return full_batches(model, n_tokens, spec.batch_tokens, spec.max_length)

    def scored() -> float:
        started = time.process_time()
        for _ in score_windows(model, windows, batch_tokens=spec.batch_tokens):
            pass
        return time.process_time() - started

    def perplexity(batch_tokens: int) -> float:
        score = score_perplexity(
            model,
            tokenizer,
            corpus,
            spec.model_copy(update={"batch_tokens": batch_tokens, "tokens": 8000}),
            metric="perplexity",
            max_tokens_per_document=limit,
            job="",
            on_progress=lambda tick: None,
        )
        return score.value

    full_batches(model, spec.batch_tokens, spec.batch_tokens, spec.max_length)
    shares = [bare() / scored() for _ in range(given.rounds)]
    share = statistics.median(shares)
    above = peak_above(scored)
    logits = spec.batch_tokens * model.config.vocab_size * model.lm_head.weight.element_size()
    forward = peak_above(lambda: full_forward(model, spec.batch_tokens, spec.max_length))
    extra = (above - forward) / logits
    goals = [
        Goal("tokens a processor second, scored / bare forward over full batches", "at least 0.95",
             f"{share:.3f}", share >= 0.95),
        Goal("memory beyond a forward pass / one batch of logits", "at most 0.25",
             f"{extra:.2f}", extra <= 0.25),
    ]  # fmt: skip
    lengths = [len(window.inputs) for window in windows]
    notes = [
        f"{n_tokens} tokens in {len(windows)} windows of {min(lengths)} to {max(lengths)}, {dtype}",
        f"rounds: {', '.join(f'{value:.3f}' for value in shares)}",
        f"a batch of logits {logits / 2**20:.0f} MiB; peak above the model {above / 2**20:.0f} MiB "
        f"scored, {forward / 2**20:.0f} MiB in a bare forward pass; float32 "
        f"{4 * PIECE['cpu'] / 2**20:.0f} MiB at a time",
    ]
    if given.batches:
        alone = perplexity(1)
        for size in BATCHES:
            shift = perplexity(size) / alone - 1
            notes.append(f"batches of {size:5} tokens: perplexity {shift:+.1e} to single windows")
    report("Scoring beside the bare forward pass", goals, notes, given.json)


@torch.no_grad()
def full_forward(model: Any, tokens: int, length: int) -> torch.Tensor:
    """One full batch's logits, shape (tokens, vocabulary)."""
    ids = torch.randint(0, 1000, (tokens // length, length))
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1)


def full_batches(model: Any, n_tokens: int, budget: int, length: int) -> float:
    """Processor seconds of forward passes and cross-entropies of so many tokens, no row padded."""
    rest = n_tokens
    seconds = 0.0
    while rest > 0:
        tokens = min(budget, -(-rest // length) * length)
        started = time.process_time()
        logits = full_forward(model, tokens, length)
        targets = torch.zeros(len(logits), dtype=torch.long)
        for rows, wanted in zip(logits.split(STEP), targets.split(STEP), strict=True):
            torch.nn.functional.cross_entropy(rows.float(), wanted, reduction="none")
        # The last batch is rounded up to whole rows: it counts by its tokens.
        seconds += (time.process_time() - started) * min(tokens, rest) / tokens
        rest -= tokens
    return seconds


def peak_above(work: Callable[[], object]) -> int:
    """By how many bytes the process grows, at most, while this runs."""
    process, done = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return highest - before


if __name__ == "__main__":
    main()
