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
            return MedianStoppingRule(time_attr="epoch", grace_period=grace, min_samples_required=minimum)
