"""Corpora: every format, the built-in split, and each way a corpus can be unusable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from evalkit.corpora import load_corpus, python_reference
from evalkit.errors import DataError, NetworkError
from evalkit.records import Corpus
from evalkit.suite import DataSpec


def load(tmp_path: Path, dataset: object, **fields: object) -> Corpus:
    spec = DataSpec(dataset=str(dataset), **fields)
    return load_corpus("test", spec, cache=tmp_path / "cache")


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ----------------------------------------------------------------------------- formats


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": 'One,\n"two" – drei\u2028vier.'}, {"text": "Zwei."}, {"text": "Trois."}]
    write_jsonl(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    quoted = rows[0]["text"].replace('"', '""')
    (tmp_path / "a.csv").write_text(
        f'number,text\n1,"{quoted}"\n2,Zwei.\n3,Trois.\n', encoding="utf-8", newline=""
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n\n".join(row["text"] for row in rows), encoding="utf-8")
    corpora = [
        load(tmp_path, tmp_path / f"a.{s}") for s in ("jsonl", "json", "csv", "parquet", "txt")
    ]
    assert [document.text for document in corpora[0].documents] == [row["text"] for row in rows]
    assert len({corpus.digest for corpus in corpora}) == 1
    assert len({document.id for document in corpora[0].documents}) == 3


@pytest.mark.parametrize(
    "text", ["a\nb\n\nc", "a\n\n\nb\n\n\n\nc\n", "\n\na", " \n = T = \n \n x \n\ny\n\n", "a"]
)
def test_a_text_files_documents_joined_again_are_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    documents = load(tmp_path, tmp_path / "a.txt").documents
    assert "\n\n".join(document.text for document in documents) == text


def test_a_run_of_blank_lines_makes_no_empty_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n\n\n\n\nb")
    texts = [document.text for document in load(tmp_path, tmp_path / "a.txt").documents]
    assert texts == ["a\n\n\n", "b"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert load(tmp_path, tmp_path / "a.txt").documents[0].text == "hello"


def test_a_csv_field_longer_than_pythons_default_limit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\n")
    assert len(load(tmp_path, tmp_path / "a.csv").documents[0].text) == 200_000


def test_local_files_do_not_import_datasets_or_torch(tmp_path: Path) -> None:
    import subprocess

    path = write_jsonl(tmp_path / "a.jsonl", {"text": "x"})
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as S;"
        "from evalkit.corpora import load_corpus;"
        f"load_corpus('a', S(dataset={str(path)!r}, split=None, config=None, revision=None,"
        "limit=None, text='text', prompt=None, completion=None, messages=None, cluster=None),"
        "cache=Path('.')); print(sorted({'datasets', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ----------------------------------------------------------------------------- columns


def test_prompt_and_completion_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"q": "2+2=", "a": "4", "text": "not this"})
    (document,) = load(tmp_path, path, prompt="q", completion="a").documents
    assert (document.prompt, document.text, document.messages) == ("2+2=", "4", None)


def test_messages_column(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    path = write_jsonl(tmp_path / "a.jsonl", {"chat": messages})
    (document,) = load(tmp_path, path, messages="chat").documents
    assert document.messages == (("user", "hi"), ("assistant", "yo"))


def test_clusters_are_names_and_part_of_the_digest(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"text": "x", "c": 7}, {"text": "y", "c": "seven"})
    clustered = load(tmp_path, path, cluster="c")
    assert [document.cluster for document in clustered.documents] == ["7", "seven"]
    assert clustered.digest != load(tmp_path, path).digest
    assert [d.id for d in clustered.documents] == [d.id for d in load(tmp_path, path).documents]


def test_equal_documents_get_ids_of_their_own(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", *[{"text": "same"}] * 3, {"text": "other"})
    ids = [document.id for document in load(tmp_path, path).documents]
    assert ids[1:3] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert len(set(ids)) == 4


def test_limit_takes_the_first_and_moves_the_digest(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y"}, {"text": "z"})
    whole, first = load(tmp_path, path), load(tmp_path, path, limit=2)
    assert [document.text for document in first.documents] == ["x", "y"]
    assert first.digest != whole.digest
    assert "the first 2 of 3 documents" in first.origin
    assert "3 documents" in whole.origin


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', r"a\.jsonl:3: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', r"a\.jsonl:2: not a JSON object"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y", "n": 1}\n', r":2: no column 'text'.*body, n"),
        ("a.jsonl", b'{"text": "x"}\n{"text": null}\n', r":2: column 'text' is empty \(null\)"),
        ("a.jsonl", b'{"text": 12}\n', r":1: column 'text' is 12, not text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", b"", "no text in it"),
        ("a.jsonl", b'{"text": " "}\n{"text": ""}\n', "no text in it: 2 documents"),
        ("a.txt", b"\n\n\n", "no text in it"),
        ("a.json", b'[{"text": "x"},\n oops]', r"a\.json:2: not JSON"),
        ("a.json", b'{"text": "x"}', "not a list of JSON objects"),
        ("a.csv", b'text\n"x\n', r"a\.csv:\d: not CSV"),
        ("a.csv", b"text\nx,y\n", r"a\.csv:2: more fields"),
        ("a.parquet", b"PAR1 no", "not Parquet"),
        ("a.xml", b"<a/>", r"cannot read .*a\.xml \(allowed: files \.jsonl \.json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path, tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        load(tmp_path, tmp_path / "none.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        load(tmp_path, tmp_path)


def test_bad_messages(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"chat": [{"from": "user", "value": "hi"}]})
    with pytest.raises(DataError, match="'role' and 'content'"):
        load(tmp_path, path, messages="chat")
    path = write_jsonl(tmp_path / "a.jsonl", {"chat": "hi"})
    with pytest.raises(DataError, match="not a list of messages"):
        load(tmp_path, path, messages="chat")


def test_a_missing_cluster_is_an_error(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"text": "x", "c": None})
    with pytest.raises(DataError, match=r"cluster column 'c' is empty"):
        load(tmp_path, path, cluster="c")


def test_a_hub_dataset_without_a_network_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    import datasets.config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    started = time.monotonic()
    with pytest.raises(NetworkError, match=r"nobody/nothing.*--set data\.test=FILE"):
        load(tmp_path, "nobody/nothing", split="test")
    assert time.monotonic() - started < 10


def test_an_unreachable_hub_is_a_network_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port on which nobody listens: a real refused connection, and no name look-up."""
    import socket

    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(NetworkError, match="refused"):
        load(tmp_path, "nobody/nothing", split="test")


# ----------------------------------------------------------------------------- built in


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    folder = tmp_path_factory.mktemp("builtin")
    return {
        split: load(folder, "builtin:python-reference", split=split) for split in ("train", "test")
    }


def test_the_builtin_split_is_large_enough(reference: dict[str, Corpus]) -> None:
    assert len(reference["test"].documents) >= 40
    assert sum(len(document.text) for document in reference["train"].documents) >= 120_000
    total = sum(len(corpus.documents) for corpus in reference.values())
    assert total == len(python_reference.topics())


def test_no_held_out_topic_quotes_a_training_topic(reference: dict[str, Corpus]) -> None:
    train = [python_reference.long_lines(d.text) for d in reference["train"].documents]
    for document in reference["test"].documents:
        mine = python_reference.long_lines(document.text)
        assert max(len(mine & lines) for lines in train) < python_reference.MIN_SHARED


def test_topics_that_quote_each_other_are_one_cluster() -> None:
    copied = "\n".join(
        f"    This long line, number {n}, is told in two topics alike." for n in "123"
    )
    texts = {"b": copied, "a": f"Before.\n{copied}\nAfter.", "c": copied[:130], "d": "short\n" * 9}
    assert python_reference.families(texts) == [("a", "b"), ("c",), ("d",)]


def test_clusters_do_not_cross_the_builtin_split(reference: dict[str, Corpus]) -> None:
    clusters = {s: {d.cluster for d in corpus.documents} for s, corpus in reference.items()}
    assert not clusters["train"] & clusters["test"]
    assert None not in clusters["test"]
    assert len(clusters["test"]) >= 30


def test_the_builtin_corpus_is_the_same_each_time_and_names_python(
    tmp_path: Path, reference: dict[str, Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = load(tmp_path, "builtin:python-reference", split="test")
    assert again == reference["test"]
    version = python_reference.python_version()
    assert version in again.origin
    assert f"of {len(python_reference.topics())} topics" in again.origin
    monkeypatch.setattr(python_reference, "python_version", lambda: "Python 3.99.0")
    assert load(tmp_path, "builtin:python-reference", split="test").digest != again.digest


def test_unknown_builtins_and_splits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="allowed: builtin:python-reference"):
        load(tmp_path, "builtin:pyton")
    with pytest.raises(DataError, match="allowed: train, test"):
        load(tmp_path, "builtin:python-reference", split="validation")


def test_a_python_without_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="carries no pydoc_data"):
        python_reference.topics()
