"""A store that cannot be used is found out within seconds, and said in one line."""

from __future__ import annotations

import http.server
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.network import free_port, listening
from mlflow import MlflowClient

from samtune.errors import TrackingError
from samtune.tracking import MlflowTracker, resolve_tracking_uri


def refused(uri: str, *, experiment: str = "digits") -> str:
    """The message with which a store is refused, well before MLflow's own minutes of attempts."""
    with pytest.raises(TrackingError) as caught:
        MlflowTracker(uri, experiment).connect_in_background().result(timeout=120)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_server() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    message = refused(uri)
    assert message == (
        f"tracking_uri {uri}: no MLflow server answers: "
        "connection refused; is the server running, and is the port right?"
    )


def test_a_host_that_does_not_exist() -> None:
    message = refused("http://no-such-host.invalid:5000")
    assert "tracking_uri http://no-such-host.invalid:5000: no MLflow server answers: the host name" in message


@pytest.mark.slow
def test_a_server_that_says_nothing() -> None:
    with listening() as port:
        message = refused(f"http://127.0.0.1:{port}")
    assert "no MLflow server answers: nothing within 5 seconds" in message


@pytest.fixture
def web_server() -> Iterator[int]:
    """Something that speaks HTTP, and is not MLflow."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = 401 if "secret" in self.path else 404
            self.send_response(status)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"nope")

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_server_that_is_not_mlflow(web_server: int) -> None:
    assert "is not an MLflow tracking server; check the address" in refused(f"http://127.0.0.1:{web_server}")


def test_a_server_that_wants_a_password(web_server: int) -> None:
    message = refused(f"http://127.0.0.1:{web_server}/secret")
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in message


def test_a_database_server_that_is_not_there() -> None:
    port = free_port()
    message = refused(f"postgresql://me:secret@127.0.0.1:{port}/mlflow")
    assert message.startswith(f"tracking_uri postgresql://me:***@127.0.0.1:{port}/mlflow: no database answers")


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("this is a text file, and a long one at that\n" * 100)
    assert f"{path} cannot be opened for writing: file is not a database" in refused(f"sqlite:///{path}")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert "cannot be opened for writing" in message


@pytest.mark.slow
def test_a_database_that_another_process_holds(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert "cannot be opened for writing: database is locked" in refused(f"sqlite:///{path}")
    finally:
        holder.close()


def test_a_store_of_another_mlflow_version(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowTracker(uri, "digits").connect()
    newer = f"sqlite:///{tmp_path}/newer.db"
    with sqlite3.connect(tmp_path / "mlflow.db") as source, sqlite3.connect(tmp_path / "newer.db") as copy:
        source.backup(copy)
        copy.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    source.close()
    copy.close()
    message = refused(newer)
    assert "written by another version of MLflow" in message
    assert f"mlflow db upgrade {newer}" in message


def test_a_deleted_experiment(store_uri: str, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("gone"))
    message = refused(store_uri, experiment="gone")
    assert message.startswith(f"experiment gone: was deleted in {store_uri}; choose another name, or restore it")


def test_a_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as port:
        message = refused(f"postgresql+nosuchdriver://me@127.0.0.1:{port}/mlflow")
    assert "cannot be opened" in message
    assert "nosuchdriver" in message


def test_the_experiment_of_that_name_is_used_again(store_uri: str, client: MlflowClient) -> None:
    experiment_id = client.create_experiment("shared")
    tracker = MlflowTracker(store_uri, "shared")
    tracker.connect()
    assert tracker.experiment_id == experiment_id


def test_two_searches_may_create_the_experiment_at_once(tmp_path: Path) -> None:
    uri = resolve_tracking_uri(str(tmp_path / "mlflow.db"))
    MlflowTracker(uri, "other").connect()
    trackers = [MlflowTracker(uri, "same") for _ in range(4)]
    for future in [tracker.connect_in_background() for tracker in trackers]:
        future.result(timeout=120)
    assert len({tracker.experiment_id for tracker in trackers}) == 1


@pytest.mark.slow
def test_processes_may_create_the_store_at_once(tmp_path: Path) -> None:
    uri = resolve_tracking_uri(str(tmp_path / "mlflow.db"))
    code = (
        f"from samtune.tracking import MlflowTracker as T; t = T({uri!r}, 'same'); t.connect(); print(t.experiment_id)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1


def test_the_users_settings_are_kept(store_uri: str) -> None:
    code = (
        "import os, sys\n"
        "from samtune.tracking import MlflowTracker\n"
        "MlflowTracker(sys.argv[1], 'digits').connect()\n"
        "print(os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'], os.environ['MLFLOW_HTTP_REQUEST_MAX_RETRIES'])\n"
    )
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    environment.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES", None)
    output = subprocess.run(
        [sys.executable, "-c", code, store_uri], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["77", "0"]
    assert output.stderr == ""
