"""Warm worker groups on a real Ray: gloo ranks in real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from helpers.driver import Client, spec, worker_pids
from helpers.records import assert_records_agree
from ray.train import RunConfig, ScalingConfig

from samtune.raylib.driver_controller import GroupKilledError
from samtune.raylib.group_trainer import GroupTrainer
from samtune.workers.pool import WorkerPool
from samtune.workers.protocol import Outcome

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def pool(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    """Two groups of two workers, which share this machine's cores."""
    pool = WorkerPool(
        num_groups=2,
        num_workers=2,
        cpus_per_worker=0.25,
        gpus_per_worker=0,
        storage_path=str(tmp_path_factory.mktemp("pool")),
    )
    pool.start()
    deadline = time.monotonic() + 400
    while sum("ready_at" in group for group in ray.get(pool.coordinator.usage.remote()).values()) < 2:
        assert time.monotonic() < deadline, ray.get(pool.coordinator.events.remote(0))
        time.sleep(0.1)
    yield pool
    assert pool.close(timeout=60), "the groups did not end with their loops"


@pytest.fixture
def client(pool: WorkerPool) -> Client:
    return Client(pool)


def test_a_trial_gives_the_same_metrics_on_any_group_and_after_any_other_trial(client: Client) -> None:
    trial = spec(method__rho=0.1, training__lr=0.05)
    # Two at once take both groups; whichever is idle first takes the next.
    client.post("first", trial)
    client.post("twin", trial)
    first, twin = client.finish("first"), client.finish("twin")
    assert first.outcome is Outcome.COMPLETED
    assert [r.epoch for r in first.epochs] == [1, 2, 3]
    assert twin == first
    others = {"a": spec(seed=5), "b": spec(method__m=8), "c": spec(training__batch_size=32, training__lr=0.3)}
    for name, other in others.items():
        client.post(name, other)
    assert len({tuple(client.finish(name).epochs[-1].metrics.items()) for name in others}) == 3
    client.post("again", trial)
    client.post("and again", trial)
    assert client.finish("again") == first
    assert client.finish("and again") == first


def test_a_trial_on_parts_of_the_network_has_the_records_of_one_on_whole_networks(client: Client) -> None:
    whole = client.run("whole", spec(method__m="global", training__lr=0.05))
    parts = client.run("parts", spec(method__m="global", training__lr=0.05, training__parallel="fsdp"))
    assert whole.outcome is parts.outcome is Outcome.COMPLETED
    assert [record.epoch for record in parts.epochs] == [1, 2, 3]
    found, wanted = ([record.metrics for record in run.epochs] for run in (parts, whole))
    assert_records_agree(found, wanted, tolerance=0.03)


def test_workers_stay_the_same_processes_from_trial_to_trial(client: Client) -> None:
    client.run("before", spec(seed=1))
    before = worker_pids()
    client.run("after", spec(seed=2))
    assert len(before) == 4
    assert worker_pids() == before


@pytest.mark.parametrize(
    ("in_driver", "error"), [(True, GroupKilledError), (False, ray.exceptions.RayActorError)], ids=["driver", "actor"]
)
def test_a_group_can_be_killed_and_has_ray_train_s_barrier_wherever_its_controller_is(
    in_driver: bool, error: type[Exception], tmp_path: Path
) -> None:
    def meet_and_stay(config: dict[str, Any]) -> None:
        import ray.train.collective

        word = ray.train.collective.broadcast_from_rank_zero(ray.train.get_context().get_world_rank() + 7)
        (tmp_path / str(os.getpid())).write_text(str(word))
        time.sleep(3600)

    trainer = GroupTrainer(
        meet_and_stay,
        in_driver=in_driver,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.25}),
        run_config=RunConfig(name="killed", storage_path=str(tmp_path / "ray")),
    )
    with ThreadPoolExecutor() as threads:
        fitted = threads.submit(trainer.fit)
        while len(found := [file for file in tmp_path.iterdir() if file.name.isdecimal() and file.read_text()]) < 2:
            assert not fitted.done(), fitted.exception()
            time.sleep(0.1)
        processes = [psutil.Process(int(file.name)) for file in found]
        trainer.kill()
        with pytest.raises(error):
            fitted.result()
    assert [file.read_text() for file in found] == ["7", "7"]
    assert psutil.wait_procs(processes, timeout=300)[1] == []


def test_a_trial_that_cannot_be_built_fails_with_its_traceback_and_the_next_one_runs(client: Client) -> None:
    # 400 examples cannot fill this batch: only the workers see that.
    before = worker_pids()
    bad = client.run("bad", spec(training__batch_size=1024))
    assert bad.outcome is Outcome.FAILED
    assert bad.failure is not None
    assert "batch_size must not exceed the training examples" in bad.failure.error
    assert "Traceback" in bad.failure.traceback
    assert client.run("good", spec(seed=3)).outcome is Outcome.COMPLETED
    deadline = time.monotonic() + 240
    while len(now := worker_pids()) != 4 or len(now & before) != 2:  # its group gets new workers
        assert time.monotonic() < deadline, (before, now)
        time.sleep(0.1)


def test_a_diverging_trial_fails_with_the_reason_and_keeps_its_workers(client: Client) -> None:
    client.run("warm", spec(seed=4))
    before = worker_pids()
    bad = client.run("wild", spec(training__lr=1e30, training__momentum=0.0, training__schedule="constant"))
    assert bad.outcome is Outcome.FAILED
    assert bad.failure is not None
    assert bad.failure.error.startswith("diverged: train_loss is ")
    assert client.run("calm", spec(seed=5)).outcome is Outcome.COMPLETED
    assert worker_pids() == before
