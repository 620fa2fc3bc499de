"""Drives a worker pool as Trainables do, and finds its processes."""

from __future__ import annotations

import time
from typing import Any

import psutil
import ray

from helpers.ray_internals import raylet_pid
from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.study import EpochRecord
from samtune.workers.pool import WorkerPool
from samtune.workers.protocol import Outcome, Progress, Reply

SPACE = SearchSpace.from_yaml(
    "digits.yaml", ["training.epochs=3", "data.num_train=400", "search={}", "initial=[]", "resources.num_workers=2"]
)
TIMES = ("epoch_seconds", "train_seconds")
FAR = 1000


def spec(**changes: Any) -> TrialSpec:
    return SPACE.replace({key.replace("__", "."): value for key, value in changes.items()}).trial({})


class Client:
    """Posts trials and collects their records, as the Trainables do."""

    def __init__(self, pool: WorkerPool) -> None:
        self.coordinator = pool.coordinator
        self.posted: dict[str, TrialSpec] = {}

    def post(self, trial_id: str, trial: TrialSpec, target: int = FAR) -> None:
        self.posted[trial_id] = trial
        ray.get(self.coordinator.assign.remote(trial_id, trial, target))

    def records(self, trial_id: str, at_least: int) -> list[dict[str, float]]:
        """The records so far, once there are so many."""
        records: list[dict[str, float]] = []
        while len(records) < at_least:
            progress = ray.get(self.coordinator.progress.remote(trial_id, len(records), 0))
            if isinstance(progress, Progress):
                records += [epoch.metrics for epoch in progress.epochs]
                assert progress.outcome is not Outcome.FAILED, progress
        return records

    def finish(self, trial_id: str, seconds: float = 400) -> Progress:
        """Waits for the end of a trial; all its records, without the wall times."""
        records: list[dict[str, float]] = []
        deadline = time.time() + seconds
        while time.time() < deadline:
            progress = ray.get(self.coordinator.progress.remote(trial_id, len(records), FAR))
            if progress is Reply.RESTART:
                self.post(trial_id, self.posted[trial_id])
            if isinstance(progress, Progress):
                records += [{k: v for k, v in e.metrics.items() if k not in TIMES} for e in progress.epochs]
                if progress.outcome is not None:
                    ray.get(self.coordinator.end.remote(trial_id))
                    return Progress([EpochRecord(r) for r in records], progress.outcome, progress.failure)
        raise AssertionError(f"trial {trial_id} did not end within {seconds} s")

    def run(self, trial_id: str, trial: TrialSpec) -> Progress:
        self.post(trial_id, trial)
        return self.finish(trial_id)


def pids(*names: str) -> set[int]:
    """The processes whose titles, by Ray, begin with one of these, among the descendants of this test's Ray."""
    found = set()
    for child in psutil.Process(raylet_pid()).children(recursive=True):
        try:
            if "".join(child.cmdline()[:1]).startswith(tuple(f"ray::{name}" for name in names)):
                found.add(child.pid)
        except psutil.NoSuchProcess:  # or a zombie
            continue
    return found


def worker_pids() -> set[int]:
    return pids("RayTrainWorker", "execute._")  # the second while a group starts
