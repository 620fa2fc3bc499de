"""A search one of whose helper processes is killed: nobody notices but the journal of Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from helpers.command import CLEAN, SAMTUNE

from samtune.store.journal import read_journal
from samtune.study import TrialState


def descendants(process: subprocess.Popen[str], title: str) -> list[int]:
    """The processes of an actor below a search, by the title that Ray gives them."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "".join(child.cmdline()[:1]).startswith(title):
                found.append(child.pid)
        except psutil.NoSuchProcess:  # or a zombie
            continue
    return found


@pytest.mark.cluster
def test_a_killed_trainable_loses_no_trial_and_keeps_the_workers_warm(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    arguments = ["search", "--space", "digits.yaml", "--num-trials", "12", "--name", "study", "--json"]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*SAMTUNE, *arguments, "--num-workers", "1", "--max-concurrent", "1"],
            cwd=tmp_path,
            env=CLEAN,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        deadline = time.time() + 400
        while "trial 1 completed" not in log.read_text():
            assert time.time() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        workers = descendants(process, "ray::RayTrainWorker")
        # Its title names the method it is in: a trial is being trained.
        while not (trainables := descendants(process, "ray::ResourceTrainable.train")):
            assert time.time() < deadline, [p.cmdline()[:1] for p in psutil.Process(process.pid).children(True)]
        os.kill(trainables[0], signal.SIGKILL)
        while "trial 3 completed" not in log.read_text():
            assert time.time() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        assert descendants(process, "ray::RayTrainWorker") == workers
        stdout, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 0, log.read_text()
    assert json.loads(stdout)["num_completed"] == 12
    study = read_journal(tmp_path / "samtune-results" / "study")
    assert [trial.number for trial in study] == list(range(12))
    assert study.count(TrialState.COMPLETED) == 12
    assert all([m["epoch"] for m in trial.history] == list(range(1, 13)) for trial in study)
    assert "Traceback" not in log.read_text()
