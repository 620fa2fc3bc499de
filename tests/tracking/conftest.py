from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from helpers.network import Gate, free_port
from mlflow import MlflowClient

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
    """A real `mlflow server`. It takes seconds until it has the port, which another process may take meanwhile."""
    with ExitStack() as ending:
        for last in (False, False, True):
            folder, port = tmp_path_factory.mktemp("server"), free_port()
            server, log = _start_server(folder, port)
            ending.callback(_stop, server)
            if _answers(f"http://127.0.0.1:{port}/health", server, log, or_else_fail=last):
                break
        yield port


def _start_server(folder: Path, port: int) -> tuple[subprocess.Popen[bytes], Path]:
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
    return server, log


def _stop(server: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str, server: subprocess.Popen[bytes], log: Path, *, or_else_fail: bool) -> bool:
    deadline = time.monotonic() + 400
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except OSError:
            time.sleep(0.1)
    if or_else_fail:
        pytest.fail(f"mlflow server does not start:\n{log.read_text()}")
    return False


@pytest.fixture
def gate(server_port: int) -> Iterator[Gate]:
    gate = Gate(server_port)
    yield gate
    gate.close()
