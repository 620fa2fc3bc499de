"""From a search to a confirmed result through the command line, killed once on the way."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from samtune.errors import UsageError
from samtune.experiments.confirm import Confirmer, load_confirmation
from samtune.experiments.results import Results
from samtune.study import TrialState

SAMTUNE = [sys.executable, "-m", "samtune"]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
SEARCH = ["search", "--space", "digits.yaml", "--name", "s", "--num-trials", "2", "--set", "training.epochs=2"]
SEARCH += ["--set", "data.num_train=600", "--num-workers", "1", "--max-concurrent", "1"]
CONFIRM = ["confirm", "s", "--top", "1", "--replicas", "3", "--json"]

CLEAN_PROCESS = """
    import sys, torch, mlflow
    mlflow.set_tracking_uri(sys.argv[1])
    model = mlflow.pytorch.load_model(sys.argv[2])
    print(list(model(torch.rand(3, 1, 8, 8)).shape), any(name.startswith("samtune") for name in sys.modules))
"""


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*SAMTUNE, *arguments]
    return subprocess.run(command, cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=280)


@pytest.mark.cluster
def test_a_confirmation_that_was_killed_goes_on_and_its_model_loads_anywhere(tmp_path: Path) -> None:
    searched = _run(tmp_path, *SEARCH)
    assert searched.returncode == 0, searched.stderr
    driver = subprocess.Popen(
        [*SAMTUNE, *CONFIRM], cwd=tmp_path, env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert driver.stderr is not None
    with driver.stderr:
        completed = (line for line in driver.stderr if re.search(r"trial \d+ completed", line))
        assert len(list(itertools.islice(completed, 3))) == 3
        driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert driver.returncode == -signal.SIGKILL
    time.sleep(1.0)  # Ray's processes notice that their driver is gone
    storage = tmp_path / "samtune-results"
    before = {t.id: t.history for t in Results.load("s-confirm", storage) if t.state is TrialState.COMPLETED}
    assert len(before) >= 3

    resumed = _run(tmp_path, *CONFIRM, "--register", "digits-best")
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    assert result["num_missing"] == 0
    assert [len(candidate["values"]) for candidate in result["candidates"]] == [3, 3, 3]
    after = {trial.id: trial.history for trial in Results.load("s-confirm", storage)}
    assert {key: after[key] for key in before} == before  # what was done was not done again
    for trial in Results.load("s-confirm", storage):
        assert trial.params["data.validation_fraction"] == 0
        assert [("test_accuracy" in record) for record in trial.history][-1]
        assert not any("test_accuracy" in record for record in trial.history[:-1])  # looked at once
        assert not any("val_accuracy" in record for record in trial.history)

    assert Confirmer("s", storage_path=storage, top=1, replicas=3).run().to_dict() == result  # starts nothing
    with pytest.raises(UsageError, match="has trained something else"):
        Confirmer("s", storage_path=storage, top=2, replicas=3)

    confirmation = load_confirmation(Results.load("s", storage).study)
    assert confirmation is not None
    assert confirmation.to_dict() == result
    _check_weights(storage, confirmation.best_trial())
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(CLEAN_PROCESS),
            confirmation.study.tracking_uri,
            "models:/digits-best/1",
        ],
        cwd=tmp_path,
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert loaded.stdout.splitlines()[-1:] == ["[3, 10] False"], loaded.stderr


def _check_weights(storage: Path, best: object) -> None:
    """The three lines that the user is shown give the network that was tested."""
    import torch

    from samtune import Trial, load_model
    from samtune.config.data import DigitsConfig
    from samtune.data import load_dataset

    assert isinstance(best, Trial)
    model = load_model(storage / "s-confirm" / "best.safetensors")
    test = load_dataset(DigitsConfig()).load_test()
    accuracy = (model(test.images.float() / 255).argmax(1) == test.labels).double().mean()
    torch.testing.assert_close(accuracy.item(), best.metrics["test_accuracy"], rtol=0, atol=1e-12)
