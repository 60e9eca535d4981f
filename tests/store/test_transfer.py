"""Runs go out of one store and into another of any kind, whole, and are the same there."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from stored_runs import (
    GATES,
    JOB,
    PATH,
    SAMPLES,
    TRAINING,
    VERDICTS,
    assert_same_bits,
    make_score,
    result,
    start,
)  # fmt: skip

from evalkit.errors import EvalkitError, UsageError
from evalkit.records import JobRecord, NoiseFloor, VariantRecord
from evalkit.store import RepeatResult, Store, export_runs, import_runs, tables
from evalkit.store.documents import SCORE_PARTS
from evalkit.store.json_columns import from_json, to_json
from evalkit.store.run_files import FORMAT
from evalkit.store.tables import REVISIONS
from evalkit.store.transfer import KINDS


def fill(store: Store) -> list[str]:
    """Two runs with something in every table; the second reuses a score and the samples."""
    planned = [VariantRecord(name, PATH, None, "", None, {}) for name in ("fp16", "nf4")]
    first = start(store, variants=planned)
    store.record_training(first, TRAINING, reuse_key="recipe", content_digest="adapter")
    scores = {name: (f"key {name}", make_score(name)) for name in ("perplexity", "Task/acc")}
    store.record_variant(first, result("nf4", scores=scores, samples=SAMPLES, samples_key="texts"))
    again = JobRecord("score nf4 (seed 1)", "score", "done", 2.0)
    repeated = {"perplexity": ("repeat", make_score(seed=3))}
    store.record_repeat(first, RepeatResult("nf4", "seed", "seed 1", again, repeated))
    store.record_noise_floor("k", NoiseFloor("perplexity", 1e-4, -1e-5, "nf4", first, {"cpu": 1}))
    store.record_verdicts(first, VERDICTS)
    store.finish_run(first, seconds=1.5, exit_code=1)

    second = start(store)
    known, texts = store.find_score("key perplexity"), store.find_samples("texts")
    assert known is not None
    assert texts is not None
    job = dataclasses.replace(JOB, name="score nf4", reused_from=first)
    reused = {"reused": {"perplexity": known.id}, "reused_samples": texts.id}
    store.record_variant(second, result("nf4", job=job, **reused))
    return [first, second]


def rows(store: Store) -> dict[str, int]:
    with Session(store._engine) as session:
        return {
            name: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for name, table in tables.Base.metadata.tables.items()
        }


@pytest.fixture
def source(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "source.db"))


@pytest.fixture
def file(tmp_path: Path, source: Store) -> Path:
    """Both runs of a filled store."""
    fill(source)
    export_runs(source, None, tmp_path / "runs.jsonl.gz")
    return tmp_path / "runs.jsonl.gz"


def rewritten(file: Path, change) -> None:
    """Changes a file's lines and leaves its last one as it was."""
    lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    change(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    file.write_bytes(gzip.compress(text.encode()))


def test_every_table_travels_or_is_left_out_for_a_reason() -> None:
    with_the_run = {"jobs", "variants", "variant_scores", "repeats", "verdicts"}
    own_files = {"baselines", "baseline_scores"}
    parts = {table.__tablename__ for table in SCORE_PARTS}
    assert set(tables.Base.metadata.tables) == {*KINDS, *with_the_run, *own_files, *parts}


def test_there_and_back_is_the_same_to_the_last_bit(
    source: Store, file: Path, place: str, tmp_path: Path
) -> None:
    ids = [summary.id for summary in reversed(source.list_runs())]
    wanted = [source.load_run(run_id) for run_id in ids]
    with Store.open(place) as there:
        assert import_runs(there, file).added == tuple(ids)
        for run in wanted:
            assert_same_bits(there.load_run(run.id), run)
        assert rows(there) == rows(source)
        assert there.find_noise_floor("k") == source.find_noise_floor("k")
        assert there.find_training("recipe") == source.find_training("recipe")
        export_runs(there, None, tmp_path / "there.jsonl.gz")
    assert (tmp_path / "there.jsonl.gz").read_bytes() == file.read_bytes()
    with Store.open(str(tmp_path / "back.db")) as back:
        import_runs(back, tmp_path / "there.jsonl.gz")
        for run in wanted:
            assert_same_bits(back.load_run(run.id), run)


def test_importing_again_changes_nothing(file: Path, place: str, tmp_path: Path) -> None:
    with Store.open(place) as store:
        first = import_runs(store, file)
        before = rows(store)
        again = import_runs(store, file)
        assert (again.added, again.replaced, again.known) == ((), (), first.added)
        export_runs(store, ["latest"], tmp_path / "one.jsonl.gz")
        assert import_runs(store, tmp_path / "one.jsonl.gz").known == first.added[1:]
        assert rows(store) == before


def test_what_is_computed_later_finds_what_was_imported(file: Path, place: str) -> None:
    with Store.open(place) as store:
        import_runs(store, file)
        found = store.find_score("key perplexity")
        assert found is not None
        assert_same_bits(store.load_score(found.id), make_score("perplexity"))


def test_a_run_that_differs_is_not_replaced_unless_asked(
    source: Store, file: Path, place: str
) -> None:
    newest, oldest = (summary.id for summary in source.list_runs())
    with Store.open(place) as store:
        import_runs(store, file)
        store.record_verdicts(oldest, VERDICTS[1:])
        before = rows(store)
        with pytest.raises(UsageError, match=rf"run {oldest} is in the store already and differs"):
            import_runs(store, file)
        assert rows(store) == before
        assert store.load_run(oldest).verdicts == VERDICTS[1:]
        done = import_runs(store, file, replace=True)
        assert (done.added, done.replaced, done.known) == ((), (oldest,), (newest,))
        assert_same_bits(store.load_run(oldest), source.load_run(oldest))
        assert rows(store) == rows(source)


def test_a_noise_floor_that_was_measured_here_stays(file: Path, place: str) -> None:
    here = NoiseFloor("perplexity", 2e-4, 0.0, "nf4", "another", {})
    with Store.open(place) as store:
        store.record_noise_floor("k", here)
        import_runs(store, file)
        assert store.find_noise_floor("k") == here


def test_runs_are_named_as_everywhere(source: Store, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "runs.jsonl.gz"
    with pytest.raises(UsageError, match="the store has no runs to export"):
        export_runs(source, None, file)
    first, second = fill(source)
    assert export_runs(source, ["latest", second, first], file) == (first, second)
    assert export_runs(source, ["latest"], file) == (second,)
    with pytest.raises(UsageError, match="no run 'nonsense'"):
        export_runs(source, ["nonsense"], file)


# ------------------------------------------------------------------------- refused files


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def drop_a_line(file: Path) -> None:
    rewritten(file, lambda lines: lines.pop(2))


def change_a_value(file: Path) -> None:
    rewritten(file, lambda lines: lines[-2][1].update(exit_code=0))


def drop_the_end(file: Path) -> None:
    rewritten(file, lambda lines: lines.pop())


def no_document(file: Path) -> None:
    rewritten(file, lambda lines: lines.insert(1, ["scores"]))


@pytest.mark.parametrize(
    "damage", [cut, flip, drop_a_line, change_a_value, drop_the_end, no_document]
)
def test_a_damaged_file_is_refused_and_nothing_written(file: Path, place: str, damage) -> None:
    damage(file)
    with Store.open(place) as store:
        with pytest.raises(UsageError, match=r"runs\.jsonl\.gz: is damaged .*nothing was imported"):
            import_runs(store, file)
        assert not any(rows(store).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": FORMAT + 1}, f"format {FORMAT + 1}, and this one reads up to {FORMAT}"),
        ({"schema": "9999"}, f"schema 9999, and this one knows up to {REVISIONS[-1]}"),
    ],
)
def test_a_file_of_a_newer_evalkit_is_refused(file, source, change, message) -> None:
    rewritten(file, lambda lines: lines[0][1].update(change))
    with pytest.raises(UsageError, match=f"newer evalkit .{message}.*nothing was imported"):
        import_runs(source, file)


@pytest.mark.parametrize("content", [b"", b"{}", gzip.compress(b'["other", {}]\n', mtime=0)])
def test_what_is_no_such_file_is_refused(source, tmp_path, content) -> None:
    file = tmp_path / "x.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.jsonl\.gz: holds no exported runs"):
        import_runs(source, file)
    fill(source)
    with pytest.raises(UsageError, match="not written, for what is there is no file of exported"):
        export_runs(source, None, file)
    assert file.read_bytes() == content
    with pytest.raises(UsageError, match=r"cannot be read .No such file"):
        import_runs(source, tmp_path / "nowhere")


def resealed(lines: list) -> None:
    """Makes a file's digest right again, as another program would have written it."""
    told = b"".join(to_json(line).encode() + b"\n" for line in lines[:-1])
    lines[-1][1]["sha256"] = hashlib.sha256(told).hexdigest()


def test_a_file_of_an_older_evalkit_is_read(source: Store, file: Path, place: str) -> None:
    def change(lines) -> None:
        lines[0][1]["schema"] = REVISIONS[0]
        resealed(lines)

    rewritten(file, change)
    with Store.open(place) as store:
        assert len(import_runs(store, file).added) == 2
        assert_same_bits(store.load_run(), source.load_run())


def test_parts_that_do_not_fit_are_refused(file: Path, place: str) -> None:
    """A file with a right digest that another program wrote."""

    def change(lines) -> None:
        scores = next(body for kind, body in lines if kind == "scores")
        scores["colour"] = "red"
        resealed(lines)

    rewritten(file, change)
    with Store.open(place) as store:
        with pytest.raises(UsageError, match=r"do not fit together .*scores has no colour"):
            import_runs(store, file)
        assert not any(rows(store).values())


def test_a_file_that_cannot_be_written_leaves_none(source: Store, tmp_path: Path) -> None:
    fill(source)
    (tmp_path / "folder.jsonl.gz").mkdir()
    with pytest.raises(UsageError, match=r"what is there is no file .* cannot be read"):
        export_runs(source, None, tmp_path / "folder.jsonl.gz")
    (tmp_path / "folder.jsonl.gz").rmdir()
    (tmp_path / "in the way").write_text("")
    with pytest.raises(EvalkitError, match="the runs cannot be written"):
        export_runs(source, None, tmp_path / "in the way" / "runs.jsonl.gz")
    assert sorted(path.name for path in tmp_path.iterdir() if "source" not in path.name) == [
        "in the way"
    ]


# ------------------------------------------------------------------------- any record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)


@given(JSON)
@settings(max_examples=50)
def test_any_json_comes_back_as_text_that_every_database_takes(value: object) -> None:
    text = to_json(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert_same_bits(from_json(text), value)
    assert_same_bits(from_json(text.encode()), value)
    assert_same_bits(from_json(json.dumps(value)), value)


@given(facts=OBJECTS, suite=OBJECTS, error=st.none() | st.text(st.characters(), max_size=9))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_record_travels(place: str, tmp_path: Path, facts, suite, error) -> None:
    with Store.open(str(tmp_path / "any.db")) as store, Store.open(place) as there:
        run_id = start(store, suite_json=suite, arguments=facts, gates=GATES)
        job = dataclasses.replace(JOB, facts=facts, error=error)
        store.record_variant(run_id, result("nf4", job=job))
        export_runs(store, [run_id], tmp_path / "any.jsonl.gz")
        assert import_runs(there, tmp_path / "any.jsonl.gz").added == (run_id,)
        assert_same_bits(there.load_run(run_id), store.load_run(run_id))
