"""The driver's own work over many trials: a real Tune loop, whose trials take no time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from samtune.benchmarks.noop import run_noop
from samtune.config.space import SearchSpace
from samtune.raylib.driver_trials import DriverTrials


def threads_of_trials() -> int:
    return sum(thread.name == "trial" for thread in threading.enumerate())


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_each_trial_has_a_thread_that_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, add_actor = [], DriverTrials.add_actor

    def counting(self: DriverTrials, *arguments: object, **options: object) -> object:
        found = add_actor(self, *arguments, **options)  # type: ignore[arg-type]
        counts.append(threads_of_trials())
        return found

    monkeypatch.setattr(DriverTrials, "add_actor", counting)
    settings = ["training.epochs=2", "sampler={name: random}", "resources.cpus_per_worker=0.1"]
    space = SearchSpace.from_yaml("digits.yaml", [*settings, "scheduler={name: asha}"])
    marks = run_noop(space, 30, 3, tmp_path)
    assert len(marks) == len(counts) == 30
    assert max(counts) <= 6  # three trials, and those that are just ending
    assert threads_of_trials() == 0
