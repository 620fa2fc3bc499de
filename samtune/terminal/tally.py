"""What a display knows of a search at any moment, kept up to date in small steps: its cost does not grow with it."""

from __future__ import annotations

import bisect
import time

from samtune.study import Study, Trial, TrialState, is_over, tie_break


class Tally:
    """Trials by rank, trials that run, and how far the search has come."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.running: dict[str, Trial] = {}
        self.ranked: list[Trial] = []
        """The ended trials, the best first."""
        self.ended: list[Trial] = []
        """The ended trials in the order in which they ended."""
        self._first: tuple[float, float] | None = None  # when the first epoch had ended, and how many trials were done
        for trial in list(study):  # a search that is resumed
            if is_over(trial):
                self.end(trial)
        self._first = None

    def start(self, trial: Trial) -> None:
        self.running[trial.id] = trial

    def epoch(self) -> None:
        """An epoch has ended. The pace is counted from the first on: before it, workers start."""
        if self._first is None:
            self._first = (time.time(), self._done())

    def end(self, trial: Trial) -> None:
        self.running.pop(trial.id, None)
        bisect.insort(self.ranked, trial, key=self._rank)
        self.ended.append(trial)
        self.epoch()  # a trial may have none

    def _rank(self, trial: Trial) -> tuple[float, ...]:
        """Where the first objective ties, the next decides: so the first is on the Pareto front."""
        keys = (key for objective in self.study.objectives for key in objective.sort_key(trial))
        return (trial.state is not TrialState.COMPLETED, *keys, tie_break(trial), trial.number)

    @property
    def best(self) -> Trial | None:
        """The best completed trial so far."""
        first = self.ranked[0] if self.ranked else None
        if first and first.state is TrialState.COMPLETED and self.study.objective.value(first) is not None:
            return first
        return None

    @property
    def seconds(self) -> float:
        return self.study.seconds

    @property
    def fraction(self) -> float:
        """How much of the search is done, from 0 to 1, counting epochs of running trials."""
        return min(self._done() / self.study.num_trials, 1.0)

    def _done(self) -> float:
        """Trials that have ended, and the parts of those that run."""
        parts = (min(len(t.history) / max(t.num_epochs, 1), 1.0) for t in list(self.running.values()))
        return len(self.ended) + sum(parts)

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace so far; None as long as there is none."""
        if self._first is None:
            return None
        done, (first_at, first_done) = self._done(), self._first
        if done - first_done < 0.25:
            return None
        return (time.time() - first_at) / (done - first_done) * max(self.study.num_trials - done, 0.0)
