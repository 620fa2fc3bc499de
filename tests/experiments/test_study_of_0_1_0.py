"""A study that samtune 0.1.0 wrote: it still resumes, and its report and export still work."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from helpers.command import run_samtune

from samtune import Results, TrialState
from samtune.store.journal import read_journal

ARCHIVE = Path(__file__).parent / "study-0.1.0.tar.gz"
WRITTEN_IN = "/tmp/samtune-0.1.0"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder where samtune 0.1.0 ran `search --space old.yaml --name old`; its driver was killed in trial 1."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("journal.jsonl", "space.yaml"):
        file = tmp_path / "samtune-results" / "old" / name
        file.write_text(file.read_text().replace(WRITTEN_IN, str(tmp_path)))
    with closing(sqlite3.connect(tmp_path / "samtune-results" / "mlflow.db")) as store, store:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (WRITTEN_IN, str(tmp_path)))
    return tmp_path


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


@pytest.mark.slow
def test_it_resumes(study: Path) -> None:
    from mlflow import MlflowClient

    before = read_journal(study / "samtune-results" / "old")
    done = run_samtune("search", "--resume", "old", "--trust", cwd=study)
    assert done.returncode == 0, done.stderr
    after = read_journal(study / "samtune-results" / "old")
    assert [trial.state for trial in after] == [TrialState.COMPLETED] * 4
    assert after.trials[0].history == before.trials[0].history
    assert list(after.trials[1].history)[:2] == list(before.trials[1].history)  # from its checkpoint
    client = MlflowClient(tracking_uri=after.tracking_uri)
    runs = client.search_runs([str(after.experiment_id)], f"tags.`mlflow.parentRunId` = '{after.parent_run_id}'")
    assert sorted(run.data.tags["samtune.trial_id"] for run in runs) == sorted(trial.id for trial in after)
    assert {run.info.status for run in runs} == {"FINISHED"}
