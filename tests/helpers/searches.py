"""Studies whose trials are put in whatever state a test needs."""

from __future__ import annotations

import time
from pathlib import Path

from samtune.study import Callback, Objective, Study, Trial, TrialState


class Search:
    """A study whose trials are put in whatever state a test needs, and the displays that are told."""

    def __init__(self, folder: Path, num_trials: int) -> None:
        self.displays: list[Callback] = []
        self.now = time.time()  # stands still: a trial takes no time
        self.study = Study(
            name="digits-1",
            objectives=(Objective("val_accuracy", "max"),),
            num_trials=num_trials,
            space_yaml="",
            plan={},
            storage_path=str(folder),
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
            experiment="digits",
            command="samtune search --space digits.yaml",
            versions={},
            experiment_id="1",
            parent_run_id="f" * 32,
            started_at=self.now,
        )

    def start(self, rho: float = 0.0512, **more: float | str) -> Trial:
        number = len(self.study.trials)
        config = {"method.rho": rho, "training.lr": 0.0012, **more}
        trial = Trial(number, f"t{number}", dict(config), dict(config), 10, TrialState.RUNNING, started_at=self.now)
        self.study.trials.append(trial)
        for display in self.displays:
            display.on_trial_start(self.study, trial)
        return trial

    def epoch(self, trial: Trial, accuracy: float) -> None:
        epoch = len(trial.history) + 1.0
        trial.history.append({"epoch": epoch, "val_accuracy": accuracy, "num_passes": 2.0 * epoch})
        for display in self.displays:
            display.on_epoch(self.study, trial, trial.history[-1])

    def end(self, trial: Trial, state: TrialState = TrialState.COMPLETED, error: str | None = None) -> Trial:
        trial.state, trial.error, trial.ended_at = state, error, self.now
        for display in self.displays:
            display.on_trial_end(self.study, trial)
        return trial

    def run(
        self, accuracy: float, state: TrialState = TrialState.COMPLETED, error: str | None = None, rho: float = 0.0512
    ) -> Trial:
        trial = self.start(rho)
        self.epoch(trial, accuracy)
        return self.end(trial, state, error)
