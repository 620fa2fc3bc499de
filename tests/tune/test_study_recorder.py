"""What the driver makes of Tune's events."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from samtune import Callback, SearchSpace, Trial
from samtune.study import Objective, Study
from samtune.tune.optuna_searcher import OptunaSearcher, open_study
from samtune.tune.study_recorder import StudyRecorder

SPACE = SearchSpace.from_yaml("digits.yaml")


class Notes(Callback):
    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.said: list[str] = []

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self.epochs.append(metrics["epoch"])

    def on_status(self, study: Study, message: str) -> None:
        self.said.append(message)


def started(folder: Path) -> tuple[StudyRecorder, SimpleNamespace, Study, Notes]:
    """A bridge that has heard of the start of one trial."""
    names = ("space_yaml", "storage_path", "tracking_uri", "experiment", "command")
    study = Study(name="s", objectives=(Objective(),), num_trials=1, plan={}, versions={}, **dict.fromkeys(names, ""))
    notes = Notes()
    searcher = OptunaSearcher(SPACE, open_study(SPACE, "s", folder / "journal", parallel=False))
    trial = SimpleNamespace(trial_id="t", config=searcher.suggest("t"), last_result={})
    bridge = StudyRecorder(study, SPACE, searcher, coordinator=None, callbacks=[notes])
    bridge.on_trial_start(0, [], trial)
    return bridge, trial, study, notes


def record(epoch: int, lost: float = 0.0) -> dict[str, float]:
    return {"epoch": float(epoch), "val_accuracy": 0.5, "lost_perturbation": lost}


def test_epochs_that_a_restarted_trial_repeats_are_told_once(tmp_path: Path) -> None:
    bridge, trial, study, notes = started(tmp_path)
    bridge.on_trial_result(
        0, [], trial, {"records": [record(1), record(2)], "places": [(0, 1.0)] * 2, "started_at": 5.0}
    )
    bridge.on_trial_start(0, [], trial)  # its Trainable was lost
    bridge.on_trial_result(0, [], trial, {"records": [record(1), record(2), record(3)], "places": [(0, 1.0)] * 3})
    assert notes.epochs == [1, 2, 3]
    (known,) = study.trials
    assert [metrics["epoch"] for metrics in known.history] == [1, 2, 3]
    assert known.started_at == 5.0
    assert known.number == 0


def test_a_perturbation_that_rounds_away_is_told_once(tmp_path: Path) -> None:
    bridge, trial, _, notes = started(tmp_path)
    bridge.on_trial_result(0, [], trial, {"records": [record(1, lost=0.05)], "places": [(0, 1.0)] * 1})
    assert notes.said == []
    bridge.on_trial_result(
        0, [], trial, {"records": [record(2, lost=0.47), record(3, lost=0.5)], "places": [(0, 1.0)] * 2}
    )
    (said,) = notes.said
    assert said.startswith("warning: trial 0: 47% of the weights are not changed by the perturbation")
