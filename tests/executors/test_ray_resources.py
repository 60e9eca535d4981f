"""What a task asks of a cluster: read from the task alone, no Ray needed."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_run import write_suite

from evalkit.errors import MachineError
from evalkit.executors.ray_pieces import pieces_of, settled
from evalkit.executors.ray_resources import fits, needed
from evalkit.executors.tasks import Outcome
from evalkit.runner import RunOptions, plan_suite
from evalkit.running.job_order import job_order
from evalkit.running.job_tasks import build_context, score_task, train_task
from evalkit.suite import load_suite
from evalkit.weights.fitting import check_gpus

NODES = [{"CPU": 64.0, "GPU": 8.0, "memory": 1e12}, {"CPU": 64.0, "GPU": 4.0, "memory": 1e12}]
DIVERGENCE = "  divergence: {on: texts, reference: nf4+adapter, max_length: 64}\n"


@pytest.fixture(scope="module")
def plan(tmp_path_factory, tiny_folder, on_the_cpu):
    folder = tmp_path_factory.mktemp("plan")
    suite = load_suite(write_suite(folder, tiny_folder, metrics=DIVERGENCE))
    return plan_suite(suite, RunOptions(cache=folder / "cache"))


@pytest.fixture(scope="module")
def score(plan):
    context = build_context(plan, Path("cache"), {"tuned": Path("adapter")})
    return score_task(plan, plan.scoring[0], ["perplexity"], context, None)


def on_gpus(task, **context):
    return replace(task, context=replace(task.context, device="cuda", **context))


@pytest.mark.parametrize(
    ("context", "gpus"),
    [({}, 1), ({"device_map": "auto"}, 8), ({"device_map": "auto", "gpus": 2}, 2)],
)
def test_gpus_are_those_that_the_suite_spreads_a_model_over(score, context, gpus):
    assert needed(on_gpus(score, **context), 1, NODES) == {"CPU": 1, "GPU": gpus}


def test_a_cpu_task_takes_the_drivers_threads_and_its_estimated_memory(plan, score):
    need = needed(score, 3, NODES)
    assert need["CPU"] == 3
    assert 0.6e9 < need["memory"] < 2e9
    # Ray would keep what asks for more than any node has for ever.
    assert needed(score, 3, [{"CPU": 8.0, "memory": 1e6}])["memory"] == 1e6
    training = train_task(plan, plan.training[0], score.context, again=False)
    assert needed(training, 3, NODES)["memory"] > 0.6e9


def test_there_is_room_while_the_cluster_has_some_and_one_node_is_large_enough():
    one, five = {"GPU": 1.0}, {"GPU": 5.0}
    assert fits(one, [one] * 11, NODES)
    assert not fits(one, [one] * 12, NODES)
    assert fits(five, [one] * 7, NODES)
    assert not fits({"GPU": 9.0}, [], NODES)
    assert not fits(one, [], [])


def test_a_failed_shard_fails_its_task_once_all_have_ended(score):
    pieces = list(pieces_of(score, 3, {}, 0.0))
    assert [piece.task.shard.index for piece in pieces] == [0, 1, 2]
    failed = [Outcome(piece.task, 1.0, error=f"e{piece.index}", exit_code=3) for piece in pieces]
    assert list(settled(pieces[2], failed[2])) == []
    assert list(settled(pieces[1], failed[1])) == []
    (outcome,) = settled(pieces[0], failed[0])
    assert (outcome.task, outcome.error, outcome.exit_code) == (score, "e0", 3)


def test_only_the_first_shard_does_what_is_not_shared_out(score):
    whole = replace(score, footprint=True, survival=True, reload_check=True)
    first, second = (piece.task for piece in pieces_of(whole, 2, {}, 0.0))
    assert (first.footprint, first.survival, first.reload_check) == (True, True, True)
    assert (second.footprint, second.survival, second.reload_check) == (False, False, False)
    bare = replace(whole, perplexities={})
    assert [piece.task for piece in pieces_of(bare, 2, {}, 0.0)] == [bare]


def test_a_path_goes_through_training_and_the_reference(plan):
    order = job_order(plan, plan.training, plan.scoring)
    assert [name for name, _ in sorted(order.items(), key=lambda item: item[1].turn)] == [
        "train tuned", "reference nf4+adapter",
        "score nf4", "score nf4+adapter", "score merged-4bit",
    ]  # fmt: skip
    path = {name: standing.path for name, standing in order.items()}
    assert path["train tuned"] > path["reference nf4+adapter"] > path["score merged-4bit"]
    assert path["score nf4"] == path["score merged-4bit"] > path["score nf4+adapter"]
    known = job_order(plan, [], plan.scoring)
    assert known["reference nf4+adapter"].path == path["reference nf4+adapter"]


def test_another_number_of_gpus_than_the_suite_says_is_refused(score):
    check_gpus(score.context)
    with pytest.raises(MachineError, match=r"model\.gpus is 99, and this process sees \d+:"):
        check_gpus(replace(score.context, device_map="auto", gpus=99))
