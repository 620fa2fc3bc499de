"""Optuna's samplers by their name in the search space."""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from samtune.config.samplers import (
    CMAESConfig,
    CustomSamplerConfig,
    GPConfig,
    GridConfig,
    NSGAIIConfig,
    QMCConfig,
    RandomConfig,
    SamplerConfig,
    TPEConfig,
)
from samtune.errors import SpaceError


def build_sampler(config: SamplerConfig, seed: int, parallel: bool) -> BaseSampler:
    """Optuna's sampler of that name.

    Args:
        parallel: trials run in parallel; by default, TPE then assumes that the running ones are bad.

    Raises:
        SpaceError: a sampler by import path cannot be imported, or refuses its options.
    """
    with warnings.catch_warnings():
        for category in (ExperimentalWarning, FutureWarning, UserWarning):  # options Optuna calls experimental or old
            warnings.simplefilter("ignore", category)
        return _build(config, seed, parallel)


def _build(config: SamplerConfig, seed: int, parallel: bool) -> BaseSampler:
    samplers = optuna.samplers
    match config:
        case TPEConfig():
            return samplers.TPESampler(
                n_startup_trials=config.num_startup_trials,
                n_ei_candidates=config.num_candidates,
                multivariate=config.multivariate,
                group=config.multivariate if config.group is None else config.group,
                constant_liar=parallel if config.constant_liar is None else config.constant_liar,
                warn_independent_sampling=False,
                seed=seed,
            )
        case GPConfig():
            return samplers.GPSampler(
                n_startup_trials=config.num_startup_trials,
                deterministic_objective=config.deterministic_objective,
                warn_independent_sampling=False,
                seed=seed,
            )
        case CMAESConfig():
            return samplers.CmaEsSampler(
                n_startup_trials=config.num_startup_trials,
                sigma0=config.sigma0,
                popsize=config.population_size,
                with_margin=config.with_margin,
                consider_pruned_trials=config.consider_pruned_trials,
                warn_independent_sampling=False,
                seed=seed,
            )
        case NSGAIIConfig():
            return samplers.NSGAIISampler(
                population_size=config.population_size,
                mutation_prob=config.mutation_probability,
                crossover_prob=config.crossover_probability,
                swapping_prob=config.swapping_probability,
                seed=seed,
            )
        case QMCConfig():
            return samplers.QMCSampler(
                qmc_type=config.sequence, scramble=config.scramble, warn_independent_sampling=False, seed=seed
            )
        case RandomConfig() | GridConfig():  # a grid's points are enqueued (`samtune.tune.optuna_params`)
            return samplers.RandomSampler(seed=seed)
        case CustomSamplerConfig():
            return _custom(config, seed)


def _custom(config: CustomSamplerConfig, seed: int) -> BaseSampler:
    """A sampler by its import path."""
    where = f"sampler.name: {config.name}"
    module, _, name = config.name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpaceError(f"{where}: cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseSampler)):
        raise SpaceError(f"{where}: must be a subclass of optuna.samplers.BaseSampler")
    options: dict[str, Any] = dict(config.options)
    if "seed" in inspect.signature(cls).parameters:
        options.setdefault("seed", seed)
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"sampler.options: {config.name} refuses them: {error}") from error
