"""Processes that die or hang while a trial is trained: it goes on from its last checkpoint, with the same result."""

from __future__ import annotations

import os
import pickle
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from helpers import dying
from helpers.driver import Client, pids, spec, worker_pids
from helpers.hosted import make_spec

from samtune.config.search import CheckpointConfig
from samtune.workers.coordinator import Coordinator
from samtune.workers.pool import WorkerPool
from samtune.workers.protocol import Outcome, WorkerId

pytestmark = pytest.mark.cluster

EPOCHS = 6


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file without which `helpers.dying` does nothing; known to the Ray that is started after it."""
    path = tmp_path_factory.mktemp("gate") / "open"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(dying.GATE, str(path))
        yield path


@pytest.fixture(scope="module")
def pool(gate: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    """One group of two workers that saves after every epoch."""
    pool = WorkerPool(
        num_groups=1,
        num_workers=2,
        cpus_per_worker=0.5,
        gpus_per_worker=0,
        storage_path=str(tmp_path_factory.mktemp("pool")),
        checkpoint=CheckpointConfig(min_seconds=0),
        max_failures=1,
        timeout=15,
    )
    pool.start()
    yield pool
    assert pool.close(timeout=60), "the group did not end with its loop"


@pytest.fixture
def client(pool: WorkerPool) -> Client:
    return Client(pool)


def hold_at_epoch_3(client: Client, trial_id: str, seed: int) -> None:
    """A trial whose workers wait after epoch 3 for the scheduler."""
    client.post(trial_id, spec(training__epochs=EPOCHS, seed=seed), target=3)
    assert len(client.records(trial_id, 3)) == 3


def restarts_of(client: Client) -> list[str]:
    """The lines on lost workers so far."""
    return [line for line in ray.get(client.coordinator.events.remote(0)) if "lost a worker" in line]


def num_restarts(client: Client) -> int:
    return len(restarts_of(client))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_costs_a_restart_and_changes_no_result(client: Client, victim: int) -> None:
    undisturbed = client.run(f"undisturbed {victim}", spec(training__epochs=EPOCHS, seed=victim))
    hold_at_epoch_3(client, f"disturbed {victim}", seed=victim)
    before, restarts = worker_pids(), num_restarts(client)
    os.kill(sorted(before)[victim], signal.SIGKILL)
    assert client.finish(f"disturbed {victim}") == undisturbed
    (line,) = restarts_of(client)[restarts:]
    killed = r"group 0 lost a worker and was restarted: worker [01] was killed by SIGKILL, or ended by native code"
    assert re.match(killed, line)
    assert not worker_pids() & before  # Ray Train replaces them all
    assert undisturbed.outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("loss", "words"),
    [("exits", r"called os\._exit\(3\) \(.*dying\.py, line \d+\)"), ("aborts", r"crashed: Aborted in aborts \(.*\)")],
)
def test_what_a_trial_s_own_code_did_to_its_worker_is_told(client: Client, loss: str, words: str, gate: Path) -> None:
    gate.touch()
    ended = client.run(loss, spec(training__loss=f"helpers.dying:{loss}", training__epochs=1))
    assert ended.outcome is Outcome.COMPLETED  # it happened once
    assert re.search(rf"lost a worker and was restarted: worker [01] {words}$", restarts_of(client)[-1])


def test_a_killed_worker_changes_no_result_of_a_training_function(client: Client) -> None:
    own = make_spec("by_step", training={"epochs": EPOCHS, "batch_size": 20})
    undisturbed = client.run("own undisturbed", own)
    client.post("own disturbed", own, target=3)
    assert len(client.records("own disturbed", 3)) == 3
    os.kill(min(worker_pids()), signal.SIGKILL)
    assert client.finish("own disturbed") == undisturbed
    assert undisturbed.outcome is Outcome.COMPLETED
    assert len(undisturbed.epochs) == EPOCHS


def test_a_hung_worker_is_replaced_and_changes_no_result(client: Client) -> None:
    undisturbed = client.run("awake", spec(training__epochs=EPOCHS, seed=20))
    hold_at_epoch_3(client, "hung", seed=20)
    before = worker_pids()
    os.kill(min(before), signal.SIGSTOP)
    assert client.finish("hung", seconds=200) == undisturbed
    assert "ended itself, since an epoch took longer than 15 s (timeout)" in restarts_of(client)[-1]
    assert not worker_pids() & before


def test_a_killed_mailbox_loses_no_trial(client: Client) -> None:
    undisturbed = client.run("kept", spec(training__epochs=EPOCHS, seed=30))
    hold_at_epoch_3(client, "lost", seed=30)
    (coordinator,) = pids("Coordinator")
    os.kill(coordinator, signal.SIGKILL)
    assert client.finish("lost") == undisturbed


def test_a_trial_that_keeps_killing_its_workers_fails_and_the_next_one_runs(client: Client) -> None:
    hold_at_epoch_3(client, "killer", seed=40)
    gone: set[int] = set()
    for _ in range(2):  # max_failures is 1
        restarts, deadline = num_restarts(client), time.time() + 240
        while not (new := worker_pids() - gone):  # those of before may not have ended yet
            assert time.time() < deadline
            time.sleep(0.1)
        gone |= worker_pids()
        os.kill(min(new), signal.SIGKILL)
        while num_restarts(client) == restarts:
            assert time.time() < deadline
            time.sleep(0.1)
    failed = client.finish("killer")
    assert failed.outcome is Outcome.FAILED
    assert failed.failure is not None
    assert failed.failure.error.startswith("lost its workers 2 times (max_failures is 1)")
    assert re.search(r"; the last time: worker [01] was killed by SIGKILL", failed.failure.error)
    assert client.run("calm", spec(seed=41)).outcome is Outcome.COMPLETED


def test_a_loss_that_ray_train_has_not_seen_yet_is_found_out(local_ray: None) -> None:
    """On a busy machine all that Ray Train tells at first is the broken collective of another rank."""

    @ray.remote
    class Process:
        def pid(self) -> int:
            return os.getpid()

    coordinator = ray.remote(Coordinator).options(num_cpus=0, max_concurrency=100).remote(3)
    _, _, ended = processes = [Process.options(num_cpus=0).remote() for _ in range(3)]
    pid, *_ = ray.get([process.pid.remote() for process in processes])

    def start(generation: str) -> None:
        ray.get(
            [
                coordinator.next_assignment.remote(WorkerId(0, rank, generation), -1, pickle.dumps(process))
                for rank, process in enumerate(processes)
            ]
        )

    start("first")
    os.kill(pid, signal.SIGKILL)
    ray.kill(ended)  # as Ray Train ends those that are left
    ray.get(coordinator.workers_lost.remote(0, {}))
    start("second")
    (line,) = (line for line in ray.get(coordinator.events.remote(0)) if "lost a worker" in line)
    assert line.startswith("group 0 lost a worker and was restarted: worker 0 was killed by SIGKILL")
    assert "worker 1" not in line
    assert "worker 2" not in line
