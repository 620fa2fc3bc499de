"""Median stopping without the faults of Ray's."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import MedianStoppingRule

from samtune.tune.schedulers.actors import KeepsActors


class Median(KeepsActors, MedianStoppingRule):
    """Ray's rule fails on the last result of a trial that has no metric, and pauses trials to wait for others."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self.metric in result and self._time_attr in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(self.CONTINUE)
