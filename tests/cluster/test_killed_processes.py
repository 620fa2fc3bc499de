"""kill -9 of every kind of process that a search has: it continues, or ends in order where the cluster is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from helpers.command import CLEAN, SAMTUNE, wait_for_no_ray_process
from helpers.processes import CONTINUES, ENDS, ENDS_AT_ONCE, tree

from samtune.store.journal import FILE_NAME, read_journal
from samtune.study import Study, TrialState

SLOW = """
import os
import time


def slow(outputs, targets):
    if os.path.exists({gate!r}):
        time.sleep(0.3)
    return (0 * outputs).mean()
"""


@contextmanager
def search(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A search whose epochs are slow while the file `gate` exists."""
    (folder / "gate").touch()
    (folder / "slowly.py").write_text(SLOW.format(gate=str(folder / "gate")))
    driver = subprocess.Popen(
        [*SAMTUNE, "search", "--space", "digits.yaml", "--name", "s", "--no-check", *options],
        cwd=folder,
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.communicate()


OPTIONS = (
    *("--num-trials", "2", "--max-concurrent", "1", "--set", "model={name: mlp, depth: 2, width: 8}"),
    *(
        "--set",
        "data.num_train=300",
        "--set",
        "training.epochs=60",
        "--set",
        "checkpoint.min_seconds=0.0",
        "--set",
        "training.metrics=[slowly:slow]",
    ),
)


ALWAYS_THERE = {"RayTrainWorker", "Coordinator"}
"""What a running trial cannot do without."""


def num_epochs(folder: Path) -> int:
    """So many epochs are in the journal."""
    path = folder / "samtune-results" / "s" / FILE_NAME
    return path.read_bytes().count(b'"event": "epoch"') if path.exists() else 0


def pids(driver: subprocess.Popen[str], kind: str) -> set[int]:
    return {process.pid for process in tree(driver).get(kind, [])}


def wait_until(happens: Callable[[], bool], driver: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_one_run_each(study: Study, status: dict[TrialState, str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=study.tracking_uri)
    runs = client.search_runs([str(study.experiment_id)], f"tags.`mlflow.parentRunId` = '{study.parent_run_id}'")
    found = sorted((run.data.tags["samtune.trial_id"], run.info.status) for run in runs)
    assert found == sorted((trial.id, status[trial.state]) for trial in study)


@pytest.mark.cluster
def test_a_search_survives_the_loss_of_every_process_that_is_not_the_cluster_s(tmp_path: Path) -> None:
    with search(tmp_path, *OPTIONS, "--num-workers", "2") as driver:
        wait_until(lambda: num_epochs(tmp_path) > 1, driver)
        assert set(tree(driver)) <= {*CONTINUES, *ENDS, *ENDS_AT_ONCE}, "a new kind of process: say what its loss means"
        killed = []
        for kind in CONTINUES:
            if kind in ALWAYS_THERE:  # but for a moment, where an earlier kill took it down too
                wait_until(lambda kind=kind: kind in tree(driver), driver)
            if processes := tree(driver).get(kind):
                before = num_epochs(tmp_path)
                with suppress(psutil.NoSuchProcess):  # one in reserve may have ended by itself
                    processes[0].kill()
                killed.append(kind)
                wait_until(lambda before=before: num_epochs(tmp_path) > before + 1, driver)
        (tmp_path / "gate").unlink()
        out, err = driver.communicate(timeout=300)
    assert set(killed) >= ALWAYS_THERE
    assert driver.returncode == 0, (out, err)
    study = read_journal(tmp_path / "samtune-results" / "s")
    assert [trial.state for trial in study] == [TrialState.COMPLETED] * 2
    assert [[metrics["epoch"] for metrics in trial.history] for trial in study] == [list(range(1, 61))] * 2
    assert_one_run_each(study, {TrialState.COMPLETED: "FINISHED"})
    wait_for_no_ray_process()


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ENDS)
def test_a_search_whose_cluster_is_gone_ends_in_order(kind: str, tmp_path: Path) -> None:
    with search(tmp_path, *OPTIONS, "--num-workers", "1") as driver:
        wait_until(lambda: num_epochs(tmp_path) > 1, driver)
        tree(driver)[kind][0].send_signal(signal.SIGKILL)
        started = time.monotonic()
        out, err = driver.communicate(timeout=300)
        seconds = time.monotonic() - started
    print(f"{kind}: ended after {seconds:.1f} s", file=sys.stderr)
    assert driver.returncode == 1, (out, err)
    last = err.strip().splitlines()[-1]
    assert last.startswith("samtune: error: the Ray cluster is lost: ")
    assert "`samtune search --resume s` continues" in last
    assert "Traceback" not in out + err
    study = read_journal(tmp_path / "samtune-results" / "s")
    assert {trial.state for trial in study} == {TrialState.INTERRUPTED}
    assert_one_run_each(study, {TrialState.INTERRUPTED: "KILLED"})
    wait_for_no_ray_process()


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ENDS_AT_ONCE)
def test_a_driver_that_ray_ends_loses_nothing_that_was_finished(kind: str, tmp_path: Path) -> None:
    """`tests/cli/test_resume.py` resumes after a driver that was killed: the same journal, the same runs."""
    with search(tmp_path, *OPTIONS, "--num-workers", "1") as driver:
        wait_until(lambda: num_epochs(tmp_path) > 1, driver)
        tree(driver)[kind][0].send_signal(signal.SIGKILL)
        out, err = driver.communicate(timeout=300)
    assert driver.returncode == 1, (out, err)
    assert "Traceback" not in out + err
    before = read_journal(tmp_path / "samtune-results" / "s")
    assert before.trials[0].epoch > 1
    last = err.strip().splitlines()[-1]
    assert last.endswith("finished trials are kept: `samtune search --resume s` continues")
    # Ray ends the node, and then the driver, which may have seen before that the node has gone, and may even be in the
    # middle of ending the search in order.
    cause = last.removeprefix("samtune: error: ")
    assert cause.startswith(("the Ray cluster is lost: ", "the process of the search was ended from outside ("))
    assert_one_run_each(before, {TrialState.INTERRUPTED: "KILLED", TrialState.RUNNING: "KILLED"})
    wait_for_no_ray_process()
