"""What the driver makes of Tune's events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from samtune import Callback, SearchSpace, Trial
from samtune.study import EpochRecord, Objective, Study, TrialState
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.ending import Ending
from samtune.tune.study_recorder import StudyRecorder
from samtune.tune.trial_source import FixedTrials
from samtune.workers.protocol import Failure, Outcome

SPACE = SearchSpace.from_yaml("digits.yaml")


class Notes(Callback):
    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.said: list[str] = []

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self.epochs.append(metrics["epoch"])

    def on_status(self, study: Study, message: str) -> None:
        self.said.append(message)


class Told(FixedTrials):
    """Notes what the trial source hears."""

    def __init__(self) -> None:
        super().__init__([{"training.lr": 0.1}], [])
        self.reported: list[list[float]] = []
        self.ended: list[TrialState] = []

    def report(self, trial: Trial, epochs: Sequence[EpochRecord]) -> None:
        self.reported.append([epoch.metrics["epoch"] for epoch in epochs])

    def end(self, trial: Trial) -> None:
        self.ended.append(trial.state)


def begun(source: FixedTrials, coordinator: Any = None) -> tuple[StudyRecorder, SimpleNamespace, Study, Notes]:
    """A recorder and a trial that it has not heard of."""
    names = ("space_yaml", "storage_path", "tracking_uri", "experiment", "command")
    study = Study(name="s", objectives=(Objective(),), num_trials=1, plan={}, versions={}, **dict.fromkeys(names, ""))
    notes, ending = Notes(), Ending()
    limiter = ConcurrencyLimiter(source, Objective(), [], lambda: 1, ending, on_resume=lambda new, old: None)
    trial = SimpleNamespace(trial_id="t", config=limiter.suggest("t"), last_result={})
    recorder = StudyRecorder(study, SPACE, source, limiter, ending, coordinator=coordinator, callbacks=[notes])
    return recorder, trial, study, notes


def started(source: FixedTrials | None = None) -> tuple[StudyRecorder, SimpleNamespace, Study, Notes]:
    """A recorder that has heard of the start of one trial."""
    mailbox = SimpleNamespace(end=SimpleNamespace(remote=lambda trial_id: None))
    recorder, trial, study, notes = begun(source or FixedTrials([{"training.lr": 0.1}], []), mailbox)
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


def test_the_source_hears_of_new_epochs_alone() -> None:
    source = Told()
    recorder, trial, _, _ = started(source)
    recorder.on_trial_result(0, [], trial, {"epochs": [record(1), record(2)]})
    recorder.on_trial_result(0, [], trial, {"epochs": [record(2)]})
    recorder.on_trial_result(0, [], trial, {"epochs": [record(2), record(3)]})
    assert source.reported == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("result", "state"),
    [
        ({"outcome": Outcome.COMPLETED}, TrialState.COMPLETED),
        ({"outcome": Outcome.FAILED, "failure": Failure("its loss")}, TrialState.FAILED),
        ({"outcome": Outcome.STOPPED}, TrialState.PRUNED),
        ({}, TrialState.PRUNED),  # the scheduler ended it between two reports
        (None, TrialState.PRUNED),
    ],
)
def test_how_a_trial_ended(result: dict[str, Any] | None, state: TrialState) -> None:
    source = Told()
    recorder, trial, study, _ = started(source)
    trial.last_result = result
    recorder.on_trial_complete(0, [], trial)
    recorder.on_trial_complete(0, [], trial)  # told again, nothing changes
    assert [known.state for known in study.trials] == source.ended == [state]
    assert study.trials[0].error == ("its loss" if state is TrialState.FAILED else None)


def test_a_trial_whose_actor_is_lost_before_it_began_is_a_failed_trial(tmp_path: Path) -> None:
    mailbox = SimpleNamespace(end=SimpleNamespace(remote=lambda trial_id: None))
    recorder, trial, study, _ = begun(FixedTrials([{"training.lr": 0.1}], []), mailbox)
    recorder.on_trial_error(0, [], trial)
    (known,) = study.trials
    assert (known.state, known.error) == (TrialState.FAILED, "Ray Tune could not go on with the trial")
