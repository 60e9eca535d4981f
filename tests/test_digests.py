import hashlib
import os

import pytest

from evalkit import digests
from evalkit.errors import WeightsError


def test_a_file_digest_is_its_sha256_and_is_remembered(tmp_path, monkeypatch):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc" * 1000)
    expected = hashlib.sha256(b"abc" * 1000).hexdigest()
    assert digests.digest_file(file, tmp_path / "cache") == expected

    def never(*_args, **_kwargs):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(hashlib, "file_digest", never)
    assert digests.digest_file(file, tmp_path / "cache") == expected


def test_a_changed_file_is_read_again_even_at_the_same_size(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc")
    first = digests.digest_file(file, tmp_path / "cache")
    status = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert digests.digest_file(file, tmp_path / "cache") != first


def test_a_damaged_note_is_ignored(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc")
    first = digests.digest_file(file, tmp_path / "cache")
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    note.write_text("{")
    assert digests.digest_file(file, tmp_path / "cache") == first


def test_a_folder_digest_moves_with_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    files = [tmp_path / "a", tmp_path / "b"]
    cache = tmp_path / "cache"
    first = digests.digest_folder(tmp_path, files, cache)
    assert digests.digest_folder(tmp_path, reversed(files), cache) == first
    (tmp_path / "b").rename(tmp_path / "c")
    assert digests.digest_folder(tmp_path, [files[0], tmp_path / "c"], cache) != first


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(WeightsError, match="nowhere: cannot be read"):
        digests.digest_file(tmp_path / "nowhere", tmp_path)
