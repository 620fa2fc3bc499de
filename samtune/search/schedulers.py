"""Tune's schedulers by their name in the search space."""

from __future__ import annotations

from typing import Any

from samtune.spec.search import ASHAConfig, MedianConfig, NoSchedulerConfig
from samtune.spec.space import SearchSpace


def build_scheduler(space: SearchSpace, max_epochs: int) -> Any:
    """The scheduler of a space; its resource is the epoch.

    Args:
        max_epochs: epochs of the longest trial.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule

    class Median(MedianStoppingRule):
        """Ray's rule fails on the last result of a trial that has no metric, and pauses trials to wait for others."""

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            if self.metric in result and self._time_attr in result:
                super().on_trial_complete(tune_controller, trial, result)

        def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
            return str(self.CONTINUE)

    match space.scheduler:
        case NoSchedulerConfig():
            return FIFOScheduler()
        case ASHAConfig(grace_epochs=grace, reduction_factor=factor):
            return AsyncHyperBandScheduler(
                time_attr="epoch",
                max_t=max(max_epochs, grace),
                grace_period=grace,
                reduction_factor=factor,
            )
        case MedianConfig(grace_epochs=grace, min_trials=minimum):
            return Median(time_attr="epoch", grace_period=grace, min_samples_required=minimum)
