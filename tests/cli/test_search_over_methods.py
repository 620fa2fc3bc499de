"""A search over methods, each with its own keys, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Run
from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.cluster

SPACE = """\
name: methods
data: {name: digits, num_train: 400}
model: {name: digits_cnn, width: 4}
method:
  choice:
    - {name: sgd}
    - {name: sam, rho: {log_uniform: [0.01, 0.5]}, m: {choice: [worker, 16]}}
    - {name: frob_sam, lambda: {log_uniform: [0.001, 0.1]}, num_samples: {int: [2, 3]}}
training: {epochs: 1, batch_size: 32, lr: {log_uniform: [0.01, 0.3]}, weight_decay: {expr: "5e-4 * lr / 0.1"}}
constraints: ["lr * momentum <= 0.2"]
objective: [{metric: val_accuracy}, {metric: num_passes}]
sampler: {name: nsgaii, population_size: 4}
resources: {num_workers: 1, gpus_per_worker: 0}
num_trials: 9
max_concurrent: 1
"""
BRANCHES = {
    "sgd": set(),
    "sam": {"method.rho", "method.m"},
    "frob_sam": {"method.lambda", "method.num_samples"},
}


def test_each_trial_has_the_keys_of_its_method_and_is_trained_with_them(samtune: Run, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    tracking = ("--tracking-uri", "sqlite:///own.db", "--experiment", "mine")
    done = samtune("search", "--space", "space.yaml", "--name", "m", "--json", "--seed", "1", *tracking)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert (tmp_path / "own.db").exists()
    assert (summary["num_trials"], summary["num_completed"]) == (9, 9)
    client = MlflowClient(tracking_uri=summary["tracking_uri"])
    assert client.get_experiment(summary["experiment_id"]).name == "mine"
    runs = client.search_runs([summary["experiment_id"]], "tags.`samtune.kind` = 'trial'")
    assert len(runs) == 9
    events = [json.loads(line) for line in next(tmp_path.rglob("journal.jsonl")).read_text().splitlines()]
    configs = {event["id"]: event["config"] for event in events if event["event"] == "trial"}
    seen = set()
    for run in runs:
        config, params = configs[run.data.tags["samtune.trial_id"]], run.data.params
        name = params["method.name"]
        seen.add(name)
        assert set(config) == {"method.name", "training.lr"} | BRANCHES[name]
        lr = float(params["training.lr"])
        assert lr * 0.9 <= 0.2
        assert float(params["training.weight_decay"]) == pytest.approx(5e-3 * lr, rel=1e-4)
        passes = {"sgd": 1, "sam": 2, "frob_sam": config.get("method.num_samples", 0) + 1}[name]
        assert run.data.metrics["num_passes"] == passes
    assert seen == set(BRANCHES)
