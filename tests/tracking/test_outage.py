"""A real MLflow server that goes away in the middle of a search: the search goes on, and nothing is lost or doubled."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.network import Gate
from helpers.simulated import end_study, end_trial, make_study, run_epoch, run_trial, start, start_trial
from mlflow import MlflowClient

from samtune.study import Study, TrialState
from samtune.tracking import MlflowTracker, ui_command

pytestmark = pytest.mark.slow


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def study(tmp_path: Path, gate: Gate) -> Study:
    return make_study(tmp_path, f"http://127.0.0.1:{gate.port}")


@pytest.fixture
def tracker(study: Study, messages: list[str], request: pytest.FixtureRequest) -> MlflowTracker:
    return MlflowTracker(study.tracking_uri, request.node.name, warn=messages.append, patience=30.0)


def runs(study: Study, server_port: int) -> dict[str, tuple[str, int]]:
    """Of each trial: its status and the number of epochs that the server has. Fails on doubles."""
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    assert study.experiment_id is not None
    found = client.search_runs([study.experiment_id], f"tags.`mlflow.parentRunId` = '{study.parent_run_id}'")
    names = [f"trial {int(run.data.tags['samtune.trial_number']):03d}" for run in found]
    assert len(names) == len(set(names))
    return {
        name: (run.info.status, len(client.get_metric_history(run.info.run_id, "val_loss")))
        for name, run in zip(names, found, strict=True)
    }


def without_waits(messages: list[str]) -> list[str]:
    """The messages, but the one that a server slower than a second causes: a busy machine is no fault."""
    return [message for message in messages if not message.startswith("writing the last")]


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, f"not within four minutes: {what}"
        time.sleep(0.1)


def wait_until_written(study: Study, server_port: int, name: str) -> None:
    wait_until(lambda: name in runs(study, server_port), f"{name} appears on the server")


def test_a_search_on_a_server(
    study: Study, tracker: MlflowTracker, server_port: int, messages: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    tracker.connect_in_background().result(timeout=120)
    start(tracker, study)
    run_trial(study, [tracker], [0.5, float("nan"), 0.7])
    trial = start_trial(study, [tracker])
    end_trial(study, trial, [tracker], TrialState.FAILED, "boom", "Traceback\nboom")
    end_study(study, [tracker])
    assert runs(study, server_port) == {"trial 000": ("FINISHED", 3), "trial 001": ("FAILED", 0)}
    assert (without_waits(messages), tracker.unsent) == ([], [])
    assert capfd.readouterr() == ("", "")
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    assert study.parent_run_id is not None
    names = {file.path for file in client.list_artifacts(study.parent_run_id)}
    assert names == {"space.yaml", "plan.json", "versions.json", "best.yaml", "leaderboard.json"}
    assert ui_command(study).startswith(f"{study.tracking_uri}/#/experiments/{study.experiment_id}/runs?")


def test_nothing_is_lost_while_the_server_is_away(
    study: Study, tracker: MlflowTracker, server_port: int, gate: Gate, messages: list[str]
) -> None:
    start(tracker, study)
    before = start_trial(study, [tracker])
    run_epoch(study, before, [tracker], 0.5)
    wait_until_written(study, server_port, "trial 000")
    gate.shut()
    run_epoch(study, before, [tracker], 0.6)
    end_trial(study, before, [tracker])
    for _ in range(3):
        run_trial(study, [tracker], [0.5, 0.6, 0.7])
    # The search was here before the server was back: it does not wait for it.
    wait_until(lambda: bool(messages), "the user is told")
    gate.is_open = True
    end_study(study, [tracker])
    assert runs(study, server_port) == {
        "trial 000": ("FINISHED", 2),
        "trial 001": ("FINISHED", 3),
        "trial 002": ("FINISHED", 3),
        "trial 003": ("FINISHED", 3),
    }
    assert tracker.unsent == []
    messages = without_waits(messages)
    assert len(messages) == 2  # not one per attempt
    assert messages[0].startswith("warning: MLflow does not answer; the search continues and its records are kept")
    assert messages[1].startswith("MLflow answers again")


def test_an_answer_that_is_lost_makes_no_second_run(
    study: Study, tracker: MlflowTracker, server_port: int, gate: Gate, messages: list[str]
) -> None:
    start(tracker, study)
    gate.lose_answers_to = b"/runs/create"
    run_trial(study, [tracker], [0.5])
    wait_until(lambda: gate.num_lost > 0, "an answer is lost")
    gate.lose_answers_to = None
    end_study(study, [tracker])
    assert gate.num_lost == 1
    assert runs(study, server_port) == {"trial 000": ("FINISHED", 1)}


def test_the_end_waits_a_bounded_time_and_says_what_is_unsent_which_a_resume_sends(
    study: Study, server_port: int, gate: Gate, messages: list[str]
) -> None:
    study.num_trials = 2
    tracker = MlflowTracker(study.tracking_uri, "bounded", warn=messages.append, patience=3.0)
    start(tracker, study)
    run_trial(study, [tracker], [0.5])
    wait_until_written(study, server_port, "trial 000")
    gate.shut()
    run_trial(study, [tracker], [0.6])
    end_study(study, [tracker])  # returns, although the server stays away
    assert any(re.fullmatch(r"writing the last [23] runs to MLflow", message) for message in messages)
    assert set(tracker.unsent) >= {"trial 001", "digits-1"}
    assert "not completely written to MLflow" in messages[-1]
    assert "trial 001" in messages[-1]
    assert study.storage_path in messages[-1]

    gate.is_open = True
    again = MlflowTracker(study.tracking_uri, tracker.experiment, warn=messages.append)
    start(again, study)
    end_study(study, [again])
    assert again.unsent == []
    assert runs(study, server_port) == {"trial 000": ("FINISHED", 1), "trial 001": ("FINISHED", 1)}
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    assert study.parent_run_id is not None
    assert client.get_run(study.parent_run_id).info.status == "FINISHED"


def test_a_run_that_was_deleted_does_not_hold_up_the_others(
    study: Study, tracker: MlflowTracker, server_port: int, messages: list[str]
) -> None:
    start(tracker, study)
    doomed = start_trial(study, [tracker])
    run_epoch(study, doomed, [tracker], 0.5)
    wait_until_written(study, server_port, "trial 000")
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    assert study.experiment_id is not None
    (run,) = client.search_runs([study.experiment_id], "tags.`samtune.trial_number` = '0'")
    client.delete_run(run.info.run_id)
    run_epoch(study, doomed, [tracker], 0.6)
    end_trial(study, doomed, [tracker])
    run_trial(study, [tracker], [0.7])
    end_study(study, [tracker])
    assert runs(study, server_port) == {"trial 001": ("FINISHED", 1)}
    assert tracker.unsent == ["trial 000"]
    assert messages[0].startswith("warning: MLflow refuses trial 000")
