"""A study that samtune 0.1.0 wrote: it still resumes, and its report and export still work."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import run_samtune
from mlflow import MlflowClient

from samtune import Results, TrialState
from samtune.store.journal import read_journal
from samtune.study import Study
from samtune.tracking.history import finished_runs
from samtune.tracking.parameters import param

ARCHIVE = Path(__file__).parent / "study-0.1.0.tar.gz"
WRITTEN_IN = Path("/tmp/samtune-0.1.0")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder where samtune 0.1.0 ran `search --space old.yaml --name old`; its driver was killed in trial 1.

    It has moved since, with its MLflow store and its working directory.
    """
    assert not WRITTEN_IN.exists()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_written_to_the_old_place() -> Iterator[None]:
    yield
    assert not WRITTEN_IN.exists()


def test_its_journal_reads_as_it_was_written(study: Path) -> None:
    old = read_journal(study / "samtune-results" / "old")
    assert [(trial.number, trial.state, trial.epoch) for trial in old] == [
        (0, TrialState.COMPLETED, 3),
        (1, TrialState.RUNNING, 2),
    ]
    assert old.trials[0].history.records[0].group == 0
    assert old.trials[0].history.records[0].ended_at == pytest.approx(1795705091, abs=60)
    assert old.trials[0].config == {"method.name": "sam", "method.rho": 0.05, "training.lr": 0.1}
    assert not old.trials[0].diverged


def test_it_reports_and_exports(study: Path) -> None:
    done = run_samtune("report", "old", "-o", "report.html", cwd=study)
    assert done.returncode == 0, done.stderr
    assert "trial 0" in (study / "report.html").read_text(encoding="utf-8")
    done = run_samtune("export", "old", "old.parquet", cwd=study)
    assert done.returncode == 0, done.stderr
    assert Results.load("old", study / "samtune-results").to_arrow().num_rows == 5


def test_its_runs_in_mlflow_have_all_their_parameters(study: Path) -> None:
    """Later versions write those that were given, and the others into an artifact."""
    old = read_journal(study / "samtune-results" / "old")
    uri = f"sqlite:///{study}/samtune-results/mlflow.db"
    (found,) = finished_runs(uri, old.experiment, ["val_accuracy"])
    assert found.params == {key: param(value) for key, value in old.trials[0].params.items()}
    assert list(found.history)[-1]["val_accuracy"] == old.trials[0].metrics["val_accuracy"]


def runs_of(study: Study) -> dict[str, str]:
    """Trial id -> status of its one run in MLflow."""
    client = MlflowClient(tracking_uri=study.tracking_uri)
    runs = client.search_runs([str(study.experiment_id)], f"tags.`mlflow.parentRunId` = '{study.parent_run_id}'")
    found = {run.data.tags["samtune.trial_id"]: run.info.status for run in runs}
    assert len(found) == len(runs)
    return found


@pytest.mark.cluster
def test_it_resumes_where_it_is_now(study: Path) -> None:
    before = read_journal(study / "samtune-results" / "old")
    done = run_samtune("search", "--resume", "old", "--trust", cwd=study)
    assert done.returncode == 0, done.stderr
    after = read_journal(study / "samtune-results" / "old")
    assert [trial.state for trial in after] == [TrialState.COMPLETED] * 4
    assert after.trials[0].history == before.trials[0].history
    assert list(after.trials[1].history)[:2] == list(before.trials[1].history)  # from its checkpoint
    assert after.parent_run_id == before.parent_run_id
    assert after.tracking_uri == f"sqlite:///{study}/samtune-results/mlflow.db"
    assert runs_of(after) == {trial.id: "FINISHED" for trial in after}
    client = MlflowClient(tracking_uri=after.tracking_uri)
    space = Path(client.download_artifacts(str(after.parent_run_id), "space.yaml", str(study)))
    assert space.read_text() == after.space_yaml


@pytest.mark.cluster
def test_what_mlflow_has_lost_is_written_again(study: Path) -> None:
    """The whole store; `tests/cli/test_resume_usage.py` deletes a run."""
    before = Results.load("old", study / "samtune-results").study
    (study / "samtune-results" / "mlflow.db").unlink()
    done = run_samtune("search", "--resume", "old", "--trust", cwd=study)
    assert done.returncode == 0, done.stderr
    assert "the study's run is no longer in MLflow: writing all 2 trials again" in done.stdout
    after = read_journal(study / "samtune-results" / "old")
    assert after.parent_run_id != before.parent_run_id
    assert runs_of(after) == {trial.id: "FINISHED" for trial in after}
    run = MlflowClient(tracking_uri=after.tracking_uri).search_runs(
        [str(after.experiment_id)], f"tags.`samtune.trial_id` = '{after.trials[0].id}'", max_results=5
    )[0]
    history = MlflowClient(tracking_uri=after.tracking_uri).get_metric_history(run.info.run_id, "val_accuracy")
    assert [point.step for point in history] == [1, 2, 3]
