"""The same trials with samtune."""

from __future__ import annotations

import time
from pathlib import Path

from samtune.benchmarks.timeline import Timeline
from samtune.config.space import SearchSpace
from samtune.experiments.tuner import Tuner
from samtune.study import Callback, Study, Trial


class _Recorder(Callback):
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self.timeline.epoch()

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self.timeline.trial()


def run_warm(space: SearchSpace, num_trials: int, folder: Path) -> tuple[Timeline, dict[str, float]]:
    """Runs trials one after another on one warm group, with everything that a search does: journal, Optuna, MLflow.

    Returns:
        The timeline, and the study's usage.
    """
    timeline = Timeline()
    tuner = Tuner(
        space,
        num_trials=num_trials,
        max_concurrent=1,
        name=f"warm-{num_trials}-{time.time_ns()}",
        storage_path=folder,
        address="local",
        callbacks=[_Recorder(timeline)],
    )
    results = tuner.fit()
    timeline.ended_at = time.perf_counter()
    return timeline, results.study.usage
