"""A search whose study and checkpoints are in S3: killed, and resumed from another folder of another machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.waiting import wait_after
from mlflow.tracking import MlflowClient

from samtune.experiments.results import Results
from samtune.storage import delete_file, join, read_bytes
from samtune.store.journal import FILE_NAME as JOURNAL
from samtune.store.lease import FILE_NAME as LEASE
from samtune.store.study_folder import study_folder
from samtune.study import TrialState

pytestmark = pytest.mark.cluster

SAMTUNE = [sys.executable, "-m", "samtune"]
SMALL = ("--set", "training.epochs=6", "--set", "data.num_train=800", "--set", "checkpoint.min_seconds=0")


def clean_environment(cache: Path) -> dict[str, str]:
    """This process's, without what would lead to another Ray or MLflow; another cache is another machine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "CUDA_VISIBLE"))}
    return kept | {"SAMTUNE_CACHE": str(cache)}


def test_a_killed_search_goes_on_from_another_machine_with_what_is_in_s3(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    where = ("--storage-path", s3, "--address", "local")
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    command = [*SAMTUNE, "search", "--space", "digits.yaml", "--num-trials", "3", "--name", "study", *where, *SMALL]
    gate, waiting = wait_after(here, epochs=6 + 3)  # in the second trial
    command += ["--num-workers", "1", "--max-concurrent", "1", "--tracking-uri", tracking, "--no-check", *waiting]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            command, cwd=here, env=clean_environment(here / "cache"), stdout=log, stderr=log, start_new_session=True
        )
    journal = join(s3, "study", JOURNAL)
    deadline = time.time() + 400
    while (read_bytes(journal) or b"").count(b'"event": "epoch"') < 6 + 2:
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.time() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    gate.unlink()
    before = study_folder(s3, "study").read()
    assert [trial.state for trial in before] == [TrialState.COMPLETED, TrialState.RUNNING]
    shutil.copy(here / "waits.py", there)

    resume = [*SAMTUNE, "search", "--resume", "study", *where, "--no-check", "--json"]
    environment = clean_environment(there / "cache")
    refused = subprocess.run(resume, cwd=there, env=environment, capture_output=True, text=True, timeout=200)
    assert refused.returncode == 2
    assert "the study is running already" in refused.stderr  # as far as another machine can know
    delete_file(join(s3, "study", LEASE))  # what the message says can be done
    done = subprocess.run(resume, cwd=there, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["num_completed"] == 3

    after = study_folder(s3, "study").read()
    assert sorted(trial.number for trial in after) == [0, 1, 2]
    for old in before:
        (new,) = (trial for trial in after if trial.number == old.number)
        assert new.config == old.config
        assert new.history[: len(old.history)] == old.history
    # On a third machine, which has no working copy.
    monkeypatch.setenv("SAMTUNE_CACHE", str(there / "empty"))
    assert len(Results.load("study", s3).optuna_study().trials) == 3
    client = MlflowClient(tracking)
    runs = client.search_runs([summary["experiment_id"]])
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not (here / "samtune-results").exists()
    assert not (there / "samtune-results").exists()
