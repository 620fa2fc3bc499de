"""One configuration without a search, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.results import Results
from samtune.experiments.train import Training
from samtune.experiments.uncertainty import standard_error

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
FIXED = {"method.rho": 0.05, "training.lr": 0.1, "training.weight_decay": 5e-4, "training.epochs": 2}
FIXED |= {"resources.num_workers": 1}


def test_what_is_searched_must_be_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training.lr.*one value"):
        Training(SearchSpace.from_yaml("digits.yaml", {"method.rho": 0.05}), storage_path=tmp_path)


@pytest.mark.cluster
def test_the_bootstrap_relabels_and_trains_anew_keeps_its_weights_and_is_not_repeated(tmp_path: Path) -> None:
    """Three noisy labels of ten; the changed ones of both trainings are in MLflow."""
    noisy = {**FIXED, "data.label_noise": 0.3, "training.epochs": 4}
    sets = [part for key, value in noisy.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "samtune", "train", "--space", "digits.yaml", "--name", "b", "--bootstrap", "1"]
    done = subprocess.run(
        [*command, "--json", *sets], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    storage = tmp_path / "samtune-results"
    assert result["study"] == "b"
    assert result["num_completed"] == 1
    assert result["best"]["metrics"]["epoch"] == 4
    accuracy = result["best"]["metrics"]["val_accuracy"]
    line = (
        f"val_accuracy {accuracy:.4f} ± {standard_error(accuracy, 144):.4f} (standard error) on 144 validation examples"
    )
    assert result["verdict"]["lines"] == [line]
    assert line in done.stderr.splitlines()
    weights = Path(result["weights"])
    assert weights == storage / "b" / "best.safetensors"
    assert weights.stat().st_size > 10_000
    assert not (weights.parent / "weights").exists()
    first, second = (Results.load(name, storage).study for name in ("b-1", "b"))
    assert first.kind == second.kind == "training"
    (trial,) = second.trials
    assert trial.params["data.relabel"] == str(storage / "b-1" / "best.safetensors")
    assert first.trials[0].params["data.relabel"] is None
    assert (trial.params["data.label_noise"], trial.params["seed"]) == (0.3, 0)
    client = MlflowClient(second.tracking_uri)
    changed = []
    for study in (first, second):
        assert study.parent_run_id is not None
        (file,) = client.list_artifacts(study.parent_run_id, "label_noise")
        text = Path(client.download_artifacts(study.parent_run_id, file.path, str(tmp_path))).read_text()
        changed.append(len(json.loads(text)["flipped"]))
        runs = client.search_runs([study.experiment_id or ""], f"tags.`mlflow.parentRunId` = '{study.parent_run_id}'")
        assert [run.info.run_name for run in runs] == ["sam"]
    assert changed[0] == round(0.3 * 1294)
    assert changed[1] < changed[0] / 2  # the network knows better than its labels

    again = Training(SearchSpace.from_yaml("digits.yaml", noisy), name="b-1", storage_path=storage).run()
    assert again.history == first.trials[0].history  # nothing was started
    other = SearchSpace.from_yaml("digits.yaml", {**noisy, "training.lr": 0.2})
    with pytest.raises(UsageError, match="has trained something else"):
        Training(other, name="b-1", storage_path=storage)
