from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from network import Gate, free_port

from samtune.tracking import default_tracking_uri


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MLflow 3.17 uses what SQLAlchemy 2.1 deprecates."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"))


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sqlite store for all tests that only add to it: to make one takes a second."""
    return default_tracking_uri(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def client(store_uri: str) -> MlflowClient:
    return MlflowClient(store_uri)


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real `mlflow server`."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    log = folder / "server.log"
    with log.open("w") as stream:
        # Without the job runners of evaluations, it is one process instead of nine.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"mlflow server does not start:\n{log.read_text()}")


@pytest.fixture
def gate(server_port: int) -> Iterator[Gate]:
    gate = Gate(server_port)
    yield gate
    gate.close()
