"""Texts as tokens: special tokens, chat templates, and which characters each token stands for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import DataError, ScoringError
from evalkit.records import Document
from evalkit.scoring.windows import TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ScoreOn = Literal["all", "completion"]

PROBE = (
    "The  quick brown fox, 3.14159 × 10²³; don't\n\n\tdef f(x): return x**2  # naïve café\r\n"
    "Привет, мир! こんにちは世界 你好 \U0001f600\u200d\U0001f680 مرحبا <|im_start|> </s> [INST]"
)
"""Text on which tokenizers that cut differently do so."""

_DIGESTS: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()
"""The digest of each tokenizer that is in use, and what it was in when that was taken."""


@dataclass(frozen=True, eq=False)
class TokenText:
    """A text, its tokens, and where each of them ends in it."""

    text: str
    ids: TokenIds
    """Shape (n,)."""
    ends: NDArray[np.int64] | None
    """Character behind each token, never falling, shape (n,); None where the tokenizer (a slow
    one) does not say."""
    tokenizer: PreTrainedTokenizerBase
    scored_from: int = 0
    """Tokens before this one are context only."""

    def span(self, first: int, stop: int) -> str:
        """The characters that tokens `first` to `stop` stand for.

        Spans side by side share no character and leave none out: white space between tokens goes
        to the one after it, a character cut over several tokens to the first.
        """
        if first == stop:
            return ""
        if self.ends is None:
            return str(self.tokenizer.decode(self.ids[first:stop].tolist()))
        begin = int(self.ends[first - 1]) if first else 0
        return self.text[begin : len(self.text) if stop == len(self.ids) else self.ends[stop - 1]]

    def pieces(self, first: int, stop: int) -> tuple[str, ...]:
        """The characters of each token; joined they are `span(first, stop)` for fast tokenizers."""
        return tuple(self.span(index, index + 1) for index in range(first, stop))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool, scored_from_character: int = 0
) -> TokenText:
    """Tokenise a text.

    Args:
        tokenizer: fast, or slow (then nothing is known about characters).
        text: any text.
        special: whether the tokenizer adds its special tokens (BOS) as it does by itself.
        scored_from_character: tokens with nothing of the text from here on are context only.
    """
    fast = bool(tokenizer.is_fast)
    encoded = tokenizer(
        text,
        add_special_tokens=special,
        return_offsets_mapping=fast,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = np.array(encoded["input_ids"], dtype=np.int64)
    if not fast:
        prompt = tokenizer(text[:scored_from_character], add_special_tokens=special, verbose=False)
        scored_from = len(prompt["input_ids"]) if scored_from_character else 0
        return TokenText(text, ids, None, tokenizer, scored_from)
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1])
    scored_from = int(np.searchsorted(ends, scored_from_character, side="right"))
    return TokenText(text, ids, ends, tokenizer, scored_from if scored_from_character else 0)


def tokenize_document(
    tokenizer: PreTrainedTokenizerBase, document: Document, score_on: ScoreOn
) -> TokenText:
    """Tokenise one document as the `documents` protocol scores it: no special tokens added.

    A rendered conversation that begins with the token that the protocol puts before every
    document does not get it twice.

    Raises:
        DataError: completions are to be scored, and the document has none.
    """
    text, boundary = render(tokenizer, document, score_on)
    tokens = tokenize(tokenizer, text, special=False, scored_from_character=boundary)
    doubled = document.messages is not None and tokens.ids[:1].tolist() == [prefix_token(tokenizer)]
    if not doubled:
        return tokens
    ends = None if tokens.ends is None else tokens.ends[1:]
    cut = 0 if tokens.ends is None else int(tokens.ends[0])
    return TokenText(
        text[cut:],
        tokens.ids[1:],
        None if ends is None else ends - cut,
        tokenizer,
        max(0, tokens.scored_from - 1),
    )


def render(
    tokenizer: PreTrainedTokenizerBase, document: Document, score_on: ScoreOn = "all"
) -> tuple[str, int]:
    """The document as one text, and the character from which it is scored.

    A prompt stands right before its completion, with nothing between them. Messages go through
    the tokenizer's chat template; of these, the completion is the last one of the assistant, and
    what follows it is left out.

    Raises:
        DataError: no prompt, no completion, no assistant's message, or no chat template.
    """
    if document.messages is not None:
        return _render_messages(tokenizer, document, score_on)
    if score_on == "all":
        return (document.prompt or "") + document.text, 0
    if document.prompt is None:
        raise DataError(
            f"document {document.id}: score_on: completion needs the data's columns "
            "'prompt' and 'completion', or 'messages'"
        )
    if not document.text:
        raise DataError(f"document {document.id}: its completion is empty")
    return document.prompt + document.text, len(document.prompt)


def _render_messages(
    tokenizer: PreTrainedTokenizerBase, document: Document, score_on: ScoreOn
) -> tuple[str, int]:
    if not tokenizer.chat_template:
        raise DataError(
            f"document {document.id} is a list of messages, and the model's tokenizer has no chat "
            "template to render them with"
        )
    messages = [{"role": role, "content": text} for role, text in document.messages or ()]
    if score_on == "all":
        return str(tokenizer.apply_chat_template(messages, tokenize=False)), 0
    replies = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not replies:
        raise DataError(f"document {document.id}: no message of the assistant to score")
    last = replies[-1]
    if not messages[last]["content"]:
        raise DataError(f"document {document.id}: its completion is empty")
    whole = str(tokenizer.apply_chat_template(messages[: last + 1], tokenize=False))
    prompt = str(
        tokenizer.apply_chat_template(messages[:last], tokenize=False, add_generation_prompt=True)
    )
    if not whole.startswith(prompt):
        raise DataError(
            f"document {document.id}: the chat template writes the messages before the reply "
            "differently once the reply is there; score_on: completion cannot tell them apart"
        )
    return whole, len(prompt)


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before every document: BOS, else EOS, as lm-eval takes it.

    Raises:
        ScoringError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ScoringError("the tokenizer has neither BOS nor EOS to put before a document")


def added_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """BOS, where the tokenizer puts it before a text by itself."""
    first = tokenizer("a")["input_ids"][:1]
    bos = tokenizer.bos_token_id
    return int(bos) if bos is not None and list(first) == [bos] else None


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What one token reads as by itself, such as ' the'.

    A part of a character reads as U+FFFD, and a number that is no token's (a model's vocabulary may
    be padded) as nothing.
    """
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    # SentencePiece writes a space before a word as this, and drops it where a text begins.
    begins_word = str(tokenizer.convert_ids_to_tokens(token)).startswith("▁")
    return f" {text}" if begins_word and not text.startswith(" ") else text


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """What two tokenizers must share to cut every text alike, however their files are written.

    The whole vocabulary, the special tokens, and what becomes of a text full of hard cases.
    """
    rest = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "probe": list(tokenizer(PROBE)["input_ids"]),
    }
    # Every score asks, and a vocabulary takes a tenth of a second.
    state = (len(tokenizer), rest)
    known = _DIGESTS.get(tokenizer)
    if known is None or known[0] != state:
        content = {"vocabulary": sorted(tokenizer.get_vocab().items()), **rest}
        known = state, hashlib.sha256(json.dumps(content).encode()).hexdigest()
        _DIGESTS[tokenizer] = known
    return known[1]
