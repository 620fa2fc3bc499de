"""A driver that is ended from outside: the process beside it says how the study continues, and ends its runs."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.simulated import make_study, start, start_trial
from mlflow import MlflowClient

from samtune.store.journal import FILE_NAME, Journal
from samtune.tracking import MlflowTracker

DRIVER = """
import os, sys, time
from pathlib import Path
from samtune.experiments.aftermath import Watcher

watcher = Watcher(Path(sys.argv[1]))
with watcher:
    {body}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with a running trial."""
    storage = tmp_path_factory.mktemp("storage")
    study = make_study(storage, f"sqlite:///{storage}/mlflow.db")
    tracker = MlflowTracker(study.tracking_uri, "experiment", warn=lambda line: None)
    start(tracker, study)
    start_trial(study, [tracker])
    assert tracker._writer is not None
    assert not tracker._writer.close(30.0)
    path = Path(study.storage_path)
    path.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    journal.on_study_start(study)
    for trial in study:
        journal.on_trial_start(study, trial)
    journal.on_study_end(study)
    return path


@pytest.fixture
def folder(running: Path) -> Path:
    """Its runs are running, whatever a test before has made of them."""
    client = MlflowClient(f"sqlite:///{running.parent}/mlflow.db")
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            client.update_run(run.info.run_id, status="RUNNING")
    return running


def statuses(folder: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "experiment")
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


def drive(folder: Path, body: str) -> str:
    """What a driver and the process beside it say, once both have ended."""
    command = [sys.executable, "-c", DRIVER.format(body=body), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent).stderr


@pytest.mark.parametrize("body", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_driver_that_is_ended_is_cleaned_up_after(body: str, folder: Path) -> None:
    assert statuses(folder) == ["RUNNING", "RUNNING"]
    said = drive(folder, body)
    assert said.startswith("samtune: error: the process of the search was ended from outside (")
    assert f"`samtune search --resume {folder.name} --storage-path {folder.parent}` continues\n" in said
    assert statuses(folder) == ["KILLED", "KILLED"]


@pytest.mark.parametrize("body", ["pass", "watcher.dismiss(); os._exit(1)", "watcher._process.kill()"])
def test_one_that_ends_in_order_is_not(body: str, folder: Path) -> None:
    assert drive(folder, body) == ""
    assert statuses(folder) == ["RUNNING", "RUNNING"]


def test_the_runs_of_a_study_that_is_resumed_are_left_alone(folder: Path) -> None:
    with (folder / FILE_NAME).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert drive(folder, "os._exit(1)") == ""
    assert statuses(folder) == ["RUNNING", "RUNNING"]
