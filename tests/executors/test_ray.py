"""A run on a real Ray cluster of two nodes on this machine: the numbers are a local run's."""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from small_run import Silent, small_run, write_suite

from evalkit.cli import run_command_line
from evalkit.errors import UsageError
from evalkit.executors.ray import RayExecutor
from evalkit.machine import detect_machine
from evalkit.runner import RunOptions, run_suite
from evalkit.store import Store
from evalkit.suite import load_suite

METRICS = "  divergence: {on: texts, reference: nf4, max_length: 64, batch_tokens: 64}\n"
ATTACHING = ("nf4+adapter", "merged-4bit")
ALONE = "metrics.divergence=null"
"""Leaves a variant that waits for no reference."""
WAIT_SECONDS = 120.0

# Where tests are spread by groups, one cluster for all of these: it takes half a gigabyte.
pytestmark = [pytest.mark.system, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, each with room for one task; a node that leaves is noticed within seconds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'evalkit-lm[ray]'")
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": detect_machine().threads,
        "object_store_memory": 100_000_000,
        "memory": 4_000_000_000,
    }
    noticing = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 5,
    }
    made = Cluster(initialize_head=True, head_node_args={**node, "_system_config": noticing})
    try:
        made.second = made.add_node(**node)
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def here(tmp_path_factory, tiny_folder):
    """A folder with the suite, run in this process. Read only."""
    folder = tmp_path_factory.mktemp("here")
    suite = write_suite(folder, tiny_folder, metrics=METRICS)
    # Several batches, so that there is something to share out.
    text = suite.read_text()
    suite.write_text(text.replace("max_length: 64}", "max_length: 64, batch_tokens: 64}", 1))
    small_run(folder)
    return folder


@pytest.fixture(scope="module")
def expected(here):
    """By variant and metric."""
    return all_numbers(here)


@pytest.fixture(scope="module")
def expected_of_two(here):
    return all_numbers(here, ATTACHING)


def all_numbers(folder, variants=("nf4", *ATTACHING)):
    """The bytes behind every score of a folder's last run, what is read off a clock left out."""
    with Store.open(str(folder / "runs.db")) as store:
        record = store.load_run()
    assert record.exit_code == 0, [variant.job and variant.job.error for variant in record.variants]
    return {
        (variant.name, metric): (
            score.value,
            score.stderr,
            score.sums.tobytes(),
            score.counts.tobytes(),
            score.clusters,
            {name: v for name, v in score.extra.items() if name != "tokens_per_second"},
            [(kept.tokens, kept.losses.tobytes(), kept.top_tokens) for kept in score.token_losses],
        )
        for variant in record.variants
        if variant.name in variants
        for metric, score in variant.scores.items()
    }


def run_there(folder, here, watcher, overrides=(), *, executor=None, cache=None, **options):
    """Runs the suite of `here` on the cluster, with a store and a cache of its own."""
    with Store.open(str(folder / "runs.db")) as store, executor or RayExecutor() as executor:
        return run_suite(
            load_suite(here / "suite.yaml", overrides=overrides),
            RunOptions(cache=cache or folder / "cache", **options),
            store=store,
            executor=executor,
            watcher=watcher,
        )


def only_error(record):
    """What the one variant that was to run failed of."""
    (job,) = [variant.job for variant in record.variants if variant.job is not None]
    assert job.status == "failed"
    return job.error


@contextmanager
def seen_by_this_process_alone(folder):
    """Another path of a folder, under which no other process has it."""
    opened = os.open(folder, os.O_RDONLY)
    high = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 900)
    try:
        yield Path(f"/proc/self/fd/{high}")
    finally:
        os.close(opened)
        os.close(high)


class Overtaken(RayExecutor):
    """An adapter's file changes when it has been digested here, and before a worker reads it."""

    def __init__(self, file, **options):
        super().__init__(**options)
        self._file = file

    def _place(self, task):
        place = super()._place(task)
        config = json.loads(self._file.read_text())
        self._file.write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
        return place


class Disturbing(Silent):
    """Keeps two jobs in the middle of their work, a node each, until it has disturbed them.

    Both wait for the reference, and then for the lock of the 4-bit checkpoint, which is held here.
    """

    def __init__(self, folder, disturb):
        super().__init__()
        self.told = set()
        self._cache = folder / "cache"
        self._disturb = disturb
        self._held = ExitStack()

    def job_ended(self, job, scores):
        super().job_ended(job, scores)
        if job.name == "reference nf4":
            for lock in self._cache.glob("quantized/*.lock"):
                self._held.enter_context(FileLock(lock))

    def on_progress(self, tick):
        self.told.add((tick.job, tick.phase))
        begun = {job for job, _ in self.told}
        if self._disturb is not None and begun >= {f"score {name}" for name in ATTACHING}:
            disturb, self._disturb = self._disturb, None
            try:
                disturb()
            except KeyboardInterrupt:
                self._held.close()
                raise
        if self.lost:
            # Not before: a worker whose node is gone could still send the result that it has.
            self._held.close()

    @property
    def lost(self):
        """The jobs that lost their worker."""
        return {job for job, phase in self.told if "its worker was lost, once more" in phase}


def raylet(node):
    """The process that starts a node's workers."""
    return node.all_processes["raylet"][0].process.pid


def workers(cluster, what="score"):
    """The processes in which this cluster performs such tasks now, by pid."""
    raylets = {raylet(node) for node in cluster.list_all_nodes()}
    return {
        process.pid: process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if process.info["ppid"] in raylets
        and any(part.startswith(f"ray::{what}") for part in process.info["cmdline"] or ())
    }


# ----------------------------------------------------------------------------- without a cluster


def test_without_ray_the_installation_is_named(monkeypatch, here, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_command_line(["run", str(here / "suite.yaml"), "--executor", "ray"]) == 4
    assert "pip install 'evalkit-lm[ray]'" in " ".join(capsys.readouterr().err.split())


def test_options_of_a_cluster_need_one(here, capsys):
    assert run_command_line(["run", str(here / "suite.yaml"), "--shards", "2"]) == 2
    assert "--executor ray" in capsys.readouterr().err


def test_a_driver_without_the_clusters_files_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="--address auto"):
        RayExecutor(address="ray://head:10001")


# ----------------------------------------------------------------------------- on one


def test_a_run_in_shards_gives_the_local_numbers(cluster, here, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ["--db", str(tmp_path / "runs.db"), "--cache", "cache"]
    shards = ["--executor", "ray", "--shards", "2"]
    assert run_command_line(["run", str(here / "suite.yaml"), *places, *shards]) == 0
    assert all_numbers(tmp_path) == expected
    with Store.open(str(tmp_path / "runs.db")) as store:
        jobs = [variant.job for variant in store.load_run().variants]
    assert [len(job.facts["shard_seconds"]) for job in jobs] == [2, 2, 2]
    assert not list((tmp_path / "cache").glob("driver-*"))


def test_a_task_whose_worker_is_killed_is_done_again(cluster, here, expected_of_two, tmp_path):
    def kill():
        os.kill(next(iter(workers(cluster, "score merged-4bit"))), signal.SIGKILL)

    watcher = Disturbing(tmp_path, kill)
    run_there(tmp_path, here, watcher, only=ATTACHING)
    assert watcher.lost == {"score merged-4bit"}
    assert all_numbers(tmp_path, ATTACHING) == expected_of_two


def test_an_interrupted_run_keeps_what_it_has_and_stops_the_rest(cluster, here, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    watcher = Disturbing(tmp_path, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_there(tmp_path, here, watcher, only=ATTACHING)
    end = time.monotonic() + WAIT_SECONDS
    while workers(cluster) and time.monotonic() < end:
        time.sleep(0.1)
    assert not workers(cluster)
    with Store.open(str(tmp_path / "runs.db")) as store:
        record = store.load_run()
    assert record.exit_code == 130
    assert watcher.jobs["train tuned"] == "done"
    assert {job.name: job.status for job in record.adapters} == {"train tuned": "done"}
    assert {job.name: job.status for job in record.references} == {"reference nf4": "done"}
    assert not any(variant.scores for variant in record.variants)


def test_an_error_of_evalkit_is_told_and_not_tried_again(cluster, here, tmp_path):
    watcher = Disturbing(tmp_path, None)
    # Chunks so long that the data fills not one of them.
    windows = ["protocol=chunks", "max_length=2000"]
    overrides = [ALONE, *(f"metrics.perplexity.{each}" for each in windows)]
    record = run_there(tmp_path, here, watcher, overrides, only=("nf4",))
    assert "chunk" in only_error(record)
    assert record.exit_code == 2
    assert watcher.lost == set()


def test_a_node_that_leaves_takes_no_result_with_it(cluster, here, expected_of_two, tmp_path):
    leaving = raylet(cluster.second)

    def leave():
        assert any(worker.ppid() == leaving for worker in workers(cluster).values())
        cluster.remove_node(cluster.second, allow_graceful=False)

    watcher = Disturbing(tmp_path, leave)
    run_there(tmp_path, here, watcher, only=ATTACHING)
    assert len(watcher.lost) == 1
    assert all_numbers(tmp_path, ATTACHING) == expected_of_two


def test_what_no_node_can_hold_is_refused(cluster, here, tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.executors.ray_resources.holds", lambda node, need: False)
    executor = RayExecutor(patience=0.5)
    record = run_there(tmp_path, here, Silent(), [ALONE], executor=executor, only=("nf4",))
    expected = f"no node of the Ray cluster has {detect_machine().threads} CPU"
    assert expected in only_error(record)
    assert record.exit_code == 4


def test_a_node_with_other_packages_is_refused(cluster, here, tmp_path, monkeypatch, capsys):
    # What this process finds installed, and the nodes, which started before, do not.
    theirs = {name: version(name) for name in ("trl", "accelerate")}
    for package in theirs:
        installed = tmp_path / "packages" / f"{package}-0.0.1.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(f"Name: {package}\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.chdir(tmp_path)
    places = ["--db", str(tmp_path / "runs.db"), "--cache", "cache"]
    asked = ["--only", "nf4", "--set", ALONE, "--executor", "ray"]
    assert run_command_line(["run", str(here / "suite.yaml"), *places, *asked]) == 4
    with Store.open(str(tmp_path / "runs.db")) as store:
        error = only_error(store.load_run())
    differences = "; ".join(
        f"{name} is {there!r}, and where evalkit runs it is '0.0.1'"
        for name, there in theirs.items()
    )
    assert error == (
        f"node {os.uname().nodename}: {differences}. Numbers are kept under the machine and the "
        "versions that made them, so all nodes, the one that evalkit runs on too, must be alike"
    )
    assert " ".join(error.split()) in " ".join(capsys.readouterr().err.split())


def test_a_cache_that_a_node_does_not_see_is_refused(cluster, here, tmp_path):
    (tmp_path / "mine").mkdir()
    executor = RayExecutor(patience=0.5)
    with seen_by_this_process_alone(tmp_path / "mine") as cache:
        places = {"executor": executor, "cache": cache}
        record = run_there(tmp_path, here, Silent(), [ALONE], **places, only=("nf4",))
    assert only_error(record) == (
        f"node {os.uname().nodename}: the cache {cache} is not the one that evalkit sees "
        "(looked for 0.5 s): give --cache a folder on a file system that all nodes share"
    )
    assert record.exit_code == 4


def ready_made(folder):
    """Overrides under which the adapter is not trained but taken from a folder."""
    gone = [f"adapters.tuned.{name}=null" for name in ("on", "data", "lora", "training")]
    return [ALONE, *gone, f"adapters.tuned.from={folder}"]


def copy_of_adapter(here, to):
    """The adapter that was trained here, as it would come from elsewhere: without a seal."""
    (config,) = (here / "cache" / "adapters").glob("*/adapter_config.json")
    return shutil.copytree(config.parent, to, ignore=shutil.ignore_patterns("sealed.json"))


def test_an_adapter_that_a_node_has_otherwise_is_refused(cluster, here, tmp_path):
    folder = copy_of_adapter(here, tmp_path / "adapter")
    executor = Overtaken(folder / "adapter_config.json", patience=0.5)
    options = {"executor": executor, "only": ("nf4+adapter",)}
    record = run_there(tmp_path, here, Silent(), ready_made(folder), **options)
    assert only_error(record) == (
        f"node {os.uname().nodename}: the adapter in {folder} is not the one that evalkit sees "
        "(looked for 0.5 s): it must be on a file system that all nodes share, and stay as it is "
        "while evalkit runs"
    )
    assert record.exit_code == 4


def test_an_adapter_that_a_node_has_not_is_refused(cluster, here, tmp_path):
    executor = RayExecutor(patience=0.5)
    with seen_by_this_process_alone(copy_of_adapter(here, tmp_path / "adapter")) as folder:
        options = {"executor": executor, "only": ("nf4+adapter",)}
        record = run_there(tmp_path, here, Silent(), ready_made(folder), **options)
    assert f"the adapter in {folder} is not there (looked for 0.5 s)" in only_error(record)
    assert record.exit_code == 4
