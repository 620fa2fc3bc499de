"""Schedulers that pause, stop and change trials: real searches on digits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.storages.journal import JournalFileBackend

from samtune import Callback, Results, SearchSpace, Trial, TrialState, Tuner
from samtune.study import Study

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]

SMALL = ["data.num_train=200", "resources.num_workers=1", "resources.cpus_per_worker=0.5", "sampler={name: random}"]


class Told(Callback):
    """Keeps what it is told: the configuration of every change, and the lines."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, dict[str, object]]] = []
        self.lines: list[str] = []

    def on_trial_change(self, study: Study, trial: Trial) -> None:
        self.changes.append((trial.number, dict(trial.config)))

    def on_status(self, study: Study, message: str) -> None:
        self.lines.append(message)


def search(folder: Path, *settings: str, num_groups: int = 1, told: Told | None = None) -> Results:
    space = SearchSpace.from_yaml("digits.yaml", [*SMALL, *settings])
    callbacks = [told] if told else []
    return Tuner(
        space, max_concurrent=num_groups, name="s", storage_path=folder, address="local", callbacks=callbacks
    ).fit()


def runs_of(results: Results) -> dict[int, Run]:
    """MLflow's, by the number of the trial."""
    study = results.study
    client = MlflowClient(study.tracking_uri)
    runs = client.search_runs([study.experiment_id or ""], "tags.`samtune.kind` = 'trial'")
    assert len(runs) == len(study.trials)
    return {int(run.data.tags["samtune.trial_number"]): run for run in runs}


def test_asha_prunes_and_mlflow_shows_it(tmp_path: Path) -> None:
    results = search(
        tmp_path,
        *("num_trials=6", "training.epochs=4", "training.batch_size=16"),
        "scheduler={name: asha, grace_period: 1, reduction_factor: 3}",
        "search={training.lr: {log_uniform: [1e-6, 0.5]}}",
        "initial=[{training.lr: 0.1}, {training.lr: 1e-6}, {training.lr: 2e-6}, {training.lr: 3e-6}]",
    )
    counts = results.study.count(TrialState.COMPLETED), results.study.count(TrialState.PRUNED)
    assert sum(counts) == 6
    assert counts[1] > 0
    runs = runs_of(results)
    client = MlflowClient(results.study.tracking_uri)
    for trial in results:
        run = runs[trial.number]
        completed = trial.state is TrialState.COMPLETED
        assert run.info.status == ("FINISHED" if completed else "KILLED")
        steps = sorted(point.step for point in client.get_metric_history(run.info.run_id, "val_accuracy"))
        assert steps == [epoch["epoch"] for epoch in trial.history]
        assert (len(steps) == 4) is completed


def test_a_trial_that_fails_harms_no_other_under_a_scheduler(tmp_path: Path) -> None:
    """The median rule; `tests/cluster/test_nodes.py` has ASHA with failed and pruned trials."""
    results = search(
        tmp_path,
        *("num_trials=5", "scheduler={name: median}", "training.momentum=0.0", "training.epochs=2"),
        *("search={training.lr: {choice: [0.1, 1.0e+30]}}",),
        "initial=[{training.lr: 1.0e+30}, {training.lr: 0.1}, {training.lr: 1.0e+30}]",
    )
    allowed = {0.1: {"FINISHED", "KILLED"}, 1e30: {"FAILED"}}
    assert {trial.config["training.lr"] for trial in results} == set(allowed)
    runs = runs_of(results)
    for trial in results:
        assert runs[trial.number].info.status in allowed[trial.config["training.lr"]]
    assert results.study.count(TrialState.FAILED) >= 2
    failed = next(run for run in runs.values() if run.info.status == "FAILED")
    assert failed.data.tags["samtune.error"].startswith("diverged: train_loss is")


def test_hyperband_pauses_trials_resumes_the_better_ones_and_prunes_the_rest(tmp_path: Path) -> None:
    scheduler = "scheduler={name: hyperband, reduction_factor: 2}"
    results = search(tmp_path, "num_trials=9", "training.epochs=4", scheduler, num_groups=2)
    lengths = Counter(len(trial.history) for trial in results)
    states = Counter(trial.state for trial in results)
    assert states == {TrialState.COMPLETED: lengths[4], TrialState.PRUNED: 9 - lengths[4]}
    assert 0 < lengths[4] < 9
    assert lengths[1] + lengths[2] > 0
    for trial in results:
        assert [epoch["epoch"] for epoch in trial.history] == list(range(1, len(trial.history) + 1))
    study = optuna.load_study(
        study_name="s", storage=optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "s/optuna.journal")))
    )
    told = {trial.number: (trial.state.name, len(trial.intermediate_values)) for trial in study.trials}
    assert told == {
        trial.number: ("COMPLETE" if trial.state is TrialState.COMPLETED else "PRUNED", len(trial.history))
        for trial in results
    }


@pytest.mark.parametrize(("name", "num_groups", "diverging"), [("pbt", 2, 1), ("pb2", 1, 0)])
def test_a_population_exchanges_weights_and_hyperparameters(
    tmp_path: Path, name: str, num_groups: int, diverging: int
) -> None:
    """One of the population may fail on the way: the others do not wait for it."""
    told, highest = Told(), 1e30 if diverging else 1.0
    arguments = (
        f"num_trials={4 + diverging}",
        "training.epochs=6",
        f"scheduler={{name: {name}, perturbation_interval: 2, quantile_fraction: 0.25}}",
        f"search={{training.lr: {{log_uniform: [1e-4, {highest}]}}}}",
        "initial=[{training.lr: 1e-4}, {training.lr: 0.1}, {training.lr: 0.2}, {training.lr: 0.05}"
        + ", {training.lr: 1e30}" * diverging
        + "]",
    )
    results = search(tmp_path, *arguments, num_groups=num_groups, told=told)
    failed = [trial for trial in results if trial.state is TrialState.FAILED]
    assert len(failed) == diverging, [trial.traceback or trial.error for trial in failed]
    assert all(
        trial.state is TrialState.COMPLETED and len(trial.history) == 6 for trial in results if trial not in failed
    )
    changed = [(trial.number, change) for trial in results for change in trial.perturbations]
    assert len(changed) == len(told.changes) == 2  # after epochs 2 and 4, one of four trials
    (number, first), *_ = sorted(changed, key=lambda item: item[1]["epoch"])
    assert number == 0  # the one that cannot learn
    assert first["epoch"] == 2
    assert first["before"]["config"] == {"training.lr": 1e-4}
    trials = {trial.number: trial for trial in results}
    learner, source = trials[0], trials[first["source"]]
    # The weights came over: the trial that had learned nothing goes on from where its source was.
    before, after = learner.history[1]["train_loss"], learner.history[2]["train_loss"]
    at_source = source.history[1]["train_loss"]
    assert abs(after - at_source) < abs(after - before)
    assert any("takes over the weights" in line for line in told.lines)
    assert 1e-4 <= learner.config["training.lr"] <= highest
    if name == "pb2":  # the same seed makes the same choices, from a generator that others share
        np.random.seed(1)
        again = Told()
        search(tmp_path / "again", *arguments, told=again)
        assert again.changes == told.changes
