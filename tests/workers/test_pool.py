"""Warm worker groups on a real Ray: gloo ranks, real processes, real signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from samtune.spec.space import SearchSpace
from samtune.spec.trial import TrialSpec
from samtune.workers.group import WorkerPool
from samtune.workers.mailbox import Outcome, Progress

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SPACE = SearchSpace.from_yaml(
    "digits.yaml", ["training.epochs=3", "data.num_train=400", "search={}", "initial=[]", "resources.num_workers=2"]
)
TIMES = ("epoch_seconds", "train_seconds")


def spec(**changes: Any) -> TrialSpec:
    return SPACE.replace({key.replace("__", "."): value for key, value in changes.items()}).trial({})


@pytest.fixture(scope="module")
def pool(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    """Two groups of two workers, which share this machine's cores."""
    pool = WorkerPool(
        num_groups=2,
        num_workers=2,
        cpus_per_worker=0.25,
        gpus_per_worker=0,
        storage_path=str(tmp_path_factory.mktemp("pool")),
        max_failures=2,
    )
    pool.start()
    yield pool
    assert pool.close(timeout=60), "the groups did not end with their loops"


class Client:
    """Posts trials and collects their records, as the Trainables do."""

    def __init__(self, pool: WorkerPool) -> None:
        self.mailbox = pool.mailbox

    def post(self, trial_id: str, trial: TrialSpec, target: int = 1000) -> None:
        ray.get(self.mailbox.assign.remote(trial_id, trial, target))

    def records(self, trial_id: str, at_least: int) -> list[dict[str, float]]:
        """The records so far, once there are so many."""
        records: list[dict[str, float]] = []
        while len(records) < at_least:
            progress = ray.get(self.mailbox.progress.remote(trial_id, len(records), 1000))
            records += progress.records if progress else []
            assert progress is None or progress.outcome is not Outcome.FAILED, progress
        return records

    def finish(self, trial_id: str, seconds: float = 120) -> Progress:
        """Waits for the end of a trial; all its records, without the wall times."""
        records: list[dict[str, float]] = []
        deadline = time.time() + seconds
        while time.time() < deadline:
            progress = ray.get(self.mailbox.progress.remote(trial_id, len(records), 1000))
            if progress is not None:
                records += [{k: v for k, v in r.items() if k not in TIMES} for r in progress.records]
                if progress.outcome is not None:
                    ray.get(self.mailbox.end.remote(trial_id))
                    return Progress(records, progress.outcome, progress.failure)
        raise AssertionError(f"trial {trial_id} did not end within {seconds} s")

    def run(self, trial_id: str, trial: TrialSpec) -> Progress:
        self.post(trial_id, trial)
        return self.finish(trial_id)


@pytest.fixture
def client(pool: WorkerPool) -> Client:
    return Client(pool)


def worker_pids() -> set[int]:
    """The processes of all Ray Train workers that descend from this test's Ray."""
    return {
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
    }


def test_a_trial_gives_the_same_metrics_on_any_group_and_after_any_other_trial(client: Client) -> None:
    trial = spec(method__rho=0.1, training__lr=0.05)
    # Two at once take both groups; whichever is idle first takes the next.
    client.post("first", trial)
    client.post("twin", trial)
    first, twin = client.finish("first"), client.finish("twin")
    assert first.outcome is Outcome.COMPLETED
    assert [r["epoch"] for r in first.records] == [1, 2, 3]
    assert twin == first
    others = {"a": spec(seed=5), "b": spec(method__m=8), "c": spec(training__batch_size=32, training__lr=0.3)}
    for name, other in others.items():
        client.post(name, other)
    assert len({tuple(client.finish(name).records[-1].items()) for name in others}) == 3
    client.post("again", trial)
    client.post("and again", trial)
    assert client.finish("again") == first
    assert client.finish("and again") == first


def test_workers_stay_the_same_processes_from_trial_to_trial(client: Client) -> None:
    client.run("before", spec(seed=1))
    before = worker_pids()
    client.run("after", spec(seed=2))
    assert len(before) == 4
    assert worker_pids() == before


def test_a_trial_that_cannot_be_built_fails_with_its_traceback_and_the_next_one_runs(client: Client) -> None:
    # 400 examples cannot fill this batch: only the workers see that.
    bad = client.run("bad", spec(training__batch_size=1024))
    assert bad.outcome is Outcome.FAILED
    assert bad.failure is not None
    assert "batch_size must not exceed the training examples" in bad.failure.error
    assert "Traceback" in bad.failure.traceback
    assert client.run("good", spec(seed=3)).outcome is Outcome.COMPLETED


def test_a_diverging_trial_fails_with_the_reason_and_keeps_its_workers(client: Client) -> None:
    client.run("warm", spec(seed=4))
    before = worker_pids()
    bad = client.run("wild", spec(training__lr=1e30, training__momentum=0.0, training__schedule="constant"))
    assert bad.outcome is Outcome.FAILED
    assert bad.failure is not None
    assert bad.failure.error.startswith("diverged: train_loss is ")
    assert client.run("calm", spec(seed=5)).outcome is Outcome.COMPLETED
    assert worker_pids() == before


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_costs_a_restart_and_changes_no_result(client: Client, victim: int) -> None:
    trial = spec(training__epochs=6, seed=10 + victim)
    undisturbed = client.run(f"undisturbed {victim}", trial)
    client.post(f"disturbed {victim}", trial, target=3)  # waits after epoch 3
    client.records(f"disturbed {victim}", 2)
    os.kill(sorted(worker_pids())[victim], signal.SIGKILL)
    os.kill(sorted(worker_pids())[-1 - victim], signal.SIGKILL)  # of the other group, most likely
    assert client.finish(f"disturbed {victim}") == undisturbed
