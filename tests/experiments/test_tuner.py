"""The programmatic face, in the user's own process."""

from __future__ import annotations

import gc
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from helpers.driver import worker_pids
from mlflow.tracking import MlflowClient
from ray.actor import ActorHandle

from samtune import Callback, Results, SearchSpace, Trial, TrialState, Tuner, UsageError
from samtune.errors import TrackingError
from samtune.study import Study

SMALL = ["training.epochs=2", "data.num_train=300", "resources.num_workers=1", "resources.cpus_per_worker=0.5"]


class Diary(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_study_start(self, study: Study) -> None:
        self.lines.append("study")

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        self.lines.append(f"start {trial.number}")

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self.lines.append(f"epoch {trial.number} {metrics['epoch']:.0f}")

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self.lines.append(f"end {trial.number} {trial.state}")

    def on_study_end(self, study: Study) -> None:
        self.lines.append("end")


class StopsAfterTwo(Callback):
    """Ends the search of `tuner` after its second trial."""

    tuner: Tuner
    num_ended = 0

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self.num_ended += 1
        if trial.number == 1:
            self.tuner.stop("seen enough")


def search(folder: Path, name: str, *callbacks: Callback, num_trials: int = 3) -> Results:
    space = SearchSpace.from_yaml("digits.yaml", [*SMALL, "sampler={name: tpe, num_startup_trials: 1}"])
    tuner = Tuner(
        space,
        num_trials=num_trials,
        max_concurrent=1,
        seed=3,
        name=name,
        storage_path=folder,
        address="local",
        callbacks=callbacks,
    )
    for callback in callbacks:
        if isinstance(callback, StopsAfterTwo):
            callback.tuner = tuner
    return tuner.fit()


@pytest.mark.cluster
def test_a_search_from_python_and_the_same_search_again_which_a_callback_stops(tmp_path: Path) -> None:
    diary = Diary()
    results = search(tmp_path, "one", diary)
    # They would end actors of the next cluster in this process, whose ids are the same.
    assert not [found for found in gc.get_objects() if issubclass(type(found), ActorHandle)]
    assert not ray.is_initialized()
    assert diary.lines == ["study"] + [
        line
        for number in range(3)
        for line in (f"start {number}", f"epoch {number} 1", f"epoch {number} 2", f"end {number} completed")
    ] + ["end"]
    assert [trial.state for trial in results] == [TrialState.COMPLETED] * 3
    values = [trial.metrics["val_accuracy"] for trial in results]
    assert values == sorted(values, reverse=True)
    assert results.best.metrics["val_accuracy"] == values[0]
    table = results.to_pandas()
    assert len(table) == len(results) == 3
    assert {"trial", "state", "seconds", "method.rho", "training.lr", "val_accuracy"} <= set(table.columns)

    again = search(tmp_path, "two", stops := StopsAfterTwo(), num_trials=100)
    assert stops.num_ended >= 2
    assert again.study.stopped_by == "seen enough"
    assert 2 <= len(again) < 100
    assert all(trial.state.is_final for trial in again)
    assert again.study.count(TrialState.COMPLETED) >= 2
    before, after = ({trial.number: trial for trial in each} for each in (results, again))
    timed = {"epoch_seconds", "train_seconds"}
    for number in (0, 1):
        assert after[number].config == before[number].config
        assert [{k: v for k, v in epoch.items() if k not in timed} for epoch in after[number].history] == [
            {k: v for k, v in epoch.items() if k not in timed} for epoch in before[number].history
        ]

    with pytest.raises(UsageError, match="a study of that name"):
        search(tmp_path, "one")


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_ctrl_c_in_the_middle_of_a_line_does_not_wait_for_it(tmp_path: Path) -> None:
    class Display(Callback):
        def __init__(self) -> None:
            self.lock, self.said = threading.Lock(), [""]

        def on_trial_end(self, study: Study, trial: Trial) -> None:
            with self.lock:
                signal.raise_signal(signal.SIGINT)

        def on_status(self, study: Study, message: str) -> None:
            assert self.lock.acquire(timeout=120), "the line that was interrupted cannot end before this one"
            self.said.append(message)
            self.lock.release()

    display = Display()
    results = search(tmp_path, "cut", display, num_trials=20)
    assert results.interrupted
    assert results.study.count(TrialState.COMPLETED) == 1
    assert any(line.startswith("interrupted: stopping the workers") for line in display.said)


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_a_tracking_server_that_does_not_answer_ends_the_workers_that_start_meanwhile(tmp_path: Path) -> None:
    space = SearchSpace.from_yaml("digits.yaml", SMALL)
    tuner = Tuner(space, name="s", storage_path=tmp_path / "studies", tracking_uri="http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        tuner.fit()
    assert not (tmp_path / "studies").exists()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("group-")] == []
    deadline = time.time() + 120
    while worker_pids():
        assert time.time() < deadline
        time.sleep(0.1)


@pytest.mark.usefixtures("local_ray")
def test_a_callback_that_raises_ends_the_search_in_order_with_its_own_error(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
            raise LookupError("my own mistake")

    space = SearchSpace.from_yaml("digits.yaml", SMALL)
    tuner = Tuner(
        space, num_trials=50, max_concurrent=1, name="x", storage_path=tmp_path, address="local", callbacks=[Broken()]
    )
    with pytest.raises(LookupError, match="my own mistake"):
        tuner.fit()
    runs = MlflowClient(tuner.tracking_uri).search_runs([tuner.study.experiment_id or ""])
    assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
    deadline = time.monotonic() + 240
    while worker_pids():  # the cluster is the module's: the search gives back what it took of it
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["../escape", "a/b", ".", "x" * 200])
def test_a_name_that_would_not_do_for_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    space = SearchSpace.from_yaml("digits.yaml")
    with pytest.raises(UsageError, match=r"^name \S"):
        Tuner(space, name=name, storage_path=tmp_path)


def test_a_space_may_be_given_as_its_file_or_its_keys_and_what_is_not_a_callback_is_refused(tmp_path: Path) -> None:
    space = Tuner("digits.yaml", storage_path=tmp_path).space
    assert space.name == "digits"
    assert Tuner(space.model_dump(), storage_path=tmp_path).space.to_yaml() == space.to_yaml()
    with pytest.raises(UsageError, match="no such search space"):
        Tuner("digit.yaml", storage_path=tmp_path)
    with pytest.raises(UsageError, match=r"callbacks: must be instances of samtune\.Callback"):
        Tuner(space, storage_path=tmp_path, callbacks=[Callback])  # type: ignore[list-item]


def test_the_arguments_replace_the_space_s_own_and_are_validated(tmp_path: Path) -> None:
    space = SearchSpace.from_yaml("digits.yaml")
    tuner = Tuner(space, num_trials=5, num_workers=4, seed=9, max_concurrent=2, storage_path=tmp_path)
    assert (tuner.space.num_trials, tuner.space.resources.num_workers, tuner.space.seed) == (5, 4, 9)
    assert tuner.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(UsageError, match="num_workers"):
        Tuner(space, num_workers=3)
    with pytest.raises(UsageError, match="max-concurrent"):
        Tuner(space, max_concurrent=0)
    with pytest.raises(UsageError, match="storage_path"):
        Tuner(space, storage_path="gs://bucket/studies")
    assert list(tmp_path.iterdir()) == []
