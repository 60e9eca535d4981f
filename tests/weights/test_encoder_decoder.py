"""Encoder–decoder models along the whole line: quantised, fine-tuned, merged, scored, exported."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from evalkit.errors import DataError, TrainingError
from evalkit.records import Corpus, Document
from evalkit.scoring.perplexity import score_perplexity
from evalkit.scoring.samples import generate_samples
from evalkit.suite import PerplexitySpec, SamplesSpec
from evalkit.weights import quantization
from evalkit.weights.export import save_variant

NF4 = {"quantize": "nf4"}
GROUP4 = {"quantize": {"type": "group4", "group_size": 16}}
FP32 = {"load": "fp32"}
ATTACH = {"attach": "small"}
PAIRS = (
    ("Say who reads:", "The model reads the words."),
    ("What lies on a grid, and what moves it a little?", "A quantised weight."),
    ("Perplexity?", "The exponential of the mean loss of every token."),
)
SPEC = PerplexitySpec(on="test", protocol="documents", score_on="completion", max_length=64)


@pytest.fixture(scope="session")
def eos_tokenizer(tiny_tokenizer):
    """The tiny tokenizer, ending every text with EOS, as T5's does."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory, eos_tokenizer):
    """A random T5 with gated layers (as flan-t5 has), and its tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=320,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=2,
        eos_token_id=1,
        decoder_start_token_id=2,
        initializer_factor=1.0,
    )
    folder = tmp_path_factory.mktemp("tiny-t5")
    T5ForConditionalGeneration(config).eval().save_pretrained(folder)
    eos_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def t5(t5_folder, bench, tmp_path):
    from dataclasses import replace

    base = replace(bench.context.base, folder=t5_folder, digest="t5", origin="./tiny-t5")
    bench.context = replace(bench.context, base=base, adapters={})
    return bench


def corpus(*pairs):
    documents = (Document(f"d{i}", text, prompt=prompt) for i, (prompt, text) in enumerate(pairs))
    return Corpus("test", tuple(documents), "pairs", "digest")


def score(built, spec=SPEC, data=None, cap=None):
    return score_perplexity(
        built.model,
        built.tokenizer,
        data or corpus(*PAIRS),
        spec,
        metric="perplexity",
        max_tokens_per_document=cap,
        job="score",
        on_progress=lambda progress: None,
    )


def losses_of_transformers(built):
    """Sum and count of each pair, one at a time, by the loss that transformers computes."""
    for prompt, text in PAIRS:
        source = built.tokenizer(prompt, return_tensors="pt")
        labels = built.tokenizer(text_target=text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = built.model(**source, labels=labels).loss
        yield float(loss) * labels.numel(), labels.numel()


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_perplexity_is_that_of_the_target_given_the_source(t5, batch_tokens):
    built = t5.build(FP32)
    spec = SPEC.model_copy(update={"batch_tokens": batch_tokens})
    seen = score(built, spec)
    sums, counts = zip(*losses_of_transformers(built), strict=True)
    np.testing.assert_allclose(seen.sums, sums, rtol=1e-5)
    assert seen.counts.tolist() == list(counts)
    assert seen.value == pytest.approx(np.exp(sum(sums) / sum(counts)), rel=1e-5)
    assert seen.extra["n_bytes"] == sum(len(text.encode()) for _, text in PAIRS)
    assert seen.unit_ids == ("d0", "d1", "d2")


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_the_likeliest_tokens_are_those_of_the_decoder(t5, batch_tokens):
    built = t5.build(FP32)
    kept = score(built, SPEC.model_copy(update={"batch_tokens": batch_tokens})).token_losses
    for part, (prompt, text) in zip(kept, PAIRS, strict=True):
        source = built.tokenizer(prompt, return_tensors="pt")
        labels = built.tokenizer(text_target=text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = built.model(**source, labels=labels).logits[0].double()
        wanted = torch.softmax(logits, -1).max(-1)
        texts = [built.tokenizer.decode([token]) for token in wanted.indices.tolist()]
        assert part.top_tokens == tuple(texts)
        np.testing.assert_allclose(part.top_probabilities, wanted.values, rtol=1e-5)


def test_the_source_is_read(t5):
    built = t5.build(FP32)
    other = corpus(*(("Something else", text) for _, text in PAIRS))
    assert score(built, data=other).value != pytest.approx(score(built).value, rel=1e-4)


def test_caps_count_targets(t5):
    built = t5.build(FP32)
    assert score(built, cap=5).counts.tolist() == [5, 5, 5]
    assert score(built, SPEC.model_copy(update={"tokens": 12})).counts.sum() == 12


@pytest.mark.parametrize(
    ("spec", "data", "message"),
    [
        ({"score_on": "all"}, None, "say 'protocol: documents' and 'score_on: completion'"),
        ({"max_length": 8}, None, "its prompt has .* tokens, where max_length allows 1 to 8"),
        ({}, Corpus("test", (Document("a", "text"),), "", ""), "needs the data's columns"),
        ({}, corpus(("Say it", "")), "its completion is empty"),
    ],
)
def test_what_is_no_pair_is_refused(t5, spec, data, message):
    with pytest.raises(DataError, match=message):
        score(t5.build(FP32), SPEC.model_copy(update=spec), data)


def test_samples_are_what_generate_writes(t5):
    built = t5.build(FP32)
    spec = SamplesSpec(prompts=("Say who reads:", "Perplexity?"), max_new_tokens=8)
    samples = generate_samples(
        built.model, built.tokenizer, spec, job="score", on_progress=lambda progress: None
    )
    for sample in samples:
        ids = built.tokenizer(sample.prompt, return_tensors="pt")["input_ids"]
        written = built.model.generate(ids, do_sample=False, max_new_tokens=8)[0, 1:]
        assert sample.tokens == tuple(built.tokenizer.decode([token]) for token in written)


TORCHAO = pytest.param(
    {"quantize": "torchao-int8"},
    marks=pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao"),
)


@pytest.mark.parametrize(
    "step", [NF4, {"quantize": "fp4"}, GROUP4, {"quantize": "int8"}, TORCHAO], ids=str
)
def test_what_transformers_keeps_is_kept(t5, step):
    built = t5.build(step)
    names = quantization.quantized_layers(built.model)
    assert any("encoder" in name for name in names)
    assert any("EncDecAttention" in name for name in names)
    assert not any(name.endswith((".wo", "lm_head")) for name in names)
    assert score(built).value != pytest.approx(score(t5.build(FP32)).value, rel=1e-6)
    assert score(t5.build(step)).value == score(built).value


def test_qlora_is_trained_merged_and_exported(t5, tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    spec = t5.recipe(steps=12, learning_rate=2e-2)
    facts = t5.train(spec, tmp_path / "out", corpus(*PAIRS))
    losses = [loss for _, loss in facts["losses"]]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert facts["tokens"] > 100
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    trained = t5.adding(small=tmp_path / "out")
    base, attached = score(trained.build(NF4)).value, score(trained.build(NF4, ATTACH)).value
    assert attached < 0.9 * base
    merged = trained.build(NF4, "dequantize", ATTACH, "merge")
    assert score(merged).value == pytest.approx(attached, rel=1e-3)
    save_variant(merged, tmp_path / "saved")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    expected = score(merged).value
    merged.model = again.eval()
    assert score(merged).value == expected


def test_qa_lora_merges_exactly_here_too(t5, tmp_path):
    lora = {"flavour": "qa-lora", "target_modules": ["q", "k", "v", "o", "wi_0", "wi_1"]}
    spec = t5.recipe(on=(GROUP4,), lora=lora, steps=8, learning_rate=2e-2)
    t5.train(spec, tmp_path / "out", corpus(*PAIRS))
    trained = t5.adding(small=tmp_path / "out")
    base, attached = score(trained.build(GROUP4)), score(trained.build(GROUP4, ATTACH))
    assert attached.value < 0.95 * base.value
    merged = score(trained.build(GROUP4, ATTACH, "merge"))
    np.testing.assert_allclose(merged.sums, attached.sums, rtol=1e-5)


def test_training_needs_pairs_that_are_not_packed(t5, tmp_path):
    with pytest.raises(TrainingError, match="document d0 has no prompt"):
        t5.train(t5.recipe(), tmp_path / "out")
    with pytest.raises(TrainingError, match="are not packed"):
        t5.train(t5.recipe(packing=True), tmp_path / "out", corpus(*PAIRS))


def test_samples_are_written_with_an_adapter_on_top_too(t5, tmp_path):
    t5.train(t5.recipe(steps=4, learning_rate=5e-2), tmp_path / "out", corpus(*PAIRS))
    trained = t5.adding(small=tmp_path / "out")
    spec = SamplesSpec(prompts=("Say who reads:",), max_new_tokens=8)
    written = [
        generate_samples(
            built.model, built.tokenizer, spec, job="score", on_progress=lambda progress: None
        )
        for built in (trained.build(NF4), trained.build(NF4, ATTACH))
    ]
    assert written[0] != written[1]


def test_its_memory_is_estimated(t5_folder):
    from evalkit import paths
    from evalkit.weights import memory
    from evalkit.weights.adapters import meta_model

    sizes = memory.model_sizes(meta_model(t5_folder))
    path = paths.normalise([NF4], dtype="fp32")
    estimated = memory.estimate_bytes(t5_folder, path, effective_dtypes={}, batch_tokens=64)
    assert estimated > 4 * sizes.other + sizes.linear // 2
