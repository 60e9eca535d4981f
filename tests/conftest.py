"""Fixtures that many tests share: tiny random models and a tokenizer trained on the spot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from postgres import Server
    from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Runs of tests are no news to the CI system that runs the tests.
for _name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(_name, None)
# As evalkit.weights sets it: before the first import of torch, or never.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples each time, and no deadline: a first example may import half the world.
settings.register_profile("evalkit", deadline=None, derandomize=True, database=None)
settings.load_profile("evalkit")

SENTENCES = (
    "The model reads the words and the words are scored one by one.",
    "A quantised weight lies on a grid; an adapter moves it a little.",
    "Perplexity is the exponential of the mean loss of every token.",
    "Merging into four bits rounds the small change away.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(autouse=True)
def cheap_collections(request: pytest.FixtureRequest) -> None:
    """What libraries brought along is not looked through for garbage at every step of every path.

    Tests on the real model are left out: what is in memory by then would never be given back.
    """
    if request.node.get_closest_marker("real") is None:
        from evalkit.weights.memory import spare_libraries

        spare_libraries()


@pytest.fixture(scope="module")
def on_the_cpu() -> Iterator[None]:
    """Hides GPUs from a module's tests, and from the processes that they start."""
    from evalkit.machine import detect_machine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        detect_machine.cache_clear()
        yield
    detect_machine.cache_clear()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens: <s> 0, </s> 1, <pad> 2; adds no BOS by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def bos_tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokens, but BOS is put before every text, as Llama's tokenizer does."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def build_tiny_llama() -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        # Random weights of the default size predict nearly the same for every token.
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def build_tiny_gpt2() -> GPT2LMHeadModel:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=320,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """A random Llama in float32 of 100,000 parameters, new for each test, in eval mode."""
    return build_tiny_llama()


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast
) -> Path:
    """The tiny Llama and its tokenizer, saved as safetensors. Read only: tests share it."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    build_tiny_llama().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A random GPT-2 (Conv1D layers) with the same tokenizer. Read only: tests share it."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    build_tiny_gpt2().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; skips where it is not there."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: this test uses its real data")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this session's own; skips where none is installed."""
    from postgres import Server, newest_binaries

    binaries = newest_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server from version 15 on: apt-get install postgresql")
    server = Server(binaries)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated(postgres: Server) -> tuple[Server, str]:
    """The server, and the name of a database with a store that tests empty and use."""
    from evalkit.store import Store

    name = postgres.new_database()
    Store.open(postgres.url(name)).close()
    return postgres, name
