"""Worker groups seen from the driver: started once, one `GroupTrainer` each, ended with the search."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from samtune.config.search import CheckpointConfig
from samtune.errors import safe_text
from samtune.raylib.cluster import Node, count_workers, own_session_folder
from samtune.raylib.environment import set_train_environment
from samtune.storage import join
from samtune.user_path import user_folders
from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Failure
from samtune.workers.trial_host import LoopConfig
from samtune.workers.worker_endings import told_by_ray
from samtune.workers.worker_loop import worker_loop

if TYPE_CHECKING:
    from samtune.raylib.group_trainer import GroupTrainer


_ANSWER_SECONDS = 30.0  # in which the coordinator says how many workers a group is to have
_MAX_FAILED_STARTS = 3  # in a row, of a group whose controller is lost before its workers have come up


class WorkerPool:
    """All worker groups of one search, and the coordinator through which they get their trials.

    Groups belong to the driver, not to Tune's Trainables: a Trainable that dies takes no warm group with it, and
    neither the Trainables nor Tune's loop import torch.

    Args:
        num_groups: how many groups; the caller has checked that the cluster can hold them all.
        storage_path: folder of the study, reachable from every node: checkpoints, and on a cluster of several users or
            nodes Ray Train's own files.
        checkpoint: when trials are saved.
        max_failures: how often a trial may lose its workers before it fails.
        timeout: seconds that an epoch may take before its workers are taken for hung and replaced.
        keeps_weights: whether the workers keep the weights of a search's trials when these are completed.
        metrics: what the study optimizes: a training function of the user's must report it.
        parts: the user's own functions by their path (see `samtune.user_code`).
        resizable: whether groups may restart with another number of workers, see `Coordinator.widen`.
    """

    def __init__(
        self,
        *,
        num_groups: int,
        num_workers: int,
        cpus_per_worker: float,
        gpus_per_worker: float,
        storage_path: str,
        checkpoint: CheckpointConfig | None = None,
        max_failures: int = 3,
        timeout: float | None = None,
        keeps_weights: bool = False,
        metrics: Iterable[str] = (),
        parts: Mapping[str, Callable[..., Any]] | None = None,
        resizable: bool = False,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        set_train_environment()
        self.num_groups, self.num_workers = num_groups, num_workers
        self._cpus, self._gpus = cpus_per_worker, gpus_per_worker
        self._timeout, self._metrics, self._keeps_weights = timeout, tuple(metrics), keeps_weights
        self._parts = ray.put(dict(parts)) if parts else None
        self._storage_path, self._checkpoint = storage_path, checkpoint or CheckpointConfig()
        self.checkpoint_root = join(storage_path, "checkpoints")
        self.coordinator: Any = (
            ray.remote(Coordinator)
            .options(
                num_cpus=0,
                max_concurrency=100_000,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),  # other nodes come and go
            )
            .remote(num_workers, num_groups=num_groups, max_failures=max_failures)
        )
        self._resizable = resizable
        self._closing = False
        self._trainers: list[GroupTrainer] = []
        self._threads = self._make_threads(range(num_groups))

    def start(self) -> None:
        """Starts all groups that have not been started; returns at once. Trials posted meanwhile wait.

        Where the cluster is this process's own, nothing is written to `storage_path` before a trial is.
        """
        import samtune.raylib.group_trainer  # noqa: F401  # not in the threads: two that import Ray Train do not get along

        for thread in self._threads:
            if thread.ident is None:
                thread.start()

    def grow(self, num_groups: int) -> None:
        """Starts more groups, up to `num_groups`: the cluster can hold them now, or will.

        Groups that lost their nodes are not replaced: they wait for others, and continue there.
        """
        import ray

        if self._closing or num_groups <= self.num_groups:
            return
        ray.get(self.coordinator.expect.remote(num_groups))
        added = self._make_threads(range(self.num_groups, num_groups))
        self.num_groups = num_groups
        self._threads += added
        for thread in added:
            thread.start()

    def _make_threads(self, indices: range) -> list[threading.Thread]:
        return [
            threading.Thread(target=self._run_group, args=(index,), name=f"group-{index}", daemon=True)
            for index in indices
        ]

    def capacity(self, nodes: Iterable[Node]) -> int:
        """How many groups the nodes hold."""
        return count_workers(self._cpus, self._gpus, nodes) // self.num_workers

    def needs(self) -> str:
        """What one group needs, e.g. `2 x (1 CPU and 1 GPU)`."""
        each = f"{self._cpus:g} CPU" + (f" and {self._gpus:g} GPU" if self._gpus else "")
        return f"{self.num_workers} x ({each})"

    def _run_group(self, index: int) -> None:
        """Lives as long as the group: `fit` returns when the workers' loops do."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from samtune.raylib.driver_controller import MOST_CONTROLLERS
        from samtune.raylib.group_trainer import GroupTrainer
        from samtune.raylib.worker_loss import WorkerLossCallback

        loop = LoopConfig(
            coordinator=self.coordinator,
            group=index,
            threads=max(1, int(self._cpus)),
            checkpoint_root=self.checkpoint_root,
            checkpoint=self._checkpoint,
            timeout=self._timeout,
            keeps_weights=self._keeps_weights,
            metrics=self._metrics,
            parts=self._parts,
            user_folders=tuple(user_folders()),
            gpu_share=min(1.0, self._gpus) or 1.0,
        )
        resources = {"CPU": self._cpus} | ({"GPU": self._gpus} if self._gpus else {})
        failures, trainer = 0, None
        while not self._closing:
            try:
                trainer = GroupTrainer(
                    worker_loop,
                    train_loop_config={"loop": loop},
                    size=partial(_ask_size, self.coordinator, index, self.num_workers) if self._resizable else None,
                    in_driver=self.num_groups <= MOST_CONTROLLERS,
                    scaling_config=ScalingConfig(
                        num_workers=self.num_workers, use_gpu=self._gpus > 0, resources_per_worker=resources
                    ),
                    run_config=RunConfig(
                        name=f"group-{index}",
                        storage_path=own_session_folder() or join(self._storage_path, "ray", "train"),
                        # The coordinator counts how often a trial loses its workers; the group itself never gives up.
                        failure_config=FailureConfig(max_failures=-1),
                        callbacks=[WorkerLossCallback(partial(_tell_losses, self.coordinator, index))],  # type: ignore[list-item]
                    ),
                )
                self._trainers.append(trainer)
                if not self._closing:
                    trainer.fit()
                return
            except Exception as error:
                # Its controller was lost. Where the group had come up before, it comes up again.
                if trainer is not None and not self._closing:
                    trainer.free_resources()
                failures = 1 if self._had_come_up(index) else failures + 1
                if failures >= _MAX_FAILED_STARTS:
                    self._tell_lost(index, error)
                    return

    def _had_come_up(self, index: int) -> bool:
        """Has the coordinator take the group's trial back; whether all workers of the group had been there."""
        import ray

        try:
            return bool(ray.get(self.coordinator.controller_lost.remote(index)))
        except ray.exceptions.RayError:  # the cluster is gone, or is being shut down
            return False

    def _tell_lost(self, index: int, error: Exception) -> None:
        import ray

        if self._closing:
            return
        text = safe_text(error)
        told = told_by_ray(text)
        failure = Failure(f"worker group {index}{f' {told}' if told else f': {type(error).__name__}: {text}'}", text)
        with suppress(ray.exceptions.RayError):  # the cluster is gone, and the coordinator with it
            ray.get(self.coordinator.group_lost.remote(index, failure))

    def usage(self, started_at: float) -> dict[str, float]:
        """How long the start took and how busy the groups were; empty before a group was ready.

        Args:
            started_at: when the search began, in seconds since 1970.
        """
        import ray

        try:
            groups = ray.get(self.coordinator.usage.remote(), timeout=5)
        except ray.exceptions.RayError:
            return {}
        ready = [group for group in groups.values() if "ready_at" in group]
        if not ready:
            return {}
        available = sum(group.get("retired_at", time.time()) - group["ready_at"] for group in ready)
        busy = sum(group["busy_seconds"] for group in ready)
        return {
            "startup_seconds": min(group["ready_at"] for group in ready) - started_at,
            "busy_fraction": min(1.0, busy / available),
        }

    def startup_seconds(self, started_at: float) -> float | None:
        """How long the first group took from this time on to be ready; None before it is."""
        return self.usage(started_at).get("startup_seconds")

    def workers_of_trials(self) -> dict[str, int]:
        """How many workers each trial has that a group trains, by its key."""
        import ray

        return dict(ray.get(self.coordinator.workers_of_trials.remote()))

    def widen(self, sizes: Mapping[str, int]) -> list[str]:
        """Gives trials more workers after their epoch, see `Coordinator.widen`; the keys of those that do."""
        import ray

        return list(ray.get(self.coordinator.widen.remote(dict(sizes))))

    def make_room(self, sizes: Mapping[str, int]) -> list[str]:
        """Has trials give workers back for one that waits, see `Coordinator.make_room`; the keys of those that do."""
        import ray

        return list(ray.get(self.coordinator.make_room.remote(dict(sizes))))

    def narrow(self, size: int) -> list[int]:
        """Has groups that lost their workers come up again with no more, see `Coordinator.narrow`; their indices."""
        import ray

        return list(ray.get(self.coordinator.narrow.remote(size)))

    def close(self, timeout: float = 10.0) -> bool:
        """Ends the workers' loops and waits for the groups; kills those that do not end in time.

        Ray can be shut down afterwards. Returns whether all ended by themselves.
        """
        import ray

        self._closing = True
        for trainer in self._trainers:
            trainer.expect_end()
        with suppress(ray.exceptions.RayError):
            ray.get(self.coordinator.close.remote(), timeout=timeout)
        if self._join(timeout):
            return True
        self.kill()
        self._join(timeout=30.0)
        return False

    def forget(self) -> None:
        """Lets go of all actors, after `close`: see `connected` in samtune/raylib/cluster.py."""
        self._trainers.clear()
        self._threads.clear()
        self.coordinator = self._parts = None

    def kill(self) -> None:
        """Ends all groups at once."""
        self._closing = True
        for trainer in self._trainers:
            trainer.kill()

    def _join(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _ask_size(coordinator: Any, group_index: int, otherwise: int) -> int:
    """In Ray Train's controller: how many workers the group is to be started with."""
    import ray

    try:
        return int(ray.get(coordinator.workers_for_start.remote(group_index), timeout=_ANSWER_SECONDS))
    except ray.exceptions.RayError:  # it is being restarted, and will know of no other number
        return otherwise


def _tell_losses(coordinator: Any, group_index: int, losses: dict[int, str]) -> None:
    """In Ray Train's controller."""
    coordinator.workers_lost.remote(group_index, losses)
