"""What a display knows of a search at any moment, kept up to date in small steps: its cost does not grow with it."""

from __future__ import annotations

import bisect
import time
from collections import deque
from dataclasses import dataclass

from samtune.study import Callback, Study, Trial, TrialState, is_over
from samtune.terminal.candidate_time import CandidateTimes

START_SECONDS = 60.0  # within which workers have started
_STARTS = 8  # of trials, that tell how many run at once: between two, a group has none


class Tally:
    """Trials by rank, trials that run, and how far the search has come."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.running: dict[str, Trial] = {}
        self.ranked: list[Trial] = []
        """The ended trials, the best first."""
        self.ended: list[Trial] = []
        """The ended trials in the order in which they ended."""
        self._first: _Mark | None = None  # when the first epoch had ended
        self._last: _Mark | None = None
        self._ended_work = 0.0
        self._shown: dict[str, float] = {}
        self._at_once: deque[int] = deque(maxlen=_STARTS)
        self._candidate_times: CandidateTimes | None = None
        for trial in list(study):  # a search that is resumed
            if is_over(trial):
                self.end(trial)
        self._first = self._last = None

    def start(self, trial: Trial) -> None:
        self.running[trial.id] = trial
        self._at_once.append(len(self.running))

    def epoch(self) -> None:
        """An epoch has ended. The pace is counted from the first on: before it, workers start."""
        self._last = _Mark(time.time(), self._done(), self._work())
        self._first = self._first or self._last

    def end(self, trial: Trial) -> None:
        self.running.pop(trial.id, None)
        self._ended_work += _passes(trial)
        bisect.insort(self.ranked, trial, key=self.study.rank_key)
        self.ended.append(trial)
        self.epoch()  # a trial may have none

    @property
    def best(self) -> Trial | None:
        """The best completed trial so far. Replicas of candidates are there for their means: none is the best."""
        if self.study.kind == "confirmation":
            return None
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

    def _work(self) -> float:
        """Passes over the training set so far."""
        return self._ended_work + sum(map(_passes, list(self.running.values())))

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace so far; None as long as there is none.

        The pace is that of passes, not of trials: a trial of SAM takes twice as long as one of SGD. It is taken from
        epochs that have ended, evaluation included: while the next is under way, the time left runs down. Of a
        confirmation it is that of each candidate's own trials.
        """
        if self.study.kind == "confirmation":
            return self._confirmation_left()
        if self._first is None or self._last is None or self._last.done - self._first.done < 0.25:
            return None
        seconds, work = self._last.at - self._first.at, self._last.work - self._first.work
        left = seconds / work * self._work_left() if work > 0 else 0.0
        return max(left - (time.time() - self._last.at), 0.0)

    def _confirmation_left(self) -> float | None:
        if self._candidate_times is None:
            from samtune.experiments.candidates import stored_candidates

            listed = stored_candidates(self.study)
            passes = {label: spec.num_passes for label, spec in listed.candidates.items()}
            self._candidate_times = CandidateTimes(passes, listed.replicas)
        return self._candidate_times.seconds_left(list(self.study), max(self._at_once, default=1), time.time())

    def _work_left(self) -> float:
        """Passes that are to come, if the other trials are as those so far or, without a scheduler, as planned."""
        running = list(self.running.values())
        expected = [_passes(trial) * trial.num_epochs / max(len(trial.history), 1) for trial in running]
        under_way = sum(max(all_ - _passes(trial), 0.0) for all_, trial in zip(expected, running, strict=True))
        begun = [each for each, trial in zip(expected, running, strict=True) if trial.history]
        waiting = self.study.num_trials - len(self.ended) - len(begun)
        planned = self.study.plan.get("passes_per_trial")
        if planned and self.study.plan.get("scheduler") == "none":
            typical = float(sum(planned)) / 2
        elif self.ended:
            typical = self._ended_work / len(self.ended)
        else:
            typical = sum(begun) / max(len(begun), 1)
        return under_way + max(waiting, 0) * typical

    def seconds_of(self, trial: Trial) -> float:
        """A trial's clock, which does not go back.

        A trial's start is known exactly when its first epoch has ended, and moves by the wait for its workers. Until
        then its clock is that of the first trial whose workers had come; before that, it stands for a minute.
        """
        if trial.state is not TrialState.RUNNING:
            self._shown.pop(trial.id, None)
            return trial.seconds
        seconds = trial.seconds
        if not trial.history:
            begun = [t.started_at for t in (*self.running.values(), *self.ended[:1]) if t.history and t.started_at]
            longest = time.time() - min(begun) if begun else (0.0 if seconds < START_SECONDS else seconds)
            seconds = min(seconds, longest)
        self._shown[trial.id] = max(seconds, self._shown.get(trial.id, 0.0))
        return self._shown[trial.id]


class TallyDisplay(Callback):
    """A display that keeps a tally of the search it is told of."""

    def __init__(self) -> None:
        self._tally: Tally | None = None

    def on_study_start(self, study: Study) -> None:
        self._tally = Tally(study)

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        if self._tally:
            self._tally.start(trial)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        if self._tally:
            self._tally.epoch()

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        if self._tally:
            self._tally.end(trial)


@dataclass(frozen=True)
class _Mark:
    """How far a search was, and when: trials that were done, with parts of them, and passes."""

    at: float
    done: float
    work: float


def _passes(trial: Trial) -> float:
    """Passes over the training set so far; where they are not counted, epochs."""
    return trial.metrics.get("num_passes", float(len(trial.history)))
