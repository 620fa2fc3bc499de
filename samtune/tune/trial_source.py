"""Where the trials of a study come from: a sampler, or a fixed list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from samtune.config.search import BudgetConfig, ObjectiveConfig, SchedulerConfig
from samtune.config.trial import TrialSpec
from samtune.study import EpochRecord, Scalar, Trial


class Definition(Protocol):
    """What a study trains and how its trials compare: a search space, or a list of candidates."""

    @property
    def scheduler(self) -> SchedulerConfig: ...

    @property
    def budget(self) -> BudgetConfig: ...

    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]:
        """The first decides where only one can."""

    def trial(self, config: Mapping[str, Scalar]) -> TrialSpec:
        """The trial of a configuration. Raises SpaceError where it breaks a rule."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number in the study, and its configuration by dotted key."""

    number: int
    config: dict[str, Scalar]


class TrialSource(Protocol):
    """Proposes the new trials of a study, and hears what becomes of every trial.

    Trials that an earlier run of the study left unfinished are not proposed again; whoever asks runs those first.

    Attributes:
        exhausted: why there is no further trial, once `next` has returned None.
    """

    exhausted: str | None

    def next(self, trial_id: str) -> Proposal | None:
        """The next trial, which will run under this id; None when there is no more."""

    def report(self, trial: Trial, epochs: Sequence[EpochRecord]) -> None:
        """Epochs were appended to the trial's history."""

    def end(self, trial: Trial) -> None:
        """The trial has ended. An interrupted one may resume: it is left as it is."""


class FixedTrials:
    """Proposes the configurations of a list, in order, without those that the study has already.

    Args:
        earlier: the study's trials so far.
    """

    def __init__(self, configs: Iterable[dict[str, Scalar]], earlier: Sequence[Trial]) -> None:
        known = [trial.config for trial in earlier]
        self._left = [config for config in configs if config not in known]
        self._next_number = max((trial.number for trial in earlier), default=-1) + 1
        self.exhausted: str | None = None

    def next(self, trial_id: str) -> Proposal | None:
        if not self._left:
            return None
        self._next_number += 1
        return Proposal(self._next_number - 1, dict(self._left.pop(0)))

    def report(self, trial: Trial, epochs: Sequence[EpochRecord]) -> None:
        """A list learns nothing."""

    def end(self, trial: Trial) -> None:
        """A list learns nothing."""
