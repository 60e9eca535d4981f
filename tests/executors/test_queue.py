"""Which jobs start first, and that a share of the batches is what it is in the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.executors.queue import Queue, longest_paths
from evalkit.scoring.forward import measure_windows
from evalkit.scoring.windows import Shard, Window


def test_a_path_is_all_the_work_behind_a_job():
    costs = {"train": 5.0, "reference": 2.0, "plain": 6.0, "tuned": 3.0}
    needs = {"reference": ["train"], "tuned": ["train", "reference"]}
    assert longest_paths(costs, needs) == {"train": 10, "reference": 5, "plain": 6, "tuned": 3}


def test_several_workers_take_the_longest_path_and_let_pass_what_fits():
    queue = Queue()
    for turn, (name, path) in enumerate({"short": 1.0, "long": 9.0, "large": 5.0}.items()):
        queue.add(name, turn=turn, path=path)
    taken = [ready.job for ready in queue.longest_first(lambda name: name != "large")]
    assert taken == ["long", "short"]
    assert list(queue.in_turn()) == ["large"]
    assert not queue


def test_one_worker_takes_the_plans_order_also_of_what_is_added_meanwhile():
    queue = Queue()
    queue.add("train", turn=0, path=1.0)
    queue.add("last", turn=2, path=9.0)
    taken = []
    for name in queue.in_turn():
        taken.append(name)
        if name == "train":
            queue.add("middle", turn=1)
    assert taken == ["train", "middle", "last"]


def batches_of(lengths, shard, **options):
    ids = np.zeros(200, dtype=np.int64)
    windows = [Window(ids[:n], ids[:n], 0, 0, 0) for n in lengths]
    seen = []

    def measure(batch):
        seen.append(tuple(batch))
        return [None] * len(batch)

    told = measure_windows(windows, measure, shard=shard, **options)
    assert [tuple(index for index, _ in batch) for batch in told] == seen
    return seen


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(1, 500),
    st.booleans(),
)
def test_shards_are_the_wholes_own_batches_each_once(lengths, count, budget, longest_last):
    options = {"batch_tokens": budget, "longest_last": longest_last}
    whole = batches_of(lengths, Shard(0, 1), **options)
    shards = [batches_of(lengths, Shard(index, count), **options) for index in range(count)]
    assert sorted(batch for shard in shards for batch in shard) == sorted(whole)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_shard_that_runs_out_of_memory_goes_on_with_its_own_windows(count):
    import torch

    ids = np.zeros(64, dtype=np.int64)
    windows = [Window(ids[: n + 8], ids[: n + 8], 0, 0, 0) for n in range(24)]

    def measure(batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        return list(batch)

    found = []
    for index in range(count):
        measured = measure_windows(windows, measure, batch_tokens=128, shard=Shard(index, count))
        found += [index for batch in measured for index, _ in batch]
    assert sorted(found) == list(range(24))
