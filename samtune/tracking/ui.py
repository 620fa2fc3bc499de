"""MLflow's UI on a study's store, for as long as somebody looks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO
from urllib.parse import quote, urlencode

from samtune.errors import RunError, UsageError
from samtune.formatting import first_line
from samtune.study import Study
from samtune.tracking.credentials import redact_text, with_credentials
from samtune.tracking.mlflow_names import JOB_RUNNERS, TELEMETRY
from samtune.tracking.uris import UI_PORT

COMPARED = 6
"""Trials selected on the comparison page: more lines than colours help nobody."""

BACKEND_STORE = "MLFLOW_BACKEND_STORE_URI"
"""Of MLflow's server, as its option --backend-store-uri."""

HOST = "127.0.0.1"
START_SECONDS = 120.0


def comparison_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The address of the page that compares these runs."""
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
    return f"{base}#/compare-runs?{urlencode(query, quote_via=quote)}"


def metric_page(base: str, experiment_id: str, run_ids: Sequence[str], metric: str) -> str:
    """The address of the page that draws a metric of these runs over the epochs."""
    query = {
        "runs": json.dumps(list(run_ids)),
        "metric": json.dumps(metric),
        "experiments": json.dumps([experiment_id]),
        "plot_metric_keys": json.dumps([metric]),
        "plot_layout": json.dumps({"autosize": True}),
        "x_axis": "step",
        "y_axis_scale": "linear",
        "line_smoothness": "1",  # MLflow's word for none
        "show_point": "true",
        "deselected_curves": "[]",
        "last_linear_y_axis_range": "[]",
    }
    return f"{base}#/metric?{urlencode(query, quote_via=quote)}"


def top_runs(study: Study) -> list[str]:
    """The MLflow runs of the best trials, the best first; empty where the store has none yet.

    Raises:
        TrackingError: the store does not answer.
    """
    from samtune.tracking.store import Store

    if study.parent_run_id is None:
        return []
    runs = Store(study.tracking_uri, study.experiment).trial_runs(study.parent_run_id)
    ranked = [trial for trial in study.ranked() if study.objective.value(trial) is not None]
    return [runs[trial.id].run_id for trial in ranked if trial.id in runs][:COMPARED]


@contextmanager
def serving(tracking_uri: str, port: int | None = None) -> Iterator[str]:
    """Runs MLflow's server on a store, reachable from this machine alone, until the body ends.

    Args:
        tracking_uri: absolute; a database.
        port: to listen on; None: 5000, or a free one where that is taken.

    Yields:
        Its address.

    Raises:
        UsageError: the port is taken.
        RunError: the server does not start.
    """
    port = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    # Without the job runners of evaluations, it is two processes instead of nine.
    environment = {JOB_RUNNERS: "false", TELEMETRY: "true", **os.environ}
    environment[BACKEND_STORE] = with_credentials(tracking_uri)  # every user of the machine sees the arguments
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        # A session of its own: Ctrl-C is for this process, which then ends the server and all that it has started.
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://{HOST}:{port}/"
            _wait_until_ready(f"{address}health", server, log)
            yield address
        finally:
            _end(server)


def _free_port(wanted: int | None) -> int:
    for port in (wanted,) if wanted is not None else (UI_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UsageError("is taken by another program", argument="port", value=wanted)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: IO[str]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            log.seek(0)
            lines = [line for line in log.read().splitlines() if line.strip()]
            raise RunError(
                f"MLflow's server ended at once: {redact_text(first_line(lines[-1] if lines else ''))[:300]}"
            )
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RunError(f"MLflow's server does not answer within {START_SECONDS:g} seconds")


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and its children, which are in its process group."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    server.wait()
