import shutil

import pytest

from evalkit.weights.tokenizers import load_tokenizer


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_variants_share_what_was_read_once(folder):
    assert load_tokenizer(folder) is load_tokenizer(folder)


def test_another_file_is_another_tokenizer(folder):
    before = load_tokenizer(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    after = load_tokenizer(folder)
    assert after is not before
    assert after.chat_template != before.chat_template
    weights = folder / "model.safetensors"
    weights.touch()
    assert load_tokenizer(folder) is after, "no tokenizer is read out of the weights"
