"""A trial source, driven as Tune and the study recorder drive it."""

from __future__ import annotations

from typing import Any

from samtune.study import EpochLog, EpochRecord, Trial, TrialState
from samtune.tune.trial_source import TrialSource


class Driven:
    """Asks a source for trials, and tells it what becomes of them.

    Attributes:
        numbers: by trial id.
    """

    def __init__(self, source: TrialSource) -> None:
        self.source = source
        self.numbers: dict[str, int] = {}
        self._trials: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        proposal = self.source.next(trial_id)
        if proposal is None:
            return None
        self.numbers[trial_id] = proposal.number
        self._trials[trial_id] = Trial(proposal.number, trial_id, proposal.config, {}, 1, TrialState.RUNNING)
        return proposal.config

    def report(self, trial_id: str, *records: dict[str, float]) -> None:
        trial = self._trials[trial_id]
        epochs = [EpochRecord(record) for record in records]
        self.source.report(trial, [epoch for epoch in epochs if trial.history.append(epoch)])

    def end(
        self, trial_id: str, *records: dict[str, float], state: TrialState = TrialState.COMPLETED, **more: Any
    ) -> None:
        """`more` are other attributes of the trial."""
        self.report(trial_id, *records)
        trial = self._trials[trial_id]
        trial.state = state
        for name, value in more.items():
            setattr(trial, name, value)
        self.source.end(trial)


def log(*records: dict[str, float]) -> EpochLog:
    return EpochLog(records)
