"""Searches on three nodes of one machine, which come and go."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.util.state
from helpers.complete import results_alone, results_of
from helpers.ray_internals import drain_spot_node, node_of_the_worker
from ray.cluster_utils import Cluster
from torch import Tensor, nn

from samtune import Callback, Results, SearchSpace, Trial, TrialState, Tuner
from samtune.raylib.cluster import connected
from samtune.raylib.runtime_env import own_modules
from samtune.study import Study

pytestmark = pytest.mark.cluster

NUM_EPOCHS = 20
SMALL = [
    f"training.epochs={NUM_EPOCHS}",
    "data.num_train=200",
    "model={name: mlp, depth: 2, width: 8}",
    "checkpoint.min_seconds=0",
    "sampler={name: random}",
    f"scheduler={{name: asha, grace_period: {NUM_EPOCHS}}}",  # stops none, but is asked after every epoch
]


@contextmanager
def started(**head: Any) -> Iterator[Cluster]:
    """A head that takes no workers and two nodes for one worker each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **head})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def steady() -> Iterator[Cluster]:
    """A cluster whose nodes stay, with a dashboard, which has Ray's state API."""
    with started(include_dashboard=True, dashboard_port=0) as cluster:
        yield cluster


@pytest.fixture
def changing() -> Iterator[Cluster]:
    """A cluster whose nodes may come and go."""
    soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}  # a dead node is noticed
    with started(include_dashboard=False, _system_config=soon) as cluster:
        yield cluster


class Script(Callback):
    """Does things to the cluster at given points of a search, and keeps what was said."""

    def __init__(self, *acts: tuple[Callable[[Study], bool], Callable[[Study], None]]) -> None:
        self._acts = list(acts)
        self.said: list[str] = []

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        if self._acts:
            if self._acts[0][0](study):
                self._acts.pop(0)[1](study)
            time.sleep(0.2)  # the workers wait for the scheduler: they stay in step

    def on_status(self, study: Study, message: str) -> None:
        self.said.append(message)

    @property
    def is_over(self) -> bool:
        return not self._acts


def search(
    folder: Path,
    name: str,
    address: str,
    *callbacks: Callback,
    num_trials: int,
    changes: dict[str, Any] | None = None,
    model: Callable[..., Any] | None = None,
) -> Results:
    space = SearchSpace.from_yaml("digits.yaml", SMALL)
    return Tuner(
        space.replace(changes or {}),
        num_trials=num_trials,
        num_workers=1,
        seed=1,
        name=name,
        storage_path=folder,
        address=address,
        callbacks=callbacks,
        model=model,
    ).fit()


def groups_of(trial: Trial) -> set[int]:
    return {record.group for record in trial.history.records if record.group is not None}


def assert_no_placement_group_is_left(address: str, states: Callable[[], set[str]] | None = None) -> None:
    """Waits for it: a group that a search leaves behind goes some time after the driver has."""
    states = states or (lambda: {entry["state"] for entry in ray.util.placement_group_table().values()})
    deadline = time.monotonic() + 60
    with connected(address):
        while (found := states()) - {"REMOVED"}:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


def test_before_a_spot_node_is_taken_away_its_trial_is_saved_and_moves(changing: Cluster, tmp_path: Path) -> None:
    cluster = changing
    drained: list[str] = []
    saved: list[str] = []

    def make_slow(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        """A network whose epoch of 300 steps takes at least 12 seconds on any machine: time to notice and to move."""

        class Slow(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                time.sleep(0.02)
                return super().forward(inputs.flatten(1))

        return Slow(math.prod(input_shape), num_classes)

    def drain(study: Study) -> None:
        """What the autoscaler, or a handler of the cloud's notice, tells Ray."""
        drained.append(node_of_the_worker())
        drain_spot_node(cluster.address, drained[0])

    def moved(study: Study) -> bool:
        return node_of_the_worker() != drained[0]

    def look(study: Study) -> None:
        saved.extend(path.name for path in Path(study.storage_path).glob("checkpoints/*/*.pt"))

    script = Script((lambda study: len(study.trials[0].history) == 1, drain), (moved, look))
    rare = {"data.num_train": 600, "checkpoint.min_seconds": 10_000}  # no other checkpoint is written
    changes = rare | {"training.batch_size": 2, "training.epochs": 2, "scheduler": {"name": "none"}}
    results = search(tmp_path, "spot", cluster.address, script, num_trials=1, changes=changes, model=make_slow)
    assert script.is_over
    assert "group 0 leaves its node, which is about to be taken away" in script.said
    assert not any(re.search("lost (a|its)", line) for line in script.said), script.said
    assert results.best.state is TrialState.COMPLETED
    (name,) = saved
    assert re.fullmatch(r"epoch-000001-\d{9}\.pt", name)  # in the middle of the second epoch, and went on from there
    assert_no_placement_group_is_left(cluster.address)


def test_groups_follow_the_nodes_and_no_result_changes(changing: Cluster, tmp_path: Path) -> None:
    cluster = changing
    nodes = list(cluster.worker_nodes)

    def add(study: Study) -> None:
        nodes.append(cluster.add_node(num_cpus=1))
        wait_for("group 2 is ready")

    def kill(study: Study) -> None:
        """One of the first two, but not the one that the driver is connected to.

        Its workers live on for a moment: the trials wait, or that of the lost node would end before it is missed.
        """
        here = ray.get_runtime_context().get_node_id()
        cluster.remove_node(next(node for node in nodes if node.node_id != here), allow_graceful=False)
        wait_for("lost its node")

    def wait_for(words: str) -> None:
        deadline = time.monotonic() + 240
        while not any(words in line for line in script.said):
            assert time.monotonic() < deadline, script.said
            time.sleep(0.1)

    def three_trials_are_in_the_middle(study: Study) -> bool:
        running = [trial for trial in study if trial.state is TrialState.RUNNING]
        middle = all(2 <= len(trial.history) <= NUM_EPOCHS - 2 for trial in running)
        return len(running) == 3 and middle and any(2 in groups_of(trial) for trial in running)

    script = Script((lambda study: len(study.trials) >= 2, add), (three_trials_are_in_the_middle, kill))
    results = search(tmp_path, "disturbed", cluster.address, script, num_trials=8)
    assert script.is_over
    assert "nodes were added: starting 1 more worker group" in script.said
    assert results.study.count(TrialState.COMPLETED) == 8, [trial.error for trial in results]
    assert sum("lost its node; it restarts where there is room" in line for line in script.said) == 1, script.said
    assert set().union(*(groups_of(trial) for trial in results)) == {0, 1, 2}
    assert any(len(groups_of(trial)) == 2 for trial in results)  # went on in another group
    assert_no_placement_group_is_left(cluster.address)
    assert results_of(results.study) == results_alone(results.study, tmp_path / "alone")


def test_no_placement_group_is_left_where_the_dashboard_runs(steady: Cluster, tmp_path: Path) -> None:
    """After pruned and failed trials and a search that was stopped, as Ray's state API tells, which needs it."""

    class StopsWhenBothHappened(Callback):
        def on_trial_end(self, study: Study, trial: Trial) -> None:
            if study.count(TrialState.PRUNED) and study.count(TrialState.FAILED):
                tuner.stop("enough")

    space = SearchSpace.from_yaml(
        "digits.yaml",
        [
            *("training.epochs=4", "data.num_train=600", "scheduler={name: asha, grace_period: 1}"),
            *("search={training.lr: {log_uniform: [1e-6, 1e30]}}",),
            "initial=[{training.lr: 1e30}, {training.lr: 0.1}, {training.lr: 1e-6}, {training.lr: 1e-5}]",
        ],
    )
    where = {"storage_path": tmp_path, "address": steady.address}
    # One group, so the order is known: the first trial's loss is NaN in its second epoch, the third is pruned.
    tuner = Tuner(space, num_trials=20, num_workers=2, callbacks=[StopsWhenBothHappened()], **where)
    study = tuner.fit().study
    assert study.stopped_by == "enough"

    def states() -> set[str]:  # the API would look for a cluster by itself, and other tests have theirs
        return {group.state for group in ray.util.state.list_placement_groups(address=steady.address)}

    assert_no_placement_group_is_left(steady.address, states)


def test_code_of_the_working_directory_travels(
    steady: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "code"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "__init__.py").touch()
    (folder / "parts" / "layers.py").write_text("from torch import nn\n\nactivation = nn.Tanh\n")
    (folder / "nets_that_travel.py").write_text(
        "from torch import nn\nfrom parts.layers import activation\n\n\ndef make(num_classes, input_shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), activation(), nn.Linear(16, num_classes))\n"
    )
    (folder / "data.bin").write_bytes(bytes(1000))
    monkeypatch.syspath_prepend(folder)
    assert own_modules(["nets_that_travel:make", "torch.nn:Linear", 3]) == [
        str(folder / "nets_that_travel.py"),
        str(folder / "parts"),
    ]

    class HidesTheCode(Callback):
        """This machine is the other nodes' too: without it, they would find the code where it is."""

        def on_study_start(self, study: Study) -> None:
            folder.rename(tmp_path / "hidden")

    changes = {"model": {"name": "nets_that_travel:make"}, "training.epochs": 1, "scheduler": {"name": "none"}}
    results = search(tmp_path, "own", steady.address, HidesTheCode(), num_trials=1, changes=changes)
    assert results.study.count(TrialState.COMPLETED) == 1, [trial.error for trial in results]


def test_two_searches_share_a_cluster(steady: Cluster, tmp_path: Path) -> None:
    """Each would like both nodes: neither waits for ever with half of what it needs."""
    command = [sys.executable, "-m", "samtune", "search", "--space", "digits.yaml", "--address", steady.address]
    command += ["--num-workers", "2", "--num-trials", "2", "--set", "training.epochs=2"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_")) or k.startswith("RAY_AUTH")}
    searches = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with (tmp_path / f"{name}.log").open("w") as log:
            searches.append(subprocess.Popen(command, cwd=tmp_path / name, env=clean, stdout=log, stderr=log))
    try:
        for process in searches:
            assert process.wait(timeout=180) == 0, [path.read_text() for path in tmp_path.glob("*.log")]
    finally:
        for process in searches:
            process.kill()
    assert_no_placement_group_is_left(steady.address)
