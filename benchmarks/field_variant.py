"""One variant as its user scores it today: a process that loads, merges, scores and prints.

Nothing of evalkit is imported. Loading and merging are those of the documentation of transformers
and peft, the loops are the usual ones: one document at a time, and llama.cpp's chunks.
field.py starts it:

    python field_variant.py VARIANT BASE ADAPTER DOCUMENTS SETTINGS [FOLDER]

DOCUMENTS is a JSON list of texts; SETTINGS a JSON object (dtype, length, chunks). Where FOLDER is
given, the variant is saved there for lm_eval.
"""

import json
import math
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def four_bit(dtype):
    import bitsandbytes.nn.modules
    from transformers import BitsAndBytesConfig

    # Where the CPU has AVX512-BF16, 4-bit weights are otherwise repacked at the first forward
    # pass: a slightly different model, and slower here.
    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load(folder, dtype, quantized=False):
    extra = {"quantization_config": four_bit(dtype)} if quantized else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra)


def merged(model, adapter):
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def dequantized(base, dtype):
    model = load(base, dtype, quantized=True).dequantize(dtype=dtype)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model._weight_conversions = None  # else saving packs the weights again
    return model


def saved_and_quantized(model, dtype):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load(folder, dtype, quantized=True)


def with_adapter(model, adapter):
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter)


BUILD = {
    "fp16": lambda base, adapter, dtype: load(base, dtype),
    "nf4": lambda base, adapter, dtype: load(base, dtype, quantized=True),
    "nf4+adapter": lambda base, adapter, dtype: with_adapter(
        load(base, dtype, quantized=True), adapter
    ),
    "merged-4bit": lambda base, adapter, dtype: merged(load(base, dtype, quantized=True), adapter),
    "dequant-merged": lambda base, adapter, dtype: merged(dequantized(base, dtype), adapter),
    "requantized": lambda base, adapter, dtype: saved_and_quantized(
        merged(dequantized(base, dtype), adapter), dtype
    ),
    "fp16-merged-nf4": lambda base, adapter, dtype: saved_and_quantized(
        merged(load(base, dtype), adapter), dtype
    ),
}


@torch.no_grad()
def documents_perplexity(model, tokenizer, texts, length):
    """The mean loss of every token of the first `length` of each document, BOS before it."""
    nats = tokens = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:length]
        inputs = torch.tensor([[tokenizer.bos_token_id, *ids]])
        nats += model(input_ids=inputs, labels=inputs).loss.item() * len(ids)
        tokens += len(ids)
    return math.exp(nats / tokens)


@torch.no_grad()
def chunks_perplexity(model, tokenizer, texts, n_ctx, n_chunks):
    """llama-perplexity's: windows side by side, the second half of each is scored."""
    ids = torch.tensor(tokenizer("\n\n".join(texts))["input_ids"])
    losses = []
    for begin in range(0, n_ctx * n_chunks, n_ctx):
        chunk = ids[begin : begin + n_ctx]
        logits = model(input_ids=chunk[None]).logits[0, n_ctx // 2 : -1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, chunk[n_ctx // 2 + 1 :]))
    return math.exp(torch.stack(losses).mean().item())


def main():
    name, base, adapter, documents, settings = sys.argv[1:6]
    with open(documents, encoding="utf-8") as file:  # noqa: PTH123
        texts = json.load(file)
    wanted = json.loads(settings)
    dtype = getattr(torch, wanted["dtype"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = BUILD[name](base, adapter, dtype).eval()
    if len(sys.argv) > 6:
        model.save_pretrained(sys.argv[6])
        tokenizer.save_pretrained(sys.argv[6])
    found = {
        "perplexity/documents": documents_perplexity(model, tokenizer, texts, wanted["length"]),
        "perplexity/chunks": chunks_perplexity(
            model, tokenizer, texts, wanted["length"], wanted["chunks"]
        ),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
