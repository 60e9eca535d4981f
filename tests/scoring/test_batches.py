"""Batches: the same windows in another order and of another size give the same losses."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from evalkit.scoring import forward
from evalkit.scoring.forward import WindowScores
from evalkit.scoring.windows import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import LlamaForCausalLM

LENGTHS = (40, 7, 33, 64, 21, 64, 12, 50, 9)


def windows() -> list[Window]:
    generator = np.random.default_rng(0)
    made = []
    for index, length in enumerate(LENGTHS):
        ids = generator.integers(3, 320, length + 1).astype(np.int64)
        made.append(Window(ids[:-1], ids[1:], 0, 0, index))
    return made


def scored(
    model: LlamaForCausalLM, *, batch_tokens: int, longest_last: bool = False
) -> tuple[list[int], dict[int, NDArray[np.float32]]]:
    batches = forward.score_windows(
        model, windows(), batch_tokens=batch_tokens, longest_last=longest_last
    )
    found = list(itertools.chain.from_iterable(batches))
    return [index for index, _ in found], {index: scored.losses for index, scored in found}


def test_longest_last_takes_the_same_batches_from_behind(tiny_model: LlamaForCausalLM) -> None:
    order, first = scored(tiny_model, batch_tokens=128)
    turned, second = scored(tiny_model, batch_tokens=128, longest_last=True)
    assert LENGTHS[order[0]] == LENGTHS[turned[-1]] == 64
    assert LENGTHS[turned[0]] < 30
    assert sorted(order) == sorted(turned) == list(range(len(LENGTHS)))
    for index in order:
        assert first[index].tobytes() == second[index].tobytes()


def test_smaller_batches_move_next_to_nothing_in_float32(tiny_model: LlamaForCausalLM) -> None:
    _, first = scored(tiny_model, batch_tokens=512)
    _, second = scored(tiny_model, batch_tokens=64, longest_last=True)
    for index, losses in first.items():
        np.testing.assert_allclose(losses, second[index], rtol=0, atol=2e-5)


def test_the_output_layer_is_computed_for_targets_alone(
    tiny_model: LlamaForCausalLM,
) -> None:
    whole = windows()
    halves = [
        Window(w.inputs, w.targets[len(w.targets) // 2 :], 0, len(w.targets) // 2, w.unit)
        for w in whole
    ]
    shapes: list[int] = []
    watch = tiny_model.get_output_embeddings().register_forward_hook(
        lambda layer, inputs, logits: shapes.append(logits.shape[:2].numel())
    )
    try:
        every = forward.forward_losses(tiny_model, whole)
        some = forward.forward_losses(tiny_model, halves)
    finally:
        watch.remove()
    # With the body each row's last two positions go there, and are not looked at.
    few = 2 * len(whole)
    assert shapes == [few, sum(LENGTHS), few, sum(-(-n // 2) for n in LENGTHS)]
    for one, two in zip(every, some, strict=True):
        np.testing.assert_allclose(
            one.losses[len(one.losses) // 2 :], two.losses, rtol=0, atol=2e-5
        )


def test_out_of_memory_makes_smaller_batches_in_either_order(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = forward.forward_losses

    def small_memory(model: LlamaForCausalLM, batch: list[Window]) -> list[WindowScores]:
        sizes.append(len(batch) * max(len(window.inputs) for window in batch))
        if sizes[-1] > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return real(model, batch)

    _, wanted = scored(tiny_model, batch_tokens=64)
    monkeypatch.setattr(forward, "forward_losses", small_memory)
    for longest_last in (False, True):
        sizes.clear()
        order, found = scored(tiny_model, batch_tokens=512, longest_last=longest_last)
        assert max(sizes) > 100
        assert sorted(order) == list(range(len(LENGTHS)))
        for index, losses in found.items():
            np.testing.assert_allclose(losses, wanted[index], rtol=0, atol=2e-5)
