"""What variants wrote, side by side, with the first token at which each leaves the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.records import RunRecord, Sample
from evalkit.report import facts
from evalkit.report.words import clean

LONGEST_SAMPLE = 4_000
"""Characters of one text that the page shows."""


@dataclass(frozen=True)
class SampleText:
    """One variant's text, cut at the token that differs; printable."""

    name: str
    before: str
    mark: str
    """The first token that differs; empty where none does, or where the text ends there."""
    after: str
    remark: str
    """'the reference', 'as the reference', 'differs from token 12 on'."""


@dataclass(frozen=True)
class PromptCard:
    """What every variant wrote after one prompt."""

    prompt: str
    reference: str
    texts: tuple[SampleText, ...]


def prompt_cards(run: RunRecord) -> list[PromptCard]:
    """Generated samples, grouped by prompt."""
    prompts = dict.fromkeys(s.prompt for variant in run.variants for s in variant.samples)
    return [_card(run, prompt) for prompt in prompts]


def reference_sample(run: RunRecord, prompt: str) -> tuple[str, Sample] | None:
    """What the others' texts are compared with, and whose it is.

    The plain base weights' where they wrote one, else the first variant's that did.
    """
    plain = [variant for variant in run.variants if set(facts.verbs(variant.path)) == {"load"}]
    found = ((v.name, sample) for v in (*plain, *run.variants) for sample in v.samples)
    return next((pair for pair in found if pair[1].prompt == prompt), None)


def first_difference(sample: Sample, reference: Sample) -> int | None:
    """The index of the first token that differs, counted from 0.

    It is the length of the shorter text where that ends and the other goes on.

    Returns:
        None where all tokens are the same.
    """
    ours, theirs = sample.tokens, reference.tokens
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return index
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def token_span(text: str, tokens: Sequence[str], index: int) -> tuple[int, int] | None:
    """Where a token lies in the text that all of them make.

    Tokens were decoded one by one, so some lack the space before them that the text has, and those
    that end a text are not in it.

    Returns:
        None where the tokens before it do not make the beginning of the text: a letter may be
        spread over several tokens.
    """
    end = start = 0
    for token in tokens[: index + 1]:
        start = end
        if not text.startswith(token, start):
            while start < len(text) and text[start].isspace():
                start += 1
            token = token.strip()
            if start < len(text) and not text.startswith(token, start):
                return None
        if start == len(text):
            return start, start
        end = start + len(token)
    return start, end


# ----------------------------------------------------------------------------- cards


def _card(run: RunRecord, prompt: str) -> PromptCard:
    found = reference_sample(run, prompt)
    who, reference = found or ("", Sample(prompt, "", ()))
    texts = [
        _text(variant.name, sample, reference, is_reference=variant.name == who)
        for variant in run.variants
        for sample in variant.samples
        if sample.prompt == prompt
    ]
    return PromptCard(prompt, who, tuple(texts))


def _text(name: str, sample: Sample, reference: Sample, *, is_reference: bool) -> SampleText:
    index = None if is_reference else first_difference(sample, reference)
    if index is None:
        whole = clean(sample.text, longest=LONGEST_SAMPLE)
        return SampleText(name, whole, "", "", "reference" if is_reference else "the same")
    start, end = _span(sample, reference, index)
    remark = f"differs from token {index + 1} on"
    if start == len(sample.text):
        remark = f"ends after token {index}" if index else "is empty"
    while sample.text[start:end].strip() and sample.text[start].isspace():
        start += 1  # the space before a word is part of its token, and looks odd when it is marked
    before, mark, after = _within(sample.text, start, end)
    return SampleText(name, before, mark, after, remark)


def _span(sample: Sample, reference: Sample, index: int) -> tuple[int, int]:
    """Where the token lies; the first letter that differs where tokens do not make the text."""
    found = token_span(sample.text, sample.tokens, index) if index < len(sample.tokens) else None
    if found is not None:
        return found
    if index == len(sample.tokens):
        return len(sample.text), len(sample.text)
    pairs = enumerate(zip(sample.text, reference.text, strict=False))
    shorter = min(len(sample.text), len(reference.text))
    start = next((at for at, (one, other) in pairs if one != other), shorter)
    return start, min(start + 1, len(sample.text))


def _within(text: str, start: int, end: int) -> tuple[str, str, str]:
    """Three parts, printable, of `LONGEST_SAMPLE` characters together at most."""
    if start >= LONGEST_SAMPLE:
        return clean(text, longest=LONGEST_SAMPLE), "", ""
    end = min(end, LONGEST_SAMPLE)
    before, mark = clean(text[:start]), clean(text[start:end])
    return before, mark, clean(text[end:], longest=LONGEST_SAMPLE - end)
