"""Tune's side of a trial source: asks for a trial when a worker group is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from samtune.study import Objective, Trial
from samtune.tune.ending import Ending
from samtune.tune.trial_source import TrialSource


class ConcurrencyLimiter(Searcher):
    """Begins a trial when a group is free for it: first the unfinished ones of an earlier run, then the source's.

    Tune's own `ConcurrencyLimiter` also counts the paused trials, so that a scheduler that waits for more trials before
    it resumes the paused ones would wait for ever; and its limit is fixed.

    Args:
        objective: the first, which Tune wants to know of a searcher.
        unfinished: trials that an earlier run of the study left, to be resumed under new ids of Tune's.
        limit: called each time; the number of groups may change.
        on_resume: called with (Tune's new id, the trial's own id) before an unfinished trial is run again.
        on_pause: called with the id of a trial that is paused.

    Attributes:
        numbers: Tune's trial id -> number of the trial.
        resumed: Tune's trial id -> the trial of an earlier run that resumes under it.
    """

    def __init__(
        self,
        source: TrialSource,
        objective: Objective,
        unfinished: Sequence[Trial],
        limit: Callable[[], int],
        ending: Ending,
        *,
        on_resume: Callable[[str, str], None],
        on_pause: Callable[[str], None] = lambda trial_id: None,
    ) -> None:
        super().__init__(metric=objective.metric, mode=objective.mode)
        self._source, self._unfinished, self._limit, self._ending = source, list(unfinished), limit, ending
        self._on_resume = on_resume
        self.when_paused = on_pause
        self._active: set[str] = set()
        self.numbers: dict[str, int] = {}
        self.resumed: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> Any:
        if self._ending.no_more:
            return Searcher.FINISHED
        if len(self._active) >= self._limit():
            return None
        config = self._resume(trial_id) if self._unfinished else self._propose(trial_id)
        if config is None:
            return Searcher.FINISHED
        self._active.add(trial_id)
        return config

    def _resume(self, trial_id: str) -> dict[str, Any]:
        trial = self._unfinished.pop(0)
        self._on_resume(trial_id, trial.id)
        self.resumed[trial_id], self.numbers[trial_id] = trial, trial.number
        return dict(trial.config)

    def _propose(self, trial_id: str) -> dict[str, Any] | None:
        proposal = self._source.next(trial_id)
        if proposal is None:
            return None
        self.numbers[trial_id] = proposal.number
        return proposal.config

    def on_start(self, trial_id: str) -> None:
        """A trial runs, for the first time or again."""
        self._active.add(trial_id)

    def on_pause(self, trial_id: str) -> None:
        """Called by the schedulers."""
        self._active.discard(trial_id)
        self.when_paused(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Called when a paused trial may resume; it is active once it has a group."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The study recorder reports to the source."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._active.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for a restore of its own
