"""The least that must be done for seven variants: imports, loads, full forward batches.

No text, no store, no losses of documents, no check, no report. Documents and chunks go through in
full batches, the task's sentences in batches of the size that the task is run with. Loads are the
cheapest that give the right weights: the base is read once for each model that must not share it,
quantised once by each path that quantises, and an adapter goes onto a model that was just scored.

    python limit.py BASE ADAPTER SETTINGS

SETTINGS is a JSON object (dtype, tokens; sentences, the tokens of each).
"""

import json
import sys

import torch
from field_variant import dequantized, load, saved_and_quantized
from peft import PeftModel

BATCH, LENGTH = 16, 256
"""Rows of a batch, of a task's sentences too, and tokens of a full row."""


@torch.no_grad()
def forward(model, tokens, sentences):
    """Full batches of so many tokens in all and the sentences by length, with cross-entropies."""
    full, rest = divmod(-(-tokens // LENGTH), BATCH)
    shapes = [(BATCH, LENGTH)] * full + [(rest, LENGTH)] * (rest > 0)
    lengths = sorted(sentences, reverse=True)
    shapes += [(len(lengths[at : at + BATCH]), lengths[at]) for at in range(0, len(lengths), BATCH)]
    for rows, length in shapes:
        ids = torch.randint(0, 1000, (rows, length))
        for row, targets in zip(model(input_ids=ids, use_cache=False).logits, ids, strict=True):
            torch.nn.functional.cross_entropy(row.float(), targets).item()


def main():
    base, adapter, settings = sys.argv[1:]
    wanted = json.loads(settings)
    dtype, tokens = getattr(torch, wanted["dtype"]), wanted["tokens"]

    def score(model):
        forward(model.eval(), tokens, wanted["sentences"])
        return model

    def merge(model):
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()

    model = score(load(base, dtype))  # fp16
    score(saved_and_quantized(merge(model), dtype))  # fp16-merged-nf4
    model = score(load(base, dtype, quantized=True))  # nf4
    model = score(PeftModel.from_pretrained(model, adapter))  # nf4+adapter
    score(model.merge_and_unload())  # merged-4bit
    model = score(merge(dequantized(base, dtype)))  # dequant-merged
    score(saved_and_quantized(model, dtype))  # requantized


if __name__ == "__main__":
    main()
