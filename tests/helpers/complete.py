"""Whether a search has each of its trials once, wherever it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import torch
from mlflow.tracking import MlflowClient

from helpers import hosted
from samtune.store.journal import read_journal
from samtune.store.study_folder import stored_space
from samtune.study import Study, TrialState

TIMES = ("epoch_seconds", "train_seconds")


def check_complete(folder: Path, summary: dict[str, Any], num_trials: int, epochs: int) -> Study:
    """Every trial of the study in this folder once: in the journal, in Optuna and in MLflow; nothing is left running.

    Args:
        summary: what `samtune search --json` has printed.
    """
    study, every_epoch = read_journal(folder), list(range(1, epochs + 1))
    assert sorted(trial.number for trial in study) == list(range(num_trials))
    assert study.count(TrialState.COMPLETED) == num_trials
    assert all([metrics["epoch"] for metrics in trial.history] == every_epoch for trial in study)
    assert summary["num_completed"] == summary["num_trials"] == num_trials

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal")))
    trials = optuna.load_study(study_name=folder.name, storage=storage).trials
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * num_trials
    assert [trial.params for trial in trials] == [t.config for t in sorted(study, key=lambda t: t.number)]

    client = MlflowClient(summary["tracking_uri"])
    runs = client.search_runs([summary["experiment_id"]], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.run_id for run in parents] == [summary["parent_run_id"]]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(int(run.data.tags["samtune.trial_number"]) for run in nested) == list(range(num_trials))
    for run in nested:
        points = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert sorted({point.step for point in points}) == every_epoch
    return study


def results_of(study: Study) -> dict[str, list[dict[str, float]]]:
    """What each configuration has measured by epoch, but for the times."""
    return {
        str(sorted(trial.config.items())): [{k: v for k, v in m.items() if k not in TIMES} for m in trial.history]
        for trial in study
    }


def results_alone(study: Study, folder: Path) -> dict[str, list[dict[str, float]]]:
    """The same of trainings of its configurations in this process: without Ray, and nothing goes wrong.

    Args:
        folder: an empty one.
    """
    space, found, threads = stored_space(study, study.storage_path), {}, torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray has it in a worker of one CPU
    try:
        for trial in study:
            config = trial.config
            found[str(sorted(config.items()))], _ = hosted.train(0, 1, space.trial(config), str(folder / trial.id))
    finally:
        torch.set_num_threads(threads)
    return found
