"""The protocols as windows: against lm-eval's own windows, and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.scoring.windows import (
    Place,
    Window,
    batch_size,
    chunk_targets,
    chunk_windows,
    document_windows,
    fair_share,
    stream_windows,
)

PREFIX = 9999


def tokens(count: int) -> np.ndarray:
    return np.arange(100, 100 + count, dtype=np.int64)


def scored(windows: list[Window]) -> list[int]:
    return [int(token) for window in windows for token in window.targets]


def check_alignment(windows: list[Window], ids: np.ndarray) -> None:
    """The position that predicts a target has read the token right before it."""
    for window in windows:
        context = window.inputs[len(window.inputs) - len(window.targets) :]
        assert window.targets.tolist() == ids[window.first : window.stop].tolist()
        assert context[1:].tolist() == window.targets[:-1].tolist()
        assert len(window.inputs) >= len(window.targets) >= 1


@given(count=st.integers(0, 60), max_length=st.integers(1, 20))
def test_document_windows_are_lm_evals(count: int, max_length: int) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = tokens(count)
    theirs = [
        make_disjoint_window(pair)
        for pair in get_rolling_token_windows(ids.tolist(), PREFIX, max_length, 1)
    ]
    ours = list(document_windows(ids, Place(3, 4), prefix=PREFIX, max_length=max_length))
    # lm-eval feeds context and continuation without the continuation's last token.
    assert [(w.inputs.tolist(), w.targets.tolist()) for w in ours] == [
        ((context + target)[:-1], target) for context, target in theirs
    ]
    assert {(window.text, window.unit) for window in ours} <= {(3, 4)}
    check_alignment(ours, ids)


@given(count=st.integers(1, 60), max_length=st.integers(1, 20), data=st.data())
def test_only_the_completion_is_scored(count: int, max_length: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, count - 1))
    ids = tokens(count)
    place = Place(0, 0)
    whole = list(document_windows(ids, place, prefix=PREFIX, max_length=max_length))
    part = list(
        document_windows(ids, place, prefix=PREFIX, max_length=max_length, scored_from=start)
    )
    assert scored(part) == ids[start:].tolist()
    inputs = [window.inputs.tolist() for window in whole]
    assert all(window.inputs.tolist() in inputs for window in part)
    check_alignment(part, ids)


@given(count=st.integers(0, 80), max_length=st.integers(2, 20), data=st.data())
def test_stream_windows_score_each_token_once(
    count: int, max_length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, max_length - 1))
    ids = tokens(count)
    windows = list(stream_windows(ids, max_length=max_length, stride=stride))
    assert scored(windows) == ids[1:].tolist()
    assert [window.unit for window in windows] == list(range(len(windows)))
    assert all(len(window.inputs) < max_length for window in windows)
    check_alignment(windows, ids)


def test_a_stream_without_overlap_leaves_each_windows_first_token_out() -> None:
    windows = list(stream_windows(tokens(10), max_length=4, stride=4))
    assert scored(windows) == [101, 102, 103, 105, 106, 107, 109]


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_that_leaves_tokens_out_is_refused(stride: int) -> None:
    with pytest.raises(DataError, match="between 1 and max_length"):
        list(stream_windows(tokens(20), max_length=8, stride=stride))


def test_chunks_drop_the_tail_and_score_the_second_half() -> None:
    windows = list(chunk_windows(tokens(21), n_ctx=8, bos=7))
    assert [window.inputs.tolist() for window in windows] == [
        [7, 101, 102, 103, 104, 105, 106],
        [7, 109, 110, 111, 112, 113, 114],
    ]
    assert [window.targets.tolist() for window in windows] == [[105, 106, 107], [113, 114, 115]]
    assert chunk_targets(8) == 3
    check_alignment(windows, tokens(21))


def test_chunks_keep_the_first_token_where_the_tokenizer_adds_no_bos() -> None:
    ids = tokens(16)
    windows = list(chunk_windows(ids, n_ctx=8, bos=None))
    assert [int(window.inputs[0]) for window in windows] == [100, 108]
    assert ids.tolist() == tokens(16).tolist()


def test_bos_is_not_written_into_the_callers_tokens() -> None:
    ids = tokens(8)
    list(chunk_windows(ids, n_ctx=4, bos=7))
    assert ids.tolist() == tokens(8).tolist()


@given(lengths=st.lists(st.integers(1, 50), min_size=1), total=st.integers(0, 600))
def test_the_fair_share_is_the_largest_that_fits(lengths: list[int], total: int) -> None:
    def used(cap: int) -> int:
        return sum(min(length, cap) for length in lengths)

    cap = fair_share(lengths, total)
    assert used(cap) <= total
    assert used(cap + 1) > total or cap == max(lengths)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1).map(lambda some: sorted(some, reverse=True)),
    budget=st.integers(1, 300),
)
def test_a_batch_keeps_its_budget_and_always_takes_one(lengths: list[int], budget: int) -> None:
    size = batch_size(lengths, budget)
    assert 1 <= size <= len(lengths)
    assert size == 1 or size * lengths[0] <= budget


def test_a_batch_ends_where_padding_would_outweigh_it() -> None:
    assert batch_size([100, 100, 90, 86, 84, 60], 1000) == 4
    assert batch_size([100, 10, 10], 1000) == 3, "small batches are filled all the same"
    assert batch_size([100] * 20, 1000) == 10
