"""The driver's own work over many trials: a real Tune loop with real actors, whose trials take no time."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.ray_internals import count_actors

from samtune.benchmarks.noop import run_noop
from samtune.config.space import SearchSpace


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_no_more_actors_are_started_than_trials_are_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = count_actors(monkeypatch)
    settings = ["training.epochs=2", "sampler={name: random}", "resources.cpus_per_worker=0.1"]
    space = SearchSpace.from_yaml("digits.yaml", [*settings, "scheduler={name: asha}"])
    marks = run_noop(space, 30, 3, tmp_path)
    assert len(marks) == 30
    assert len(started) == 3
