"""Tune's schedulers by their name in the search space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from samtune.config.distributions import Choice, Int, LogInt, LogUniform
from samtune.config.search import (
    ASHAConfig,
    HyperBandConfig,
    MedianConfig,
    NoSchedulerConfig,
    PB2Config,
    PBTConfig,
)
from samtune.config.space import SearchSpace
from samtune.tune.objectives import SCORE
from samtune.tune.trial_source import Definition

if TYPE_CHECKING:
    from samtune.raylib.population import TakeOver

_TIME = {"epochs": "epoch", "passes": "num_passes"}


def build_scheduler(
    definition: Definition, *, longest: int, num_groups: Callable[[], int], on_take_over: TakeOver
) -> Any:
    """The scheduler of a study.

    Args:
        longest: what the longest trial takes of the scheduler's resource.
        num_groups: how many trials can be active at once, asked anew each time.
        on_take_over: called when population based training replaces a trial's weights.
    """
    from samtune.raylib.schedulers import ASHA, Fifo, HyperBand, Median

    config = definition.scheduler
    if isinstance(config, NoSchedulerConfig):
        return Fifo()  # type: ignore[no-untyped-call]
    assert isinstance(definition, SearchSpace)  # no other study has a scheduler
    space = definition
    common: dict[str, Any] = {"time_attr": _TIME[config.resource], "metric": SCORE, "mode": space.objective.mode}
    match config:
        case ASHAConfig(grace_period=grace, reduction_factor=factor):
            common |= {"max_t": max(longest, grace), "grace_period": grace}
            return ASHA(**common, reduction_factor=factor)
        case MedianConfig(grace_period=grace, min_trials=minimum):
            return Median(**common, grace_period=grace, min_samples_required=minimum)
        case HyperBandConfig(max_t=max_t, reduction_factor=factor):
            return HyperBand(**common, num_groups=num_groups, max_t=max_t or longest, reduction_factor=factor)
        case PBTConfig() | PB2Config():
            from samtune.raylib.population import Population, PopulationBandits  # imports scikit-learn

            common |= {
                "population": space.num_trials,
                "num_groups": num_groups,
                "on_take_over": on_take_over,
                "seed": space.seed,
                "perturbation_interval": config.perturbation_interval,
                "quantile_fraction": config.quantile_fraction,
                "custom_explore_fn": lambda new: within_bounds(new, space),
            }
            if isinstance(config, PB2Config):
                bounds = {key: list(space.search[key].extremes()) for key in space.mutations}
                return PopulationBandits(**common, hyperparam_bounds=bounds)
            return Population(
                **common,
                resample_probability=config.resample_probability,
                hyperparam_mutations={key: _domain(space.search[key]) for key in space.mutations},
            )


def within_bounds(config: dict[str, Any], space: SearchSpace) -> dict[str, Any]:
    """A configuration that was changed by factors, back in what is searched."""
    for key in space.mutations:
        distribution, value = space.search[key], config[key]
        if not isinstance(distribution, Choice):
            value = min(max(value, distribution.low), distribution.high)
            config[key] = round(value) if isinstance(distribution, Int | LogInt) else distribution.nearest(value)
    return config


def _domain(distribution: Any) -> Any:
    """What Tune samples from when it resamples a value instead of perturbing it."""
    from ray import tune

    match distribution:
        case Choice():
            return list(distribution.choice)
        case Int():
            return tune.randint(distribution.low, distribution.high + 1)
        case LogInt():
            return tune.lograndint(distribution.low, distribution.high + 1)
        case LogUniform():
            return tune.loguniform(distribution.low, distribution.high)
        case _:
            return tune.uniform(distribution.low, distribution.high)
