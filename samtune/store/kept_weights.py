"""The weights of a search's best trials, kept in its study: a file per trial, and no more of them than asked for."""

from __future__ import annotations

import bisect
from contextlib import suppress

from samtune.storage import WEIGHTS, delete_file, file_names, join, trial_weights
from samtune.study import Callback, Study, Trial, TrialState


class KeptWeights(Callback):
    """Deletes the weights of trials that are not, or no longer, among the best.

    A trial's weights are written before it is known to have ended, and deleted after the journal has been told: a
    search that is killed in between leaves a file too many, which the next start of the study finds. That the store
    does not answer is no reason to end a search.

    Args:
        number: how many trials keep theirs.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._best: list[Trial] = []

    def on_study_start(self, study: Study) -> None:
        completed = [trial for trial in study if trial.state is TrialState.COMPLETED]
        self._best = sorted(completed, key=study.rank_key)[: self._number]
        kept = {trial.id for trial in self._best} | {trial.id for trial in study if not trial.state.is_final}
        with suppress(OSError):
            for name in file_names(folder := join(study.storage_path, WEIGHTS)):
                if name.partition(".")[0] not in kept:
                    delete_file(join(folder, name))

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        left = [trial] if trial.state is TrialState.FAILED else []  # in its last epoch, perhaps
        if trial.state is TrialState.COMPLETED:
            bisect.insort(self._best, trial, key=study.rank_key)
            left, self._best = self._best[self._number :], self._best[: self._number]
        with suppress(OSError):
            for each in left:
                delete_file(trial_weights(study.storage_path, each.id))
