"""What ends a search before its last trial: wall time, passes over the data, or no improvement any more."""

from __future__ import annotations

import time

from samtune.config.search import BudgetConfig
from samtune.formatting import format_number, format_seconds
from samtune.study import Callback, Study, Trial, TrialState


class Budget(Callback):
    """Watches a search; the first of its callbacks that may end it.

    Passes and patience count the trials of before a resume too; wall time is each part's own.

    Args:
        study: with the trials of before, if it is resumed.
    """

    def __init__(self, config: BudgetConfig, study: Study) -> None:
        self._config = config
        self._started = time.monotonic()
        self._passes = 0.0
        self._front: list[list[float]] = []
        self._since_best = 0
        for trial in sorted(study, key=lambda t: t.ended_at or 0.0):
            self._passes += trial.metrics.get("num_passes", 0.0)
            if trial.state.is_final:
                self.on_trial_end(study, trial)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        before = trial.history[-2]["num_passes"] if len(trial.history) > 1 else 0.0
        self._passes += metrics["num_passes"] - before

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        if trial.state is not TrialState.INTERRUPTED:
            self._since_best = 0 if self._improves(study, trial) else self._since_best + 1

    def _improves(self, study: Study, trial: Trial) -> bool:
        """Whether no trial before was at least as good in every objective."""
        keys = [objective.sort_key(trial) for objective in study.objectives]
        if trial.state is not TrialState.COMPLETED or any(missing for missing, _ in keys):
            return False
        own = [value for _, value in keys]
        if any(all(a <= b for a, b in zip(other, own, strict=True)) for other in self._front):
            return False
        self._front = [o for o in self._front if not all(a <= b for a, b in zip(own, o, strict=True))] + [own]
        return True

    def exhausted(self) -> str | None:
        """Why no trial may continue; None while they may."""
        limit = self._config.seconds
        if limit is not None and time.monotonic() - self._started >= limit:
            return f"budget.seconds: {format_seconds(limit)} are over"
        limit = self._config.passes
        if limit is not None and self._passes >= limit:
            return f"budget.passes: {format_number(self._passes)} of {format_number(limit)} passes were made"
        return None

    def patience_lost(self) -> str | None:
        """Why no new trial may begin, although those that run may end; None while one may."""
        patience = self._config.patience
        if patience is None or self._since_best < patience:
            return None
        return f"budget.patience: {self._since_best} trials in a row were no better"
