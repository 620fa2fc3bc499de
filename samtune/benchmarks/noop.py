"""A search whose trials take no time: what is left is the driver's own work."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from samtune.config.space import SearchSpace
from samtune.experiments.plan import Plan
from samtune.experiments.tuner import Tuner
from samtune.raylib.cluster import Node
from samtune.storage import join
from samtune.study import Callback, Study, Trial
from samtune.workers.coordinator import Coordinator
from samtune.workers.protocol import Assignment, Reply, WorkerId


class NoopGroup:
    """An actor that asks the coordinator as a group of one worker does, and reports every epoch at once."""

    def run(self, coordinator: Any, index: int) -> None:
        worker, finished = WorkerId(index, 0, "only"), -1
        while (answer := ray.get(coordinator.next_assignment.remote(worker, finished))) is not Reply.END:
            if isinstance(answer, Assignment):
                self._train(coordinator, worker, answer)
                finished = answer.number

    def _train(self, coordinator: Any, worker: WorkerId, assignment: Assignment) -> None:
        for epoch in range(1, assignment.spec.num_epochs + 1):
            record = {"epoch": float(epoch), "val_accuracy": 0.5, "num_passes": 2.0 * epoch, "epoch_seconds": 0.0}
            answer = Reply.ASK_AGAIN
            while answer is Reply.ASK_AGAIN:
                answer = ray.get(coordinator.epoch_done.remote(worker, assignment.number, epoch, [record]))


class NoopPool:
    """A `WorkerPool` of such groups."""

    def __init__(self, num_groups: int, study: Study) -> None:
        self.num_groups = num_groups
        self.checkpoint_root = join(study.storage_path, "checkpoints")
        self.coordinator: Any = (
            ray.remote(Coordinator).options(num_cpus=0, max_concurrency=100_000).remote(1, num_groups=num_groups)
        )
        self._groups: list[Any] = [ray.remote(NoopGroup).options(num_cpus=0).remote() for _ in range(num_groups)]

    def start(self) -> None:
        self._running = [group.run.remote(self.coordinator, index) for index, group in enumerate(self._groups)]

    def capacity(self, nodes: Iterable[Node]) -> int:
        return self.num_groups

    def usage(self, started_at: float) -> dict[str, float]:
        return {}

    def needs(self) -> str:
        return "nothing"

    def kill(self) -> None:
        for group in self._groups:
            ray.kill(group)

    def forget(self) -> None:
        self.coordinator, self._groups, self._running = None, [], []

    def close(self, timeout: float = 10.0) -> bool:
        ray.get(self.coordinator.close.remote())
        ray.wait(self._running, num_returns=len(self._running), timeout=timeout)
        return True


class _NoopTuner(Tuner):
    def _make_pool(self, plan: Plan, study: Study) -> Any:
        return NoopPool(plan.num_groups, study)


@dataclass(frozen=True)
class Mark:
    """The driver after `num_trials` trials: wall and CPU seconds since the start of the process, memory in MiB."""

    num_trials: int
    wall: float
    cpu: float
    memory: float


class _Recorder(Callback):
    def __init__(self) -> None:
        self.marks: list[Mark] = []

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        count = len(self.marks) + 1
        self.marks.append(Mark(count, time.perf_counter(), time.process_time(), _resident_mib()))


def run_noop(space: SearchSpace, num_trials: int, num_groups: int, folder: Path) -> list[Mark]:
    """Runs trials of no duration, with journal, Optuna and MLflow as always. Returns a mark per trial."""
    recorder = _Recorder()
    tuner = _NoopTuner(
        space,
        num_trials=num_trials,
        num_workers=1,
        max_concurrent=num_groups,
        name=f"noop-{num_trials}-{time.time_ns()}",
        storage_path=folder,
        address="local",
        callbacks=[recorder],
    )
    tuner.fit()
    return recorder.marks


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20
