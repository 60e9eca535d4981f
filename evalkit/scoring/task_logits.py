"""Only the logits that a task's answers need: of a long prompt with short answers, few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.scoring.last_logits import last_logits, takes_kept

if TYPE_CHECKING:
    import torch


def needing_few_logits(base: type) -> Any:
    """lm-eval's model class, computing the output layer for the positions that are scored.

    lm-eval takes the logits of every position, and their log-softmax in float32, and then looks at
    those that predict the answer. Where prompts are long and answers short (the letters of a
    multiple-choice question), those two are a good part of the time. What is asked for is the end
    of each row, from the first position that any row of the batch is scored on; lm-eval's own
    indexing counts from the end and so stands. The batches, and what runs below the output layer,
    are lm-eval's.

    Args:
        base: `lm_eval.models.huggingface.HFLM`.
    """

    class FewLogits(base):  # type: ignore[misc]
        _longest_answer: int | None = None
        """Tokens of the longest continuation among the requests at hand."""

        def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
            self._longest_answer = max((len(request[2]) for request in requests), default=None)
            try:
                return super()._loglikelihood_tokens(requests, *args, **kwargs)
            finally:
                self._longest_answer = None

        def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            kept = self._kept(inps)
            if args or kwargs or not kept < inps.shape[1]:
                return super()._model_call(inps, *args, **kwargs)
            return last_logits(self.model, inps, kept)

        def _kept(self, inps: torch.Tensor) -> int:
            """How many positions at the end of a batch, of shape (rows, longest), are needed."""
            width = inps.shape[1]
            if self._longest_answer is None or not takes_kept(self.model):
                return width
            # lm-eval pads with zeros on the right. A token 0 that ends a row only keeps more.
            ends = (inps != 0).flip(1).int().argmax(1)
            padded = int(ends.max()) if bool((inps != 0).any(1).all()) else width
            return min(width, padded + self._longest_answer)

    return FewLogits
