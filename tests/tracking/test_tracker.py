"""A search is written to a real sqlite store and read back through MlflowClient."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from helpers.simulated import end_study, end_trial, make_study, run_epoch, run_trial, start, start_trial
from mlflow import MlflowClient
from mlflow.entities import Run

from samtune import SearchSpace
from samtune.errors import UsageError
from samtune.study import Study, TrialState
from samtune.tracking import MlflowTracker
from samtune.tracking.content import best_yaml, run_name
from samtune.tracking.history import finished_runs
from samtune.tracking.outputs import log_outputs
from samtune.tracking.parameters import split_params
from samtune.tracking.store import log_files, used_by_mlflow


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def study(tmp_path: Path, store_uri: str) -> Study:
    return make_study(tmp_path, store_uri)


@pytest.fixture
def tracker(store_uri: str, experiment: str) -> MlflowTracker:
    def fail(message: str) -> None:
        if message.startswith("warning:"):  # on a slow machine the end is announced
            pytest.fail(message)

    return MlflowTracker(store_uri, experiment, warn=fail)


def children(client: MlflowClient, study: Study) -> list[Run]:
    assert study.experiment_id is not None
    runs = client.search_runs([study.experiment_id], f"tags.`mlflow.parentRunId` = '{study.parent_run_id}'")
    return sorted(runs, key=lambda run: int(run.data.tags["samtune.trial_number"]))


def parent(client: MlflowClient, study: Study) -> Run:
    assert study.parent_run_id is not None
    return client.get_run(study.parent_run_id)


def artifact(client: MlflowClient, run: Run, name: str, folder: Path) -> str:
    return Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_text()


def test_a_completed_trial_has_its_parameters_metrics_and_tags(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    trial = run_trial(study, [tracker], [0.5, 0.7, 0.9], rho=0.1 + 0.2)
    end_study(study, [tracker])

    (run,) = children(client, study)
    assert (run.info.run_name, run.info.status) == ("sam rho=0.3 lr=0.1", "FINISHED")
    assert run.data.params == {
        "data.name": "digits",
        "model.name": "digits_cnn",
        "method.name": "sam",
        "method.m": "worker",
        "method.rho": "0.30000000000000004",  # round-trips
        "training.lr": "0.1",
        "training.epochs": "3",
        "training.nesterov": "False",
        "training.clip_norm": "None",
    }
    assert run.data.metrics["val_accuracy"] == 0.9  # the columns of the UI show the last epoch
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("samtune.")}
    assert tags == {
        "samtune.study": "digits-1",
        "samtune.kind": "trial",
        "samtune.trial_id": "t000",
        "samtune.trial_number": "0",
        "samtune.num_epochs": "3",
        "samtune.state": "completed",
        "samtune.method": "sam",
        "samtune.dataset": "digits",
        "samtune.model": "digits_cnn",
    }
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.7), (3, 0.9)]
    assert trial.started_at
    assert trial.ended_at
    assert run.info.start_time == int(trial.started_at * 1000)
    assert run.info.end_time == int(trial.ended_at * 1000)
    assert all(run.info.start_time <= point.timestamp <= run.info.end_time for point in history)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (TrialState.COMPLETED, "FINISHED"),
        (TrialState.PRUNED, "KILLED"),
        (TrialState.INTERRUPTED, "KILLED"),
        (TrialState.FAILED, "FAILED"),
    ],
)
def test_states_of_trials(
    state: TrialState, status: str, client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    trial = start_trial(study, [tracker])
    run_epoch(study, trial, [tracker], 0.5)
    end_trial(study, trial, [tracker], state)
    end_study(study, [tracker])
    (run,) = children(client, study)
    assert (run.info.status, run.data.tags["samtune.state"]) == (status, str(state))


def test_a_failed_trial_keeps_its_error_and_traceback(
    client: MlflowClient, tracker: MlflowTracker, study: Study, tmp_path: Path
) -> None:
    start(tracker, study)
    trial = start_trial(study, [tracker])
    end_trial(study, trial, [tracker], TrialState.FAILED, "OutOfMemoryError: " + "x" * 9000, "Traceback …\nboom ε̂\n")
    end_study(study, [tracker])
    (run,) = children(client, study)
    assert run.data.tags["samtune.error"].startswith("OutOfMemoryError: xxx")
    assert artifact(client, run, "error.txt", tmp_path) == "Traceback …\nboom ε̂\n"


def test_values_that_are_not_finite_are_kept(client: MlflowClient, tracker: MlflowTracker, study: Study) -> None:
    start(tracker, study)
    trial = start_trial(study, [tracker])
    run_epoch(study, trial, [tracker], math.nan, train_loss=math.inf)
    end_trial(study, trial, [tracker], TrialState.FAILED, "diverged")
    end_study(study, [tracker])
    (run,) = children(client, study)
    assert math.isnan(run.data.metrics["val_accuracy"])
    assert run.data.metrics["train_loss"] > 1e300  # MLflow's way to keep infinity


def test_more_metrics_and_parameters_than_one_request_may_hold(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    trial = start_trial(study, [], num_epochs=150)
    trial.params |= {f"extra.p{index}": index for index in range(150)}
    tracker.on_trial_start(study, trial)
    for _ in range(150):
        run_epoch(study, trial, [tracker], 0.5, **{f"m{index}": float(index) for index in range(10)})
    end_trial(study, trial, [tracker])
    end_study(study, [tracker])
    (run,) = children(client, study)
    assert len(run.data.params) == 9 + 150
    assert len(client.get_metric_history(run.info.run_id, "m9")) == 150


def test_the_parent_run_holds_the_search(
    client: MlflowClient, tracker: MlflowTracker, study: Study, tmp_path: Path, experiment: str
) -> None:
    start(tracker, study)
    assert parent(client, study).info.status == "RUNNING"
    for accuracy, rho in [(0.8, 0.2), (0.9778, 0.0512), (0.7, 0.4)]:
        run_trial(study, [tracker], [0.1, accuracy], rho)
    trial = start_trial(study, [tracker])
    run_epoch(study, trial, [tracker], 0.99)
    end_trial(study, trial, [tracker], TrialState.PRUNED)
    end_study(study, [tracker])

    run = parent(client, study)
    assert (run.info.run_name, run.info.status) == ("digits-1", "FINISHED")
    assert client.get_experiment_by_name(experiment).experiment_id == study.experiment_id  # type: ignore[union-attr]
    assert artifact(client, run, "space.yaml", tmp_path) == study.space_yaml
    assert json.loads(artifact(client, run, "plan.json", tmp_path)) == {**study.plan, "total_passes": [8.0, 8.0]}
    assert json.loads(artifact(client, run, "versions.json", tmp_path)) == study.versions
    best = yaml.safe_load(artifact(client, run, "best.yaml", tmp_path))
    assert (best["trial"], best["config"]) == (1, {"method.rho": 0.0512, "training.lr": 0.1})
    assert run.data.tags["samtune.command"] == study.command
    assert (run.data.tags["samtune.best_trial"], run.data.tags["best.method.rho"]) == ("1", "0.0512")
    assert run.data.metrics["best_val_accuracy"] == 0.9778  # the completed one; the pruned one saw fewer epochs
    assert (run.data.metrics["num_completed"], run.data.metrics["num_pruned"]) == (3, 1)
    curve = client.get_metric_history(run.info.run_id, "best_val_accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 0.8), (2, 0.9778), (4, 0.9778)]


def test_the_best_configuration_is_a_space_that_nothing_searches(study: Study) -> None:
    space = SearchSpace.from_yaml("digits.yaml")
    study.space_yaml = space.to_yaml()
    best = run_trial(study, [], [0.9778], 0.0512)
    fixed = SearchSpace.from_text(best_yaml(study, best), "best.yaml")
    assert fixed.distributions() == []
    assert fixed.trial({}).params() == space.trial(best.config).params()


def test_the_leaderboard_is_a_table_that_mlflow_loads(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    for accuracy, rho in [(0.8, 0.2), (0.9778, 0.0512)]:
        run_trial(study, [tracker], [0.1, accuracy], rho)
    end_study(study, [tracker])
    assert study.experiment_id
    assert study.parent_run_id
    with used_by_mlflow(study.tracking_uri):  # load_table goes by the process's default store
        table = client.load_table(study.experiment_id, "leaderboard.json", run_ids=[study.parent_run_id])
    assert table[["rank", "trial", "state", "val_accuracy", "method/rho", "training/lr", "lr"]].to_numpy().tolist() == [
        [1, 1, "completed", 0.9778, 0.0512, 0.1, 0.001],
        [2, 0, "completed", 0.8, 0.2, 0.1, 0.001],
    ]


def test_the_leaderboard_ranks_no_failed_trial(
    client: MlflowClient, tracker: MlflowTracker, study: Study, tmp_path: Path
) -> None:
    start(tracker, study)
    trial = start_trial(study, [tracker])
    run_epoch(study, trial, [tracker], 0.99)
    end_trial(study, trial, [tracker], TrialState.FAILED, "boom")
    trial = start_trial(study, [tracker])
    run_epoch(study, trial, [tracker], 0.5)
    end_trial(study, trial, [tracker], TrialState.PRUNED)
    end_study(study, [tracker])
    table = json.loads(artifact(client, parent(client, study), "leaderboard.json", tmp_path))
    assert [row[:3] for row in table["data"]] == [[1, 1, "pruned"], [None, 0, "failed"]]


def test_a_new_experiment_opens_on_runs_and_the_objective(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    end_study(study, [tracker])
    assert study.experiment_id
    tags = client.get_experiment(study.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.experiment.primaryMetric.name"] == "val_accuracy"


def test_the_description_shows_leaderboard_best_and_command(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    run_trial(study, [tracker], [0.1, 0.9778], 0.0512)
    study.plan["searched"] = {"method.rho": "log_uniform 0.01 … 0.5"}
    study.verdict = ["0.9778 ± 0.01 on 100 examples", "run `samtune confirm digits-1` to decide"]
    end_study(study, [tracker])
    note = parent(client, study).data.tags["mlflow.note.content"]
    assert "| 1 | 0 | 0.9778 | 0.0512 | 0.1 | completed |" in note
    assert "- 0.9778 ± 0.01 on 100 examples\n- run \\`samtune confirm digits-1\\` to decide\n" in note
    assert "--set method.rho=0.0512 --set training.lr=0.1" in note
    assert "Searched:\n\n- method.rho: log_uniform 0.01 … 0.5\n" in note
    assert study.command in note


def test_a_run_is_named_by_its_method_and_what_was_searched(study: Study) -> None:
    trial = start_trial(study, [])
    trial.config = {"method.name": "sam", "method.rho": 0.0841, "training.lr": 0.0532}
    assert run_name(study, trial) == "sam rho=0.0841 lr=0.0532"
    trial.config = {"method.name": "sam"}
    assert run_name(study, trial) == "sam"
    trial.perturbations = [{"before": {"config": {"training.lr": 0.2}, "params": {}}}]
    assert run_name(study, trial) == "sam lr=0.2"  # as it began
    trial.config, trial.perturbations = {"candidate": "sgd", "replica": 1}, []
    assert run_name(study, trial) == "sgd, replica 1"
    trial.config = {}
    assert run_name(study, trial) == "trial 000"


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([TrialState.COMPLETED, TrialState.FAILED], "FINISHED"),
        ([TrialState.COMPLETED, TrialState.INTERRUPTED], "KILLED"),
        ([TrialState.COMPLETED], "KILLED"),  # of two: Ctrl-C between trials
        ([TrialState.FAILED, TrialState.FAILED], "FAILED"),
        ([TrialState.FAILED, TrialState.INTERRUPTED], "FAILED"),
        ([], "KILLED"),
    ],
)
def test_states_of_searches(
    states: list[TrialState], status: str, client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    study.num_trials = 2
    start(tracker, study)
    for state in states:
        trial = start_trial(study, [tracker])
        run_epoch(study, trial, [tracker], 0.5)
        end_trial(study, trial, [tracker], state)
    end_study(study, [tracker])
    assert parent(client, study).info.status == status
    assert all(run.info.status != "RUNNING" for run in children(client, study))


def test_nothing_is_written_where_it_was_not_asked_to(
    tmp_path: Path, tracker: MlflowTracker, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start(tracker, study)
    run_trial(study, [tracker], [0.5])
    end_study(study, [tracker])
    assert list(tmp_path.iterdir()) == []


def test_a_new_store_is_made_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("mlflow").setLevel(logging.INFO)
    uri = f"sqlite:///{tmp_path}/new folder/mlflow.db"
    MlflowTracker(uri, "digits").connect_in_background().result(timeout=120)
    assert capfd.readouterr() == ("", "")
    experiment = MlflowClient(uri).get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.artifact_location == f"file://{tmp_path}/new%20folder/mlartifacts"


def test_a_trial_is_in_the_store_while_the_search_runs(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    trial = start_trial(study, [tracker])
    run_epoch(study, trial, [tracker], 0.5)
    deadline = time.monotonic() + 240
    while not ((runs := children(client, study)) and runs[0].data.metrics):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert runs[0].info.status == "RUNNING"
    assert runs[0].data.metrics["val_accuracy"] == 0.5
    end_trial(study, trial, [tracker])
    end_study(study, [tracker])
    assert children(client, study)[0].info.status == "FINISHED"


def test_the_search_is_described_in_the_store_before_its_first_trial_ends(
    client: MlflowClient, tracker: MlflowTracker, study: Study
) -> None:
    start(tracker, study)
    deadline = time.monotonic() + 240
    while "mlflow.note.content" not in parent(client, study).data.tags:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    end_study(study, [tracker])


def test_a_long_wait_at_the_end_shows_its_progress(
    client: MlflowClient, study: Study, store_uri: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a study of thousands of trials is written again, because its MLflow store is lost."""
    monkeypatch.setattr("samtune.tracking.tracker.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("samtune.tracking.tracker.PROGRESS_SECONDS", 1.0)
    messages: list[str] = []
    tracker = MlflowTracker(store_uri, experiment, warn=messages.append)
    study.num_trials = 60
    start(tracker, study)
    for _ in range(60):
        run_trial(study, [tracker], [0.5])
    end_study(study, [tracker])
    found = [re.fullmatch(r"writing the last (\d+) runs to MLflow", message) for message in messages]
    left = [int(match[1]) for match in found if match]
    assert len(left) > 1
    assert left == sorted(set(left), reverse=True)
    assert len(children(client, study)) == 60


def test_a_search_that_never_began_needs_no_end(tracker: MlflowTracker, study: Study) -> None:
    tracker.on_study_end(study)
    assert tracker.unsent == []


class TestResume:
    def test_runs_are_continued_and_none_is_doubled(self, client: MlflowClient, store_uri: str, study: Study) -> None:
        first = MlflowTracker(store_uri, "resume")
        start(first, study)
        run_trial(study, [first], [0.5, 0.6])
        trial = start_trial(study, [first])
        run_epoch(study, trial, [first], 0.5)
        end_trial(study, trial, [first], TrialState.INTERRUPTED)
        end_study(study, [first])
        assert parent(client, study).info.status == "KILLED"

        study.num_trials, study.ended_at = 3, None
        trial.state, trial.ended_at = TrialState.RUNNING, None
        second = MlflowTracker(store_uri, "resume")
        start(second, study)
        assert parent(client, study).info.status == "RUNNING"
        second.on_trial_start(study, trial)
        for accuracy in (0.7, 0.8):
            run_epoch(study, trial, [second], accuracy)
        end_trial(study, trial, [second])
        run_trial(study, [second], [0.9])
        end_study(study, [second])

        runs = children(client, study)
        assert [(run.data.tags["samtune.trial_number"], run.info.status) for run in runs] == [
            ("0", "FINISHED"),
            ("1", "FINISHED"),
            ("2", "FINISHED"),
        ]
        history = client.get_metric_history(runs[1].info.run_id, "val_accuracy")
        assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.7), (3, 0.8)]
        assert parent(client, study).info.status == "FINISHED"

    def test_what_was_never_sent_is_written(self, client: MlflowClient, store_uri: str, study: Study) -> None:
        tracker = MlflowTracker(store_uri, "unsent")
        start(tracker, study)
        end_study(study, [tracker])
        run_trial(study, [], [0.5, 0.6])  # finished while no tracker listened: the driver was killed
        again = MlflowTracker(store_uri, "unsent")
        start(again, study)
        end_study(study, [again])
        (run,) = children(client, study)
        assert (run.info.status, run.data.metrics["val_accuracy"]) == ("FINISHED", 0.6)
        assert len(client.get_metric_history(run.info.run_id, "val_accuracy")) == 2


def test_a_parent_run_that_the_journal_did_not_hear_of_is_found_again(
    client: MlflowClient, store_uri: str, tmp_path: Path
) -> None:
    """The driver died between the run's creation and the journal's next line: the resumed study knows no id."""
    study = make_study(tmp_path, store_uri)
    study.name = "orphaned"
    first = MlflowTracker(store_uri, "digits")
    start(first, study)
    created = study.parent_run_id
    resumed = make_study(tmp_path, store_uri)
    resumed.name, resumed.started_at = study.name, study.started_at
    second = MlflowTracker(store_uri, "digits")
    start(second, resumed)
    assert resumed.parent_run_id == created
    end_study(resumed, [second])
    end_study(study, [first])
    another = make_study(tmp_path, store_uri)
    another.name, another.started_at = study.name, study.started_at + 1.0
    third = MlflowTracker(store_uri, "digits")
    start(third, another)
    assert another.parent_run_id != created  # the same name in another folder
    end_study(another, [third])


def test_a_trial_says_which_data_it_used(client: MlflowClient, tracker: MlflowTracker, study: Study) -> None:
    start(tracker, study)
    run_trial(study, [tracker], [0.5])
    run_trial(study, [tracker], [0.6])
    end_study(study, [tracker])
    inputs = [client.get_run(run.info.run_id).inputs.dataset_inputs for run in children(client, study)]
    assert [len(found) for found in inputs] == [1, 1]
    first, second = (found[0].dataset for found in inputs)
    assert first.name == "digits"
    assert first.digest == second.digest
    assert json.loads(first.source) == {"data.name": "digits"}


def test_files_are_logged_to_the_parent_run(
    client: MlflowClient, tracker: MlflowTracker, study: Study, tmp_path: Path
) -> None:
    start(tracker, study)
    end_study(study, [tracker])
    log_files(study, {"report.html": "<p>old</p>"})
    log_files(study, {"report.html": "<p>ε̂</p>", "figures/rho.svg": "<svg/>"})
    run = client.get_run(study.parent_run_id or "")
    assert artifact(client, run, "report.html", tmp_path) == "<p>ε̂</p>"
    assert artifact(client, run, "figures/rho.svg", tmp_path) == "<svg/>"
    assert run.info.status == "KILLED"  # as it was: no trial ran


def test_only_what_was_given_or_differs_is_a_parameter(
    client: MlflowClient,
    tracker: MlflowTracker,
    study: Study,
    tmp_path: Path,
    experiment: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    study.plan["given"] = ["data.name", "method.rho", "training.lr", "training.clip_norm"]
    start(tracker, study)
    run_trial(study, [tracker], [0.5, 0.7], rho=0.1)
    run_trial(study, [tracker], [0.6, 0.8], rho=0.2)
    end_study(study, [tracker])

    runs = children(client, study)
    shown = {"data.name", "model.name", "method.name", "method.rho", "training.lr", "training.epochs"}
    assert [set(run.data.params) for run in runs] == [shown | {"training.clip_norm"}] * 2
    (name,) = {run.data.tags["samtune.other_params"] for run in runs}  # one artifact for both
    others = json.loads(artifact(client, parent(client, study), name, tmp_path))
    assert others == {"method.m": "worker", "training.nesterov": "False"}
    # Who reads the experiment gets every key, and no progress bar.
    capfd.readouterr()
    found = finished_runs(study.tracking_uri, experiment, ["val_accuracy"])
    assert capfd.readouterr().err == ""
    assert {trial.params["method.rho"] for trial in found} == {"0.1", "0.2"}
    assert all(set(trial.params) == set(study.trials[0].params) for trial in found)


def test_a_section_of_branches_is_given_with_all_its_keys(study: Study) -> None:
    study.plan["given"] = ["method"]
    trial = run_trial(study, [], [0.5])
    shown, others = split_params(study, trial)
    assert {"method.name", "method.m", "method.rho"} <= set(shown)
    assert set(others) == {"training.nesterov", "training.clip_norm"}


def test_an_artifact_that_is_gone_is_an_error_and_no_other_trial(
    client: MlflowClient, tracker: MlflowTracker, study: Study, experiment: str
) -> None:
    study.plan["given"] = ["method.rho"]
    start(tracker, study)
    run_trial(study, [tracker], [0.5])
    end_study(study, [tracker])
    folder = Path(unquote(urlsplit(str(parent(client, study).info.artifact_uri)).path))
    shutil.rmtree(folder / "params")
    with pytest.raises(UsageError, match=f"^mlflow:{experiment}: "):
        finished_runs(study.tracking_uri, experiment, ["val_accuracy"])


def test_what_trials_printed_becomes_a_file_of_their_runs(
    client: MlflowClient, tracker: MlflowTracker, study: Study, tmp_path: Path
) -> None:
    start(tracker, study)
    first, second = run_trial(study, [tracker], [0.5]), run_trial(study, [tracker], [0.6])
    end_study(study, [tracker])
    assert log_outputs(study, {first.id: "hello\n", "unknown": "of no run"}) == 1
    assert log_outputs(study, {first.id: "hello again\n"}) == 1
    runs = {run.data.tags["samtune.trial_id"]: run for run in children(client, study)}
    assert artifact(client, runs[first.id], "output.txt", tmp_path) == "hello again\n"
    assert "output.txt" not in [file.path for file in client.list_artifacts(runs[second.id].info.run_id)]
    study.parent_run_id = None
    assert log_outputs(study, {first.id: "hello"}) == 0
