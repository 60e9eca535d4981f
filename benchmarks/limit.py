"""The least that must be done for field.py's seven variants: imports, loads, full forward batches.

No text, no store, no losses of documents, no check, no report. Loads are the cheapest that give
the right weights: the base is read once for each model that must not share it, quantised once by
each path that quantises, and an adapter goes onto a model that was just scored.

    python limit.py BASE ADAPTER SETTINGS

SETTINGS is a JSON object (dtype, tokens).
"""

import json
import sys

import torch
from field_variant import dequantized, load, saved_and_quantized
from peft import PeftModel

BATCH, LENGTH = 16, 256


@torch.no_grad()
def forward(model, tokens):
    """Full batches of so many tokens in all, and the mean cross-entropy of each."""
    ids = torch.randint(0, 1000, (BATCH, LENGTH))
    rest = tokens
    while rest > 0:
        rows = min(BATCH, -(-rest // LENGTH))
        logits = model(input_ids=ids[:rows], use_cache=False).logits
        for row, targets in zip(logits, ids, strict=False):
            torch.nn.functional.cross_entropy(row.float(), targets).item()
        rest -= rows * LENGTH


def main():
    base, adapter, settings = sys.argv[1:]
    wanted = json.loads(settings)
    dtype, tokens = getattr(torch, wanted["dtype"]), wanted["tokens"]

    def score(model):
        forward(model.eval(), tokens)
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
