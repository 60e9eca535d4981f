"""Texts that a model writes on from fixed prompts, greedily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.errors import ScoringError
from evalkit.records import OnProgress, Progress, Sample
from evalkit.scoring.pairs import greedy_answer, reads_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite import SamplesSpec

PHASE = "samples"


def generate_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: SamplesSpec,
    *,
    job: str,
    on_progress: OnProgress,
) -> tuple[Sample, ...]:
    """Continue each prompt with the likeliest token, until EOS or `spec.max_new_tokens`.

    One prompt at a time: in a batch, padding would change low-precision results.

    Args:
        model: a causal language model on its device; left in eval mode.
        tokenizer: the model's.
        spec: the prompts and how far to go.
        job: the job's name, for progress.
        on_progress: told the prompts done.

    Raises:
        ScoringError: a prompt is longer than the model's positions allow, or has no tokens.
    """
    model.eval()
    stops = end_tokens(model, tokenizer)
    samples = []
    for number, prompt in enumerate(spec.prompts):
        on_progress(Progress(job, PHASE, number, len(spec.prompts)))
        ids = list(tokenizer(prompt)["input_ids"])
        _check_fit(model, prompt, ids, spec.max_new_tokens)
        write = greedy_answer if reads_pairs(model) else greedy_tokens
        new = write(model, ids, stops=stops, limit=spec.max_new_tokens)
        text = str(tokenizer.decode(new, skip_special_tokens=True))
        samples.append(Sample(prompt, text, tuple(str(tokenizer.decode([t])) for t in new)))
    on_progress(Progress(job, PHASE, len(spec.prompts), len(spec.prompts)))
    return tuple(samples)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a text: the checkpoint's, else the tokenizer's EOS."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = tokenizer.eos_token_id if own is None else own
    if ends is None:
        return frozenset()
    return frozenset(ends if isinstance(ends, list) else [ends])


def greedy_tokens(
    model: PreTrainedModel, ids: list[int], *, stops: frozenset[int], limit: int
) -> list[int]:
    """The likeliest next token, again and again; the one that ends the text is the last.

    Not `generate()`: it fills whatever is left unset from the checkpoint's generation config,
    which may sample, punish repetition or forbid tokens, so that variants would not be compared
    on what they find likeliest.

    Args:
        model: in eval mode.
        ids: the prompt, at least one token.
        stops: tokens after which to stop.
        limit: tokens to write at most.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    read = torch.tensor([ids], device=device)
    cache, new = None, list[int]()
    with torch.no_grad():
        while len(new) < limit:
            output = model(input_ids=read, past_key_values=cache, use_cache=True)
            new.append(int(output.logits[0, -1].argmax()))
            if new[-1] in stops:
                break
            cache = getattr(output, "past_key_values", None)
            read = torch.tensor([[new[-1]] if cache is not None else ids + new], device=device)
    return new


def _check_fit(model: PreTrainedModel, prompt: str, ids: list[int], limit: int) -> None:
    if not ids:
        raise ScoringError(f"prompt {prompt!r} has no tokens to go on from")
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and len(ids) + limit > positions:
        raise ScoringError(
            f"a prompt of {len(ids)} tokens and {limit} new ones are more than the model's "
            f"{positions} positions"
        )
