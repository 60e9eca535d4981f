"""Performs tasks on a Ray cluster: those with the most work behind them first."""

from __future__ import annotations

import os
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.errors import EvalkitError, MachineError, MissingPackageError, UsageError
from evalkit.executors import ray_resources, ray_worker
from evalkit.executors.queue import Queue
from evalkit.executors.ray_pieces import Piece, attached, failure, pieces_of, settled
from evalkit.executors.tasks import Outcome, Task, TrainTask
from evalkit.machine import detect_machine
from evalkit.records import OnProgress, Progress
from evalkit.sources import adapter_digest

RETRIES = 3
"""How often a task is started again that lost its worker or its node."""
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 5.0
"""For cancelled tasks to end by themselves."""
_ENVIRONMENT = (
    "OMP_WAIT_POLICY", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE",
    "TOKENIZERS_PARALLELISM", "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip
"""What workers have as the driver has it."""


class Ticks:
    """Where workers put their ticks, in a process of its own on the driver's node."""

    def __init__(self) -> None:
        self._ticks: list[tuple[int, Progress]] = []

    def add(self, shard: int, tick: Progress) -> None:
        """Puts one more."""
        self._ticks.append((shard, tick))

    def take(self) -> list[tuple[int, Progress]]:
        """Those since the last time."""
        taken, self._ticks = self._ticks, []
        return taken


def _perform(task: Task, place: ray_worker.Place, ticks: Any, shard: int) -> dict[str, Any]:
    return ray_worker.perform_here(task, place, lambda tick: ticks.add.remote(shard, tick))


class RayExecutor:
    """Tasks on the nodes of a Ray cluster; a context: the connection ends with it.

    The driver writes the store, nobody else. Adapters, converted weights and references go through
    the cache folder, which all nodes share; every worker checks what it is to attach by its digest.
    """

    def __init__(
        self, *, address: str | None = None, shards: int = 1, patience: float = 60.0
    ) -> None:
        """Names the cluster.

        Args:
            address: of a cluster's head, or "auto"; None for what `RAY_ADDRESS` says, else for a
                cluster of this machine alone, which ends with the run.
            shards: over how many workers the scoring of each variant is shared out.
            patience: seconds to wait for nodes that may still join, and for files to appear.

        Raises:
            MissingPackageError: Ray is not installed.
            UsageError: the address is one of Ray Client, whose driver shares no files.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError("'evalkit-lm[ray]'", purpose="by --executor ray") from error
        if address is not None and address.startswith("ray://"):
            raise UsageError(
                f"--address {address}: evalkit must run on a node of the cluster, with the files "
                "that all nodes share: start it there, with --address auto"
            )
        self._ray: Any = ray
        self._address = address
        self._shards = shards
        self._patience = patience
        self._connected = False
        self._probe: Path | None = None
        self._ticks: Any = None

    def __enter__(self) -> RayExecutor:
        """Connects.

        Raises:
            MachineError: there is no cluster at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = self._ray
        if not ray.is_initialized():
            # Without an address Ray would join whatever cluster it finds running on this machine.
            where = self._address or os.environ.get("RAY_ADDRESS") or "local"
            try:
                ray.init(address=where, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise MachineError(f"no Ray cluster at {where}: {error}") from error
            self._connected = True
        here = ray.get_runtime_context().get_node_id()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        actor = ray.remote(Ticks).options(num_cpus=0, scheduling_strategy=near)
        self._ticks = actor.remote()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._probe is not None:
            self._probe.unlink(missing_ok=True)
        self._ray.kill(self._ticks)
        if self._connected:
            self._ray.shutdown()

    def execute(self, tasks: Queue[Task], on_progress: OnProgress) -> Iterator[Outcome]:
        """Yields each task's outcome as it ends; closing the iterator cancels what runs."""
        waiting: Queue[Piece] = Queue()
        running: dict[Any, Piece] = {}
        idle_since = time.monotonic()
        try:
            while tasks or waiting or running:
                nodes = self._nodes()
                for ready in tasks.longest_first(lambda _: True):
                    need = ray_resources.needed(ready.job, detect_machine().threads, nodes)
                    for piece in pieces_of(ready.job, self._shards, need, ready.path):
                        waiting.add(piece, turn=ready.turn, path=ready.path)
                yield from self._start(waiting, running, nodes)
                yield from self._ended(waiting, running, on_progress)
                if running or not waiting:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > self._patience:
                    yield from self._refuse(waiting)
        finally:
            self._cancel(list(running))

    # ------------------------------------------------------------------------- starting

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _start(
        self,
        waiting: Queue[Piece],
        running: dict[Any, Piece],
        nodes: list[dict[str, float]],
    ) -> Iterator[Outcome]:
        """Starts what there is room for, so that what waits is ordered here and not by Ray.

        Yields:
            The outcome of what cannot start: an adapter is not there any more.
        """

        def there_is_room(piece: Piece) -> bool:
            taken = [each.need for each in running.values()]
            return ray_resources.fits(piece.need, taken, nodes)

        for ready in waiting.longest_first(there_is_room):
            piece = ready.job
            # A worker that used a GPU ends, and gives its memory back. Ray's own retries would
            # neither be told nor counted together with ours.
            performs = self._ray.remote(max_calls=1 if piece.need.get("GPU") else 0)(_perform)
            remote = performs.options(
                **ray_resources.options(piece.need),
                max_retries=0,
                name=piece.task.name,
                runtime_env={"env_vars": self._environment()},
            )
            try:
                place = self._place(piece.task)
            except EvalkitError as error:
                yield from settled(piece, failure(piece.task, error))
                continue
            running[remote.remote(piece.task, place, self._ticks, piece.index)] = piece

    def _environment(self) -> dict[str, str]:
        named = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        machine = detect_machine()
        if machine.device == "cpu":  # else Ray sets as many as it gives cores
            named["OMP_NUM_THREADS"] = str(machine.threads)
        return named

    def _place(self, task: Task) -> ray_worker.Place:
        cache = task.context.cache
        if self._probe is None:
            cache.mkdir(parents=True, exist_ok=True)
            self._probe = (cache / f"driver-{uuid.uuid4().hex}").absolute()
            self._probe.touch()
        names = set() if isinstance(task, TrainTask) else attached(task)
        folders = [task.context.adapters[name] for name in sorted(names)]
        return ray_worker.Place(
            folder=str(Path.cwd()),
            machine=ray_worker.machine_facts(),
            probe=self._probe,
            adapters={folder: adapter_digest(folder, cache) for folder in folders},
            patience=self._patience,
        )

    # ------------------------------------------------------------------------- ending

    def _ended(
        self, waiting: Queue[Piece], running: dict[Any, Piece], on_progress: OnProgress
    ) -> Iterator[Outcome]:
        """Waits a moment for something to end; tells the ticks that came meanwhile."""
        if not running:
            time.sleep(_LOOK_SECONDS if waiting else 0)
            return
        done, _ = self._ray.wait(list(running), timeout=_LOOK_SECONDS)
        # Of several shards, between which a bar would jump, the first does the most. What comes
        # after a job's end is late.
        names = {piece.task.name for piece in running.values()}
        for shard, tick in self._ray.get(self._ticks.take.remote()):
            if shard == 0 and tick.job in names:
                on_progress(tick)
        for reference in done:
            piece = running.pop(reference)
            outcome = self._outcome(reference, piece)
            if outcome is None:
                lost = f"its worker was lost, once more ({piece.lost} of {RETRIES})"
                on_progress(Progress(piece.task.name, lost, 0, None))
                waiting.add(piece, path=piece.path)
                continue
            yield from settled(piece, outcome)

    def _outcome(self, reference: Any, piece: Piece) -> Outcome | None:
        """What came of a piece; None where it is to be started again."""
        errors = self._ray.exceptions
        try:
            return Outcome(piece.task, **self._ray.get(reference))
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            # evalkit's errors are outcomes: this one is of the node itself, and would come again.
            return failure(piece.task, MachineError(f"a node cannot run evalkit: {error}"))
        except errors.RayError as error:
            piece.lost += 1
            if piece.lost <= RETRIES:
                return None
            reason = str(error).strip().split("\n")[0]
            return Outcome(
                piece.task,
                0.0,
                error=f"its worker was lost {piece.lost} times: {reason}",
                traceback=traceback.format_exc(),
                exit_code=3,
            )

    def _refuse(self, waiting: Queue[Piece]) -> Iterator[Outcome]:
        """Gives up what no node can run."""
        for piece in waiting.in_turn():
            error = MachineError(
                f"no node of the Ray cluster has {ray_resources.told(piece.need)}: waited "
                f"{self._patience:.0f} s for one to join"
            )
            yield from settled(piece, failure(piece.task, error))

    def _cancel(self, running: list[Any]) -> None:
        """Stops tasks: softly, so that they clean up after themselves, then by force."""
        for reference in running:
            self._ray.cancel(reference)
        if running:
            _, left = self._ray.wait(
                running, num_returns=len(running), timeout=_GRACE_SECONDS, fetch_local=False
            )
            for reference in left:
                self._ray.cancel(reference, force=True)
