"""How long a confirmation still takes: each candidate at the cost of its own trials."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Mapping, Sequence

from samtune.study import CANDIDATE, Trial, TrialState, is_over

_GAP = 10.0  # times the median epoch: the study was interrupted within one that took longer


class CandidateTimes:
    """The time left of a list of candidates.

    A candidate that has completed a trial costs the median of what its trials took, with their workers, evaluation
    and test; one whose first is under way, its epochs at the pace of those so far. One that has neither costs its
    planned passes, at the pace of the others. The trials to come go in their order to the groups, each as one is free.

    Args:
        passes: of one trial of each candidate, by label, over the training set.
        num_replicas: how many trials each has.
    """

    def __init__(self, passes: Mapping[str, float], num_replicas: int) -> None:
        self._passes, self._num_replicas = dict(passes), num_replicas

    def seconds_left(self, trials: Sequence[Trial], num_groups: int, now: float) -> float | None:
        """None as long as nothing is measured: no trial is complete, none has two epochs.

        Args:
            trials: those that have begun.
            num_groups: how many run at once.
            now: seconds since 1970.
        """
        costs = self._costs(trials)
        if not costs:
            return None
        begun = sorted(
            (trial for trial in trials if not is_over(trial)), key=lambda t: t.state is not TrialState.RUNNING
        )
        jobs = [_left(trial, costs[_label(trial)], now) for trial in begun]
        jobs += [costs[label] for label in self._to_come(trials)]
        ends = [0.0] * max(num_groups, 1)
        for seconds in jobs:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)

    def _to_come(self, trials: Sequence[Trial]) -> list[str]:
        """The candidates of the trials that have not begun, replica by replica."""
        left = dict.fromkeys(self._passes, self._num_replicas)
        for trial in trials:
            left[_label(trial)] -= 1
        return [label for turn in range(self._num_replicas, 0, -1) for label, num in left.items() if num >= turn]

    def _costs(self, trials: Sequence[Trial]) -> dict[str, float]:
        """Seconds of a whole trial by candidate; empty where nothing is measured."""
        own: dict[str, list[Trial]] = {label: [] for label in self._passes}
        for trial in trials:
            own[_label(trial)].append(trial)
        measured = {label: cost for label, each in own.items() if (cost := _cost(each)) is not None}
        if not measured:
            return {}
        pace = sum(measured.values()) / sum(self._passes[label] for label in measured)
        return {label: measured.get(label, pace * passes) for label, passes in self._passes.items()}


def _label(trial: Trial) -> str:
    return str(trial.config[CANDIDATE])


def _cost(trials: Sequence[Trial]) -> float | None:
    """Seconds of a trial of one candidate; None where nothing is measured."""
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    for some in (completed, trials):
        if known := [seconds for trial in some if (seconds := _seconds(trial)) is not None]:
            return statistics.median(known)
    return None


def _seconds(trial: Trial) -> float | None:
    """What a trial takes from its start to its end, as far as is known."""
    ends = [record.ended_at for record in trial.history.records if record.ended_at is not None]
    is_whole = trial.started_at is not None and bool(ends) and trial.started_at <= ends[0]  # in one session
    if trial.state is TrialState.COMPLETED and is_whole:
        return trial.seconds
    epochs = [after - before for before, after in itertools.pairwise(ends)]
    longest = _GAP * statistics.median(epochs) if epochs else 0.0
    epochs = [seconds for seconds in epochs if seconds <= longest]
    return statistics.fmean(epochs) * trial.num_epochs if epochs else None


def _left(trial: Trial, cost: float, now: float) -> float:
    """Seconds that a trial lacks. They run down while an epoch is under way, by no more than it should take."""
    epoch = cost / max(trial.num_epochs, 1)
    lacking = epoch * (trial.num_epochs - len(trial.history))
    since = trial.history.records[-1].ended_at if trial.history else trial.started_at
    if trial.state is not TrialState.RUNNING or since is None:
        return lacking
    return max(lacking - min(max(now - since, 0.0), epoch), 0.0)
