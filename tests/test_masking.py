"""Credentials do not come out of evalkit."""

import pytest

from evalkit.errors import Problem, SuiteError, WeightsError
from evalkit.masking import masked, masked_json

HF = "hf_" + "a1B2c3D4" * 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/x", "https://***@host/x"),
        ("https:/me:pass@host/x", "https:/***@host/x"),
        (f"https://{HF}@host/x", "https://***@host/x"),
        (f"export HF_TOKEN={HF}", "export HF_TOKEN=***"),
        (f"in {HF}.", "in ***."),
        ("https://host/x?token=abc&v=1", "https://host/x?token=***&v=1"),
        ("https://host/x?X-Amz-Signature=abc", "https://host/x?X-Amz-Signature=***"),
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer ***"),
        ("ghp_" + "a" * 36, "***"),
        ("postgresql+psycopg://me:a:b/c@db/runs", "postgresql+psycopg://***@db/runs"),
    ],
)
def test_credentials_are_masked(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "owner/name@0123456789ab",
        "n_tokens=92",
        "max_tokens_per_document: 512",
        "https://host:8080/x",
        "see https://github.com/a/b/issues/1 (me@example.org)",
        "hf_transfer and hf_hub",
        "tokenizer=own",
        "mean-task sk-learn",
    ],
)
def test_other_text_stays(text):
    assert masked(text) == text


def test_secrets_of_the_environment_are_known_by_their_names(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correct horse battery")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    monkeypatch.setenv("TOKEN_FILE", "/run/secrets/token")
    monkeypatch.setenv("PLAIN_NAME", "no secret at all")
    assert masked("it is correct horse battery") == "it is ***"
    for text in ("a", "no secret at all", "/run/secrets/token"):
        assert masked(text) == text


def test_json_is_masked_at_every_depth():
    told = {"a": [f"x {HF}", 1, None], "b": {"c": ("https://me:pw@h",)}, "d": True}
    assert masked_json(told) == {"a": ["x ***", 1, None], "b": {"c": ["https://***@h"]}, "d": True}


def test_errors_mask_themselves():
    assert str(WeightsError(f"no {HF}")) == "no ***"
    error = SuiteError([Problem("s.yaml:1", "model", f"cannot be {HF}")])
    assert error.problems[0].what == "cannot be ***"
    assert HF not in str(error)
