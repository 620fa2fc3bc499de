"""A disk that is full when a checkpoint is written: the trial fails with that reason, and the search goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import CLEAN

from samtune.store.journal import read_journal
from samtune.study import TrialState


def can_mount() -> bool:
    """Whether a private tmpfs can be mounted here, as root or in a user namespace."""
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(
            ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
    )


@pytest.mark.cluster
@pytest.mark.skipif(not can_mount(), reason="no mount namespace for a tmpfs of its own")
def test_a_trial_whose_checkpoint_does_not_fit_fails_and_the_next_one_completes(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    settings = {
        "training.epochs": "3",
        "data.num_train": "200",
        "checkpoint.min_seconds": "0",
        "model": "{name: mlp, width: 16, depth: 4}",
        "search": "{model.width: {choice: [16, 1024]}}",
        "initial": "[{model.width: 1024}, {model.width: 16}]",  # 25 MB and 30 kB with momentum
    }
    arguments = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    command = [
        *(sys.executable, "-m", "samtune", "search", "--space", "digits.yaml", "--num-trials", "2", "--name", "s"),
        *("--num-workers", "1", "--max-concurrent", "1", "--address", "local", "--json"),
        *("--storage-path", str(disk), "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", *arguments),
    ]
    # The file system is gone with the namespace, so what is on it is copied first.
    script = 'mount -t tmpfs -o size=6m tmpfs "$0" && "${@:2}"; code=$?; cp -r "$0" "$1"; exit $code'
    done = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", script, str(disk), str(kept), *command],
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["num_completed"], summary["num_failed"]) == (1, 1)
    study = read_journal(kept / "s")
    full, small = study.trials
    assert full.state is TrialState.FAILED
    assert full.error is not None
    assert full.error.startswith("CheckpointError: checkpoint ")
    assert "No space left on device" in full.error
    assert small.state is TrialState.COMPLETED
    assert "No space left on device" in done.stderr  # told to the user
    assert not list(kept.rglob("*.part"))  # what did not fit is not left behind
