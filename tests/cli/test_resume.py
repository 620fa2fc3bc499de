"""A search whose driver is killed, and what `--resume` and `status` make of it.

`tests/cluster/test_random_faults.py` compares the results with those of a search that nobody disturbs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.command import CLEAN, SAMTUNE, run_samtune
from helpers.complete import check_complete
from helpers.waiting import wait_after

from samtune.store.journal import FILE_NAME, read_journal
from samtune.study import TrialState

pytestmark = pytest.mark.cluster

SMALL = (
    *("--set", "training.epochs=6", "--set", "data.num_train=800", "--set", "checkpoint.min_seconds=0"),
    *("--num-workers", "1"),
)


def kill_after(folder: Path, arguments: tuple[str, ...], *, lines: int) -> None:
    """Starts a search and kills its driver when the journal has so many lines."""
    journal = folder / "samtune-results" / "study" / FILE_NAME
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*SAMTUNE, "search", *arguments], cwd=folder, env=CLEAN, stdout=log, stderr=log, start_new_session=True
        )
    started = time.time()
    while not journal.exists() or journal.read_text().count("\n") < lines:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.time() < started + 300, (folder / "log").read_text()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    gate, waiting = wait_after(tmp_path, epochs=3)
    space = ("--space", "digits.yaml", "--num-trials", "1", *SMALL, *waiting)
    kill_after(tmp_path, (*space, "--name", "study", "--no-check"), lines=4)  # study, trial, two epochs
    gate.unlink()
    folder = tmp_path / "samtune-results" / "study"
    (trial,) = read_journal(folder)
    assert trial.state is TrialState.RUNNING
    known = len(trial.history)
    assert 2 <= known <= 3
    assert list((folder / "checkpoints" / trial.id).glob("epoch-*.pt"))

    shown = run_samtune("status", "study", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "stopped after 0 of 1 trial; `samtune search --resume study` continues it" in shown.stdout

    done = run_samtune("search", "--resume", "study", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_complete(folder, json.loads(done.stdout), 1, epochs=6)
    assert not (folder / "checkpoints" / trial.id).exists()  # of no use any more
    shown = run_samtune("status", "study", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["running"] is False
    assert json.loads(shown.stdout)["num_completed"] == 1
