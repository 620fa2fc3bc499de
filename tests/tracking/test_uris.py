from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.simulated import make_study

from samtune.errors import TrackingError
from samtune.tracking import default_tracking_uri, resolve_tracking_uri, ui_command, ui_page
from samtune.tracking.uris import database_address, redact, redact_text, sqlite_path


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, samtune.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_default_is_sqlite_with_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri("results") == f"sqlite:///{tmp_path}/results/mlflow.db"


def test_a_remote_storage_path_has_no_default() -> None:
    with pytest.raises(TrackingError, match=r"s3://bucket/x.*give `tracking_uri`"):
        default_tracking_uri("s3://bucket/x")


@pytest.mark.parametrize("given", ["sqlite:///runs.db", "runs.db", "./runs.db", " sqlite:///./runs.db "])
def test_relative_databases_count_from_the_working_directory(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_path(resolve_tracking_uri(given)) == tmp_path / "runs.db"


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:////data/mlflow.db?timeout=20", "sqlite:////data/mlflow.db?timeout=20"),
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("https://mlflow.example.org/team", "https://mlflow.example.org/team"),
        ("postgresql+psycopg2://me:secret@db/mlflow", "postgresql+psycopg2://me:secret@db/mlflow"),
        ("databricks://profile", "databricks://profile"),
        ("databricks", "databricks"),
    ],
)
def test_absolute_uris_stay(given: str, resolved: str) -> None:
    assert resolve_tracking_uri(given) == resolved


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("./mlruns", r"tracking_uri \./mlruns: .*no longer keeps runs in plain folders; use sqlite:////.*mlflow\.db"),
        ("mlruns", "use sqlite:////"),
        ("file:///data/mlruns", "use sqlite:////data/mlruns/mlflow.db"),
        ("", "use sqlite:////"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("ftp://host/x", "cannot keep runs at ftp.*http"),
        ("http://", "must have a host"),
        ("http://host:port", "must have a host"),
        ("somewhere", "neither a URI nor a .db file"),
    ],
)
def test_what_mlflow_cannot_use_is_refused_with_what_it_can(given: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message):
        resolve_tracking_uri(given)


def test_a_folder_is_refused_with_a_database_in_it(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=f"use sqlite:///{tmp_path}/mlflow.db"):
        resolve_tracking_uri(str(tmp_path))


@pytest.mark.parametrize("name", ["with space", "ünï", "100%", "a?b", "a#b", "a%20b"])
def test_any_folder_name_survives(name: str, tmp_path: Path) -> None:
    from sqlalchemy import make_url

    uri = default_tracking_uri(tmp_path / name)
    assert sqlite_path(uri) == tmp_path / name / "mlflow.db"
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")
    assert resolve_tracking_uri(uri) == uri


def test_passwords_are_not_shown() -> None:
    assert redact("postgresql://me:s3cr:et@db:5432/mlflow") == "postgresql://me:***@db:5432/mlflow"
    assert redact("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    command = "samtune search --tracking-uri 'https://me:s3cr/et@host:5000/x' --set training.lr=0.1"
    assert redact_text(command) == command.replace("s3cr/et", "***")
    assert redact_text("see http://host:5000/a and me@host") == "see http://host:5000/a and me@host"
    with pytest.raises(TrackingError) as caught:
        resolve_tracking_uri("ftp://me:secret@host")
    assert "secret" not in str(caught.value)


def test_database_address_has_the_drivers_port() -> None:
    assert database_address("postgresql://me@db/x") == ("db", 5432)
    assert database_address("mysql+pymysql://me@db:3307/x") == ("db", 3307)
    assert database_address("sqlite:////x.db") is None


def test_ui_command_of_a_database_is_a_shell_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    study = make_study(tmp_path, "sqlite:////data/my runs/mlflow.db")
    assert ui_command(study) == "mlflow ui --backend-store-uri 'sqlite:////data/my runs/mlflow.db' --port 5000"


def test_ui_command_names_this_pythons_mlflow_when_the_shell_would_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    command = ui_command(make_study(tmp_path, "sqlite:////data/mlflow.db"))
    assert command.startswith(f"{Path(sys.executable).parent}/mlflow ui ")


def test_ui_command_of_a_server_is_the_page_to_open(tmp_path: Path) -> None:
    study = make_study(tmp_path, "https://me:secret@mlflow.example.org/team")
    study.experiment_id, study.parent_run_id = "7", "abc"
    assert ui_command(study) == ui_page(study)
    assert ui_page(study) == (
        "https://mlflow.example.org/team/#/experiments/7/runs?workflowType=machine_learning"
        "&searchFilter=tags.%60mlflow.parentRunId%60%3D%27abc%27&orderByKey=metrics.%60val_accuracy%60&orderByAsc=false"
    )


def test_ui_page_of_a_database_is_on_the_commands_port(tmp_path: Path) -> None:
    study = make_study(tmp_path, "sqlite:////data/mlflow.db")
    study.experiment_id = "1"
    assert ui_page(study) == "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"


def test_the_check_of_a_new_sqlite_file_leaves_a_database_that_opens(tmp_path: Path) -> None:
    from samtune.tracking.connect import check_sqlite

    (tmp_path / "new").mkdir()
    check_sqlite("sqlite:///x", tmp_path / "new" / "mlflow.db")
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()
