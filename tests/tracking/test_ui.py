"""`samtune ui`: MLflow's own pages, in a real browser, on the store of a search."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from helpers.browser import open_page
from helpers.simulated import end_study, make_study, run_trial

from samtune.errors import UsageError
from samtune.store.journal import Journal
from samtune.tracking import MlflowTracker, default_tracking_uri
from samtune.tracking.ui import serving


def _searched(storage: Path) -> None:
    """A search of three trials, journal and MLflow written as in a real one."""
    study = make_study(storage, default_tracking_uri(storage), num_trials=3)
    (storage / "digits-1").mkdir()
    callbacks = [Journal(storage / "digits-1"), tracker := MlflowTracker(study.tracking_uri, "digits")]
    study.experiment_id, study.parent_run_id = tracker.open(study)
    for callback in callbacks:
        callback.on_study_start(study)
    for rho, accuracies in ((0.05, [0.5, 0.7]), (0.1, [0.6, 0.9]), (0.2, [0.4, 0.6])):
        run_trial(study, callbacks, accuracies, rho)
    end_study(study, callbacks)


@pytest.mark.browser
def test_the_comparison_page_shows_the_best_trials_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    _searched(tmp_path)
    command = [sys.executable, "-m", "samtune", "ui", "digits-1", "--storage-path", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        objective = output.readline().rpartition(" ")[2].strip()
        address = output.readline().rpartition(" ")[2].strip()
        assert "#/metric?" in objective
        assert "#/compare-runs?" in address
        try:
            with open_page(address, width=1280) as (page, _):
                page.get_by_text("Comparing 3 Runs").wait_for()
                text = page.locator("body").inner_text()
                for shown in ("sam rho=0.05 lr=0.1", "sam rho=0.2 lr=0.1", "method.rho", "val_accuracy"):
                    assert shown in text
                page.goto(address.partition("#")[0])
                page.goto(
                    f"{address.partition('#')[0]}#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
                )
                page.locator("text=val_accuracy").first.wait_for()
                page.locator(".js-plotly-plot").first.wait_for()
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert children
    assert not psutil.wait_procs(children, timeout=60)[1]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", urlsplit(address).port or 0)) != 0


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"^port {port}: is taken"), serving(default_tracking_uri(tmp_path), port):
            pass
