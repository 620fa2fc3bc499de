"""Searches without training: the records change, and the callbacks are told, as in a real one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from samtune.study import Callback, EpochRecord, Objective, Scalar, Study, Trial, TrialState
from samtune.tracking import MlflowTracker


def make_study(folder: Path, tracking_uri: str, num_trials: int = 4) -> Study:
    return Study(
        name="digits-1",
        objectives=(Objective("val_accuracy", "max"),),
        num_trials=num_trials,
        space_yaml="name: digits\nnum_trials: 4\n",
        plan={"name": "digits", "num_groups": 2, "total_passes": (8.0, 8.0)},
        storage_path=str(folder / "digits-1"),
        tracking_uri=tracking_uri,
        experiment="digits",
        command="samtune search --space digits.yaml --num-trials 4",
        versions={"python": "3.11.7", "samtune": "0.1.0", "mlflow": "3.17.2"},
    )


def start_trial(study: Study, callbacks: Sequence[Callback], rho: float = 0.05, num_epochs: int = 3) -> Trial:
    config: dict[str, Scalar] = {"method.rho": rho, "training.lr": 0.1}
    params: dict[str, Scalar] = {
        "data.name": "digits",
        "model.name": "digits_cnn",
        "method.name": "sam",
        "method.m": "worker",
        "training.epochs": num_epochs,
        "training.nesterov": False,
        "training.clip_norm": None,
        **config,
    }
    number = len(study.trials)
    trial = Trial(number, f"t{number:03d}", config, params, num_epochs, TrialState.RUNNING, started_at=time.time())
    study.trials.append(trial)
    for callback in callbacks:
        callback.on_trial_start(study, trial)
    return trial


def run_epoch(study: Study, trial: Trial, callbacks: Sequence[Callback], accuracy: float, **more: float) -> None:
    epoch = len(trial.history) + 1
    metrics = {"epoch": float(epoch), "val_accuracy": accuracy, "val_loss": 1.0 - accuracy, "num_passes": 2.0 * epoch}
    metrics["lr"] = 0.001  # by the schedule
    trial.history.append(EpochRecord({**metrics, **more}, 0, time.time()))
    for callback in callbacks:
        callback.on_epoch(study, trial, trial.history[-1])


def end_trial(
    study: Study,
    trial: Trial,
    callbacks: Sequence[Callback],
    state: TrialState = TrialState.COMPLETED,
    error: str | None = None,
    traceback: str | None = None,
) -> None:
    trial.state, trial.error, trial.traceback, trial.ended_at = state, error, traceback, time.time()
    for callback in callbacks:
        callback.on_trial_end(study, trial)


def start(tracker: MlflowTracker, study: Study) -> None:
    """Opens the tracker, as the runner does, and tells it of the study's start."""
    study.experiment_id, study.parent_run_id = tracker.open(study)
    tracker.on_study_start(study)


def end_study(study: Study, callbacks: Sequence[Callback]) -> None:
    study.ended_at = time.time()
    for callback in callbacks:
        callback.on_study_end(study)


def run_trial(study: Study, callbacks: Sequence[Callback], accuracies: Sequence[float], rho: float = 0.05) -> Trial:
    """A completed trial."""
    trial = start_trial(study, callbacks, rho, len(accuracies))
    for accuracy in accuracies:
        run_epoch(study, trial, callbacks, accuracy)
    end_trial(study, trial, callbacks)
    return trial
