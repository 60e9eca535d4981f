"""Logits by pieces are the model's own, whatever the model does after its output layer."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from evalkit.scoring import logit_rows
from evalkit.scoring.logit_rows import measure_logits
from evalkit.scoring.windows import Window

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

PIECE = 7
CONTEXTS = ((12, 0), (5, 4), (20, 13), (1, 0))
"""Of each window its positions, and how many of them predict no target."""
SIZE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.4,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "gpt_neox": {},
    "falcon": {},
    "bloom": {},
    "phi": {},
    "mistral": {"sliding_window": 6},
    "qwen2": {},
    "qwen3": {},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"state_size": 4},
    "gemma2": {"final_logit_softcapping": 1.5, "sliding_window": 6, "head_dim": 16},
    "gemma3_text": {"final_logit_softcapping": 1.5, "sliding_window": 6, "head_dim": 16},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
ASKS_PARTS = {"opt"}
"""Its head asks the decoder inside its body, so its logits are whole."""


def model_of(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZE, **MODELS[kind]})
    return AutoModelForCausalLM.from_config(config).eval()


def windows() -> list[Window]:
    generator = np.random.default_rng(0)
    made = []
    for unit, (length, context) in enumerate(CONTEXTS):
        ids = generator.integers(3, 320, length + 1).astype(np.int64)
        made.append(Window(ids[:-1], ids[context + 1 :], 0, context, unit))
    return made


def by_pieces(
    model: Any, watch: Callable[[torch.Tensor], None] = lambda logits: None
) -> tuple[list[torch.Tensor], list[int]]:
    """Each window's logits, and how many rows each piece of one had."""
    sizes: list[int] = []

    def measure(place: int, rows: slice, logits: torch.Tensor) -> torch.Tensor:
        assert rows.stop - rows.start == len(logits)
        sizes.append(len(logits))
        watch(logits)
        return logits.clone()

    return [torch.cat(pieces) for pieces in measure_logits([model], windows(), measure)], sizes


def alone(model: Any) -> list[torch.Tensor]:
    """The same as the model gives them, one window at a time."""
    found = []
    with torch.no_grad():
        for window in windows():
            logits = model(input_ids=torch.from_numpy(window.inputs)[None], use_cache=False).logits
            found.append(logits[0, -len(window.targets) :])
    return found


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logit_rows, "LOGIT_ROWS", PIECE)


@pytest.mark.parametrize("kind", MODELS)
def test_they_are_what_the_model_says_of_a_window_alone(kind: str) -> None:
    model = model_of(kind)
    reached: list[int] = []

    def reach(_: Any, inputs: tuple[torch.Tensor]) -> None:
        reached.append(inputs[0].shape[:-1].numel())
        # What is not in one piece of memory takes ten times as long in bfloat16 on a CPU.
        assert inputs[0].is_contiguous()

    watch = model.get_output_embeddings().register_forward_pre_hook(reach)
    found, sizes = by_pieces(model)
    watch.remove()
    wanted = alone(model)
    for ours, theirs in zip(found, wanted, strict=True):
        # Some scale their logits down: 1e-5 of the largest.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    assert sizes == [7, 5, 1, 1, 6, 1]
    rows = len(CONTEXTS)
    assert reached == ([rows * 20] if kind in ASKS_PARTS else [rows * 2, PIECE, PIECE, PIECE])
    assert "forward" not in vars(model.base_model)


def test_what_follows_the_output_layer_is_in_them() -> None:
    """What makes the test above one: without them the logits would be others."""
    for kind, undone in (
        ("gemma2", {"final_logit_softcapping": None}),
        ("cohere", {"logit_scale": 1.0}),
        ("granite", {"logits_scaling": 1.0}),
    ):
        with_it, model = model_of(kind), model_of(kind)
        for name, value in undone.items():
            setattr(model.config, name, value)
            if hasattr(model, name):
                setattr(model, name, value)
        assert float((by_pieces(with_it)[0][0] - by_pieces(model)[0][0]).abs().max()) > 0.1


def test_an_adapter_is_in_them_also_on_the_output_layer(tiny_model: LlamaForCausalLM) -> None:
    from peft import LoraConfig, get_peft_model

    before = alone(tiny_model)
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = get_peft_model(tiny_model, lora).eval()
    for ours, theirs, base in zip(by_pieces(model)[0], alone(model), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert float((ours - base).abs().max()) > 0.1


def test_of_a_model_with_code_of_its_own_they_are_whole(tiny_model: LlamaForCausalLM) -> None:
    """Nobody knows what else its logits are made of."""

    class Own(type(tiny_model)):  # type: ignore[misc]
        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            output = super().forward(input_ids=input_ids, **inputs)
            output.logits = output.logits + input_ids[..., None].float()
            return output

    tiny_model.__class__ = Own
    for ours, theirs in zip(by_pieces(tiny_model)[0], alone(tiny_model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_piece_is_in_memory_at_a_time(tiny_model: LlamaForCausalLM) -> None:
    given: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    watch = tiny_model.get_output_embeddings().register_forward_pre_hook(
        lambda *_: alive.append(sum(ref() is not None for ref in given))
    )
    by_pieces(tiny_model, lambda logits: given.append(weakref.ref(logits)))
    watch.remove()
    assert len(given) == 6
    assert alive == [0] * 4  # with the body, and before each of three pieces


def test_a_model_that_failed_in_between_is_left_as_it_was(tiny_model: LlamaForCausalLM) -> None:
    def fail(logits: torch.Tensor) -> None:
        raise RuntimeError("can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate"):
        by_pieces(tiny_model, fail)
    real, tiny_model.model.embed_tokens.forward = tiny_model.model.embed_tokens.forward, fail
    with pytest.raises(RuntimeError, match="allocate"):
        by_pieces(tiny_model)
    tiny_model.model.embed_tokens.forward = real
    for ours, theirs in zip(by_pieces(tiny_model)[0], alone(tiny_model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_another_library_put_in_the_bodys_place_stays_there(
    tiny_model: LlamaForCausalLM,
) -> None:
    """As accelerate does, whose `forward` moves what a layer reads to the layer's device."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    wanted = alone(tiny_model)
    add_hook_to_module(tiny_model.model, ModelHook())
    theirs = vars(tiny_model.model)["forward"]
    found, _ = by_pieces(tiny_model)
    assert vars(tiny_model.model)["forward"] is theirs
    for ours, one in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-4, atol=1e-4)


def test_two_models_are_told_the_same_targets(tiny_model: LlamaForCausalLM) -> None:
    """Also where one of them gives its logits whole."""
    told: list[tuple[int, slice]] = []

    def measure(place: int, rows: slice, one: torch.Tensor, two: torch.Tensor) -> int:
        told.append((place, rows))
        assert len(one) == len(two) == rows.stop - rows.start
        return len(one)

    counts = measure_logits([tiny_model, model_of("opt")], windows(), measure)
    assert [sum(each) for each in counts] == [len(window.targets) for window in windows()]
    assert told[:2] == [(0, slice(0, 7)), (0, slice(7, 12))]
