"""What the driver makes of Tune's events."""

from __future__ import annotations

from types import SimpleNamespace

from samtune import Callback, SearchSpace, Trial
from samtune.study import EpochRecord, Objective, Study
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.ending import Ending
from samtune.tune.study_recorder import StudyRecorder
from samtune.tune.trial_source import FixedTrials

SPACE = SearchSpace.from_yaml("digits.yaml")


class Notes(Callback):
    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.said: list[str] = []

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self.epochs.append(metrics["epoch"])

    def on_status(self, study: Study, message: str) -> None:
        self.said.append(message)


def started() -> tuple[StudyRecorder, SimpleNamespace, Study, Notes]:
    """A recorder that has heard of the start of one trial."""
    names = ("space_yaml", "storage_path", "tracking_uri", "experiment", "command")
    study = Study(name="s", objectives=(Objective(),), num_trials=1, plan={}, versions={}, **dict.fromkeys(names, ""))
    notes, source, ending = Notes(), FixedTrials([{"training.lr": 0.1}], []), Ending()
    limiter = ConcurrencyLimiter(source, Objective(), [], lambda: 1, ending, on_resume=lambda new, old: None)
    trial = SimpleNamespace(trial_id="t", config=limiter.suggest("t"), last_result={})
    recorder = StudyRecorder(study, SPACE, source, limiter, ending, coordinator=None, callbacks=[notes])
    recorder.on_trial_start(0, [], trial)
    return recorder, trial, study, notes


def record(epoch: int, lost: float = 0.0) -> EpochRecord:
    return EpochRecord({"epoch": float(epoch), "val_accuracy": 0.5, "lost_perturbation": lost}, 0, 1.0)


def test_epochs_that_a_restarted_trial_repeats_are_told_once() -> None:
    recorder, trial, study, notes = started()
    recorder.on_trial_result(0, [], trial, {"epochs": [record(1), record(2)], "started_at": 5.0})
    recorder.on_trial_start(0, [], trial)  # its Trainable was lost
    recorder.on_trial_result(0, [], trial, {"epochs": [record(1), record(2), record(3)]})
    assert notes.epochs == [1, 2, 3]
    (known,) = study.trials
    assert [metrics["epoch"] for metrics in known.history] == [1, 2, 3]
    assert known.started_at == 5.0
    assert known.number == 0


def test_a_perturbation_that_rounds_away_is_told_once() -> None:
    recorder, trial, _, notes = started()
    recorder.on_trial_result(0, [], trial, {"epochs": [record(1, lost=0.05)]})
    assert notes.said == []
    recorder.on_trial_result(0, [], trial, {"epochs": [record(2, lost=0.47), record(3, lost=0.5)]})
    (said,) = notes.said
    assert said.startswith("warning: trial 0: 47% of the weights are not changed by the perturbation")
