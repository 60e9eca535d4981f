"""What a run records of its command line."""

from __future__ import annotations

from evalkit.cli.run import _recorded


def test_passwords_in_urls_are_not_recorded() -> None:
    recorded = _recorded(["postgresql+psycopg://me:s3cret@db/runs", "data.test=a.jsonl"])
    assert recorded[1] == "data.test=a.jsonl"
    assert "s3cret" not in recorded[0]
    assert "db/runs" in recorded[0]


def test_other_values_are_recorded_as_they_are() -> None:
    assert _recorded(True) is True
    assert _recorded(None) is None


def test_settings_that_only_sound_like_secrets_are_recorded_as_they_are() -> None:
    setting = "metrics.perplexity.tokens=8000"
    assert _recorded([setting]) == [setting]
