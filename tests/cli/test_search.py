"""Whole searches through the command line, read back from MLflow: real Ray, real gloo ranks, real sqlite."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.entities
import optuna
import pytest
from helpers.command import CLEAN, SAMTUNE, run_samtune, wait_for_no_ray_process
from mlflow.tracking import MlflowClient

from samtune.store.journal import read_journal

pytestmark = pytest.mark.cluster

SUMMARY_KEYS = [
    "study",
    "state",
    "num_trials",
    "num_completed",
    "num_pruned",
    "num_failed",
    "best",
    "verdict",
    "stopped_by",
    "seconds",
    "tracking_uri",
    "experiment_id",
    "parent_run_id",
    "storage_path",
]
EPOCH_METRICS = {
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "epoch_seconds",
    "num_passes",
    "sharpness",
    "gradient_norm",
    "perturbation_norm",
    "gradient_cosine",
}


@dataclass
class Search:
    """A finished search: its JSON, what it wrote to stderr, and its MLflow runs."""

    summary: dict[str, Any]
    stderr: str
    client: MlflowClient
    parent: mlflow.entities.Run
    trials: list[mlflow.entities.Run]

    @classmethod
    def load(cls, done: subprocess.CompletedProcess[str]) -> Search:
        summary = json.loads(done.stdout)
        assert list(summary) == SUMMARY_KEYS
        client = MlflowClient(summary["tracking_uri"])
        runs = client.search_runs([summary["experiment_id"]], max_results=1000)
        parent = client.get_run(summary["parent_run_id"])
        trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == summary["parent_run_id"]]
        return cls(summary, done.stderr, client, parent, trials)

    def states(self) -> list[str]:
        return sorted(run.info.status for run in self.trials)

    def history(self, run: mlflow.entities.Run, metric: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        return [(point.step, point.value) for point in sorted(points, key=lambda p: p.step)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """The shipped space, with fewer trials; `tests/experiments/test_tuner.py` has TPE's own proposals."""
    folder = tmp_path_factory.mktemp("digits")
    done = run_samtune("search", "--space", "digits.yaml", "--name", "first", "--num-trials", "4", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    wait_for_no_ray_process()
    assert sorted(p.name for p in folder.iterdir()) == ["samtune-results"]
    return Search.load(done)


def test_digits_completes_its_trials_and_finds_a_good_configuration(digits: Search) -> None:
    summary = digits.summary
    assert (summary["study"], summary["num_trials"], summary["num_completed"]) == ("first", 4, 4)
    assert (summary["num_pruned"], summary["num_failed"]) == (0, 0)
    assert summary["best"]["metrics"]["val_accuracy"] >= 0.97
    assert set(summary["best"]["config"]) == {"method.rho", "training.lr", "training.weight_decay"}
    assert Path(summary["storage_path"]).is_dir()


def test_mlflow_has_a_parent_and_one_nested_run_per_trial(digits: Search) -> None:
    assert digits.parent.info.status == "FINISHED"
    assert digits.states() == ["FINISHED"] * 4
    best = max(run.data.metrics["val_accuracy"] for run in digits.trials)
    assert digits.summary["best"]["metrics"]["val_accuracy"] == best
    assert 0 < digits.parent.data.metrics["startup_seconds"] < digits.summary["seconds"]
    assert 0 < digits.parent.data.metrics["busy_fraction"] <= 1
    artifacts = {a.path for a in digits.client.list_artifacts(digits.parent.info.run_id)}
    assert any("space" in path for path in artifacts), artifacts
    assert any("leaderboard" in path for path in artifacts), artifacts


def test_every_trial_has_its_parameters_and_metrics_by_epoch(digits: Search) -> None:
    for run in digits.trials:
        assert float(run.data.params["method.rho"]) > 0
        assert run.data.params["method.name"] == "sam"
        assert run.data.params["training.batch_size"] == "64"
        assert set(run.data.metrics) >= EPOCH_METRICS
        assert [step for step, _ in digits.history(run, "val_accuracy")] == list(range(1, 13))
        assert digits.history(run, "num_passes") == [(epoch, 2.0 * epoch) for epoch in range(1, 13)]
        rho = float(run.data.params["method.rho"])
        assert all(value == pytest.approx(rho, rel=1e-3) for _, value in digits.history(run, "perturbation_norm"))
        assert all(-1 <= value <= 1 for _, value in digits.history(run, "gradient_cosine"))
        assert digits.history(run, "sharpness")[0][1] > 0  # ε̂ is an ascent direction


def test_the_first_trial_is_the_initial_point(digits: Search) -> None:
    first = min(digits.trials, key=lambda run: int(run.data.tags["samtune.trial_number"]))
    assert first.data.params["method.rho"] == "0.05"
    assert first.data.params["training.weight_decay"] == "0.0005"


def test_optuna_s_journal_has_the_same_trials(digits: Search) -> None:
    journal = Path(digits.summary["storage_path"]) / "optuna.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name="first", storage=storage)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.COMPLETE] * 4
    assert study.best_value == digits.summary["best"]["metrics"]["val_accuracy"]
    assert all(len(trial.intermediate_values) == 12 for trial in study.trials)


def test_the_terminal_ends_with_a_leaderboard_and_the_way_to_the_mlflow_ui(digits: Search) -> None:
    assert "mlflow ui --backend-store-uri sqlite:///" in digits.stderr
    assert "val_accuracy" in digits.stderr
    assert "\x1b[" not in digits.stderr  # not a terminal: plain lines
    noise = ("ray.init", "raylet", "(pid=", "TUNE", "Warning", "optuna.")
    assert [line for line in digits.stderr.splitlines() if any(word in line for word in noise)] == []


@dataclass
class Interrupted:
    """What a search left behind that was sent SIGINT, as a terminal does: to all processes of its group."""

    returncode: int
    stdout: str
    stderr: str


STDERR, JOURNAL = "stderr", "samtune-results/cut/journal.jsonl"
Moment = tuple[str, str, int]


def interrupt(folder: Path, *moments: Moment, number: signal.Signals = signal.SIGINT) -> Interrupted:
    """Starts a long search and signals it at each moment: when a file has a text so many times."""
    log, limits = folder / STDERR, ("--num-trials", "500", "--max-concurrent", "1", "--num-workers", "1")
    limits += ("--set", "training.epochs=3")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*SAMTUNE, "search", "--space", "digits.yaml", *limits, "--name", "cut", "--json"],
            cwd=folder,
            env=CLEAN,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        deadline = time.time() + 400
        for index, (file, text, count) in enumerate(moments):
            path = folder / file
            while (path.read_text() if path.exists() else "").count(text) < count and process.poll() is None:
                assert time.time() < deadline, log.read_text()
                time.sleep(0.05)
            if process.poll() is None:
                # A terminal signals all that runs in it; others signal the driver.
                (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
            else:  # it may have ended after the first, before it was seen that the second is due
                assert index > 0, log.read_text()
        stdout, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    wait_for_no_ray_process()
    return Interrupted(process.returncode, stdout, log.read_text())


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([(STDERR, "starting 1 worker group", 1)], id="start"),
        pytest.param([(STDERR, "completed", 1), (STDERR, "interrupted: stopping", 1)], id="trials-twice"),
        pytest.param([(STDERR, "completed", 1), (JOURNAL, '"study_end"', 1)], id="trials-end"),
    ],
)
def test_ctrl_c_stops_in_order_at_any_time_and_keeps_what_is_finished(tmp_path: Path, moments: list[Moment]) -> None:
    ended = interrupt(tmp_path, *moments)
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    search = Search.load(subprocess.CompletedProcess([], 130, ended.stdout, ended.stderr))
    assert search.parent.info.status == "KILLED"
    finished = search.states().count("FINISHED")
    assert set(search.states()) <= {"FINISHED", "KILLED"}
    assert finished == search.summary["num_completed"]
    _, text, count = moments[0]
    if text == "completed":
        assert count <= finished < 100
        assert "best val_accuracy" in ended.stderr


def test_a_hangup_ends_it_in_order_too(tmp_path: Path) -> None:
    """`test_sockets.py` and `tests/launch/test_slurm.py` have SIGTERM."""
    ended = interrupt(tmp_path, (STDERR, "completed", 1), number=signal.SIGHUP)
    assert ended.returncode == 128 + signal.SIGHUP, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "samtune search --resume cut  # run the trials that are missing" in ended.stderr


def test_a_search_whose_trials_all_fail_ends_early_with_the_first_error_and_can_run_them_again(tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text("def focal(outputs, targets):\n    return outputs.sum() * (1 / 0)\n")
    command = (
        *("search", "--space", "digits.yaml", "--num-trials", "50", "--num-workers", "1", "--max-concurrent", "1"),
        *("--set", "training.loss=my_loss:focal", "--set", "data.num_train=200", "--name", "bad"),
        *("--set", "training.epochs=1"),
    )
    refused = run_samtune(*command, cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "one batch of a trial fails in the loss: my_loss.py:2 in focal: ZeroDivisionError: division by zero" in line
    done = run_samtune(*command, "--no-check", cwd=tmp_path)
    assert done.returncode == 1
    (failed,) = re.findall(r"(\d+) failed.* of 50 trials", done.stdout)  # the summary is shown all the same
    assert 3 <= int(failed) <= 8  # stopped early
    error = "my_loss.py:2 in focal: ZeroDivisionError: division by zero"
    (line,) = done.stderr.strip().splitlines()
    said, _, file = line.partition("; its traceback is in ")
    assert said == f"samtune: error: no trial succeeded; the first failed with: {error}"
    assert re.search(rf"^  traceback of trial \d: {re.escape(file)}$", done.stdout, re.MULTILINE)
    assert Path(file).read_text().rstrip().endswith("ZeroDivisionError: division by zero")
    assert "Traceback" not in done.stderr + done.stdout
    assert json.loads(run_samtune("status", "bad", "--json", cwd=tmp_path).stdout)["state"] == "failed"

    # The error is mended: the same trials run again, each in the MLflow run that it has.
    (tmp_path / "my_loss.py").write_text("from torch.nn.functional import cross_entropy as focal\n")
    folder = tmp_path / "samtune-results" / "bad"
    begun = len(read_journal(folder).trials)
    retry = ("--resume", "bad", "--retry-failed", "--num-trials", str(begun), "--json")
    again = run_samtune("search", *retry, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["num_completed"] == summary["num_trials"] == begun
    runs = MlflowClient(summary["tracking_uri"]).search_runs([summary["experiment_id"]])
    numbers = sorted(int(run.data.tags.get("samtune.trial_number", -1)) for run in runs)
    assert numbers == list(range(-1, begun))  # the parent, and one of each trial
    assert {run.info.status for run in runs} == {"FINISHED"}
