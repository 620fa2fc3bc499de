"""Searches whose driver is killed, and what `--resume` and `status` make of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.command import CLEAN, SAMTUNE, run_samtune
from helpers.waiting import wait_after
from mlflow.tracking import MlflowClient

from samtune.store.journal import FILE_NAME, is_running, read_journal
from samtune.study import TrialState

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]  # seven searches, one after another

NUM_TRIALS = 5
NUM_KILLS = 5
SMALL = (
    *("--set", "training.epochs=6", "--set", "data.num_train=800", "--set", "checkpoint.min_seconds=0"),
    *("--num-workers", "1"),
)


def kill_after(
    folder: Path, arguments: tuple[str, ...], *, lines: int = 10**9, seconds: float = 10**9, delay: float = 0.0
) -> None:
    """Starts a search and kills its driver when the journal has so many lines more, or after so many seconds.

    It may have ended before.
    """
    journal = folder / "samtune-results" / "study" / FILE_NAME
    before = journal.read_text().count("\n") if journal.exists() else 0
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*SAMTUNE, "search", *arguments], cwd=folder, env=CLEAN, stdout=log, stderr=log, start_new_session=True
        )
    started = time.time()
    while process.poll() is None:
        assert time.time() < started + 300, (folder / "log").read_text()
        num_lines = journal.read_text().count("\n") - before if journal.exists() else 0
        if num_lines >= lines or time.time() >= started + seconds:
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.05)


def check_complete(folder: Path, summary: dict[str, Any], num_trials: int) -> None:
    """Every trial once: in the journal, in Optuna and in MLflow, and nothing is left running."""
    study = read_journal(folder / "samtune-results" / "study")
    assert sorted(trial.number for trial in study) == list(range(num_trials))
    assert study.count(TrialState.COMPLETED) == num_trials
    assert all([m["epoch"] for m in trial.history] == [1, 2, 3, 4, 5, 6] for trial in study)
    assert summary["num_completed"] == summary["num_trials"] == num_trials

    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "samtune-results" / "study" / "optuna.journal"))
    )
    trials = optuna.load_study(study_name="study", storage=storage).trials
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
        assert sorted({point.step for point in points}) == [1, 2, 3, 4, 5, 6]


def test_a_killed_search_completes_exactly_its_trials_however_often_it_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("SAMTUNE_TEST_SEED", time.time_ns() % 10_000))
    print(f"SAMTUNE_TEST_SEED={seed}")
    rng = random.Random(seed)
    space = ("--space", "digits.yaml", "--num-trials", str(NUM_TRIALS), "--name", "study", *SMALL)
    kill_after(tmp_path, space, lines=rng.randint(1, 12), delay=rng.random() * 0.2)
    study = read_journal(tmp_path / "samtune-results" / "study")
    finished = {trial.number: trial.ended_at for trial in study if trial.state.is_final}
    kill_after(tmp_path, ("--resume", "study"), lines=rng.randint(1, 12), delay=rng.random() * 0.2)
    for third in range(NUM_KILLS - 2):  # while Ray starts, while the workers start, and while they train
        kill_after(tmp_path, ("--resume", "study"), seconds=rng.uniform(max(0.5, 4 * third), 4 * (third + 1)))
    assert not is_running(tmp_path / "samtune-results" / "study")
    done = run_samtune("search", "--resume", "study", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_complete(tmp_path, json.loads(done.stdout), NUM_TRIALS)
    study = read_journal(tmp_path / "samtune-results" / "study")
    assert {t.number: t.ended_at for t in study if t.number in finished} == finished  # not run again

    # A complete study has nothing left to run, and more trials may be asked for.
    more = run_samtune("search", "--resume", "study", "--json", "--num-trials", str(NUM_TRIALS + 1), cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    check_complete(tmp_path, json.loads(more.stdout), NUM_TRIALS + 1)


def test_an_interrupted_trial_goes_on_from_its_checkpoint_with_the_same_result(tmp_path: Path) -> None:
    gate, waiting = wait_after(tmp_path, epochs=3)
    gate.unlink()
    space = ("--space", "digits.yaml", "--num-trials", "1", *SMALL, *waiting)
    whole = run_samtune("search", *space, "--name", "whole", "--experiment", "other", "--json", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    gate.touch()
    kill_after(tmp_path, (*space, "--name", "study"), lines=4)  # study, trial, two epochs
    gate.unlink()
    folder = tmp_path / "samtune-results" / "study"
    (trial,) = read_journal(folder)
    assert trial.state is TrialState.RUNNING
    known = len(trial.history)
    assert 2 <= known <= 3
    assert list((folder / "checkpoints" / trial.id).glob("epoch-*.pt"))

    shown = run_samtune("status", "study", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "stopped after 0 of 1 trials; `samtune search --resume study` continues it" in shown.stdout

    done = run_samtune("search", "--resume", "study", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_complete(tmp_path, json.loads(done.stdout), 1)
    timed = ("epoch_seconds", "train_seconds")
    histories = [
        [{k: v for k, v in metrics.items() if k not in timed} for metrics in next(iter(read_journal(path))).history]
        for path in (tmp_path / "samtune-results" / "whole", folder)
    ]
    assert histories[0] == histories[1]
    assert not (folder / "checkpoints" / trial.id).exists()  # of no use any more
    shown = run_samtune("status", "study", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["running"] is False
    assert json.loads(shown.stdout)["num_completed"] == 1
