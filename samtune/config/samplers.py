"""Optuna's samplers by name: what proposes the next configuration. Options not named here keep Optuna's defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from samtune.config.base import Config, ImportPath

Probability = Annotated[float, Field(ge=0, le=1)]
NumStartup = Annotated[int, Field(ge=1)]


class TPEConfig(Config):
    """Tree-structured Parzen estimator (Bergstra et al. 2011): what is usual, and good from about 20 trials on."""

    name: Literal["tpe"] = "tpe"
    """Sampler."""
    num_startup_trials: NumStartup = 10
    """Random trials before the estimator takes over."""
    num_candidates: Annotated[int, Field(ge=1)] = 24
    """Points drawn from the good density, of which the most promising is proposed."""
    multivariate: bool = True
    """Model the searched keys jointly (rho and lr interact)."""
    group: bool | None = None
    """Model the keys of each branch jointly; none: as `multivariate`."""
    constant_liar: bool | None = None
    """Take the trials that run for bad ones, so that no two try the same; none: when trials run in parallel."""


class GPConfig(Config):
    """Gaussian process with expected improvement in log space: the fewest trials, the most seconds per proposal."""

    name: Literal["gp"] = "gp"
    """Sampler."""
    num_startup_trials: NumStartup = 10
    """Random trials before the process is fitted."""
    deterministic_objective: bool = False
    """The same configuration always gives the same value: fit without noise."""


class CMAESConfig(Config):
    """CMA-ES (Hansen & Ostermeier 2001): many trials of a few real and whole numbers; draws choices at random."""

    name: Literal["cmaes"] = "cmaes"
    """Sampler."""
    num_startup_trials: NumStartup = 1
    """Random trials before the evolution starts."""
    sigma0: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """First step length, in units of the searched intervals; none: 1/6 of the shortest."""
    population_size: Annotated[int, Field(ge=2)] | None = None
    """Trials per generation; none: 4 + 3 log(number of keys)."""
    with_margin: bool = False
    """Keep a margin of probability for every value of a whole number or a stepped one."""
    consider_pruned_trials: bool = False
    """Learn from trials stopped early too."""


class NSGAIIConfig(Config):
    """NSGA-II (Deb et al. 2002): a genetic algorithm for several objectives and many trials."""

    name: Literal["nsgaii"] = "nsgaii"
    """Sampler."""
    population_size: Annotated[int, Field(ge=2)] = 50
    """Trials per generation; the first is random."""
    mutation_probability: Probability | None = None
    """Probability of resampling a key. Default: 1 / number of keys."""
    crossover_probability: Probability = 0.9
    """Chance that a trial has two parents."""
    swapping_probability: Probability = 0.5
    """Chance that a key comes from the second parent."""


class QMCConfig(Config):
    """Quasi-random points that fill the space more evenly than random ones; choices are drawn at random."""

    name: Literal["qmc"] = "qmc"
    """Sampler."""
    sequence: Literal["sobol", "halton"] = "sobol"
    """Low-discrepancy sequence."""
    scramble: bool = True
    """Scramble the sequence by the seed; else every search has the same points, the first at the lower bounds."""


class RandomConfig(Config):
    """Independent draws from the distributions."""

    name: Literal["random"] = "random"
    """Sampler."""


class GridConfig(Config):
    """Every combination once, in an order that the seed shuffles; the search ends when there is none left."""

    name: Literal["grid", "brute_force"] = "grid"
    """Sampler; the two names mean the same."""


class CustomSamplerConfig(Config):
    """An Optuna sampler by its import path: one of Optuna's others, OptunaHub's, or one's own."""

    name: ImportPath
    """`package.module:Class`, a subclass of optuna.samplers.BaseSampler."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class. `seed` is given by the search where the class has one."""


def _kind(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "package.module:Class" if isinstance(name, str) and ":" in name else name


SamplerConfig = Annotated[
    Annotated[TPEConfig, Tag("tpe")]
    | Annotated[GPConfig, Tag("gp")]
    | Annotated[CMAESConfig, Tag("cmaes")]
    | Annotated[NSGAIIConfig, Tag("nsgaii")]
    | Annotated[QMCConfig, Tag("qmc")]
    | Annotated[RandomConfig, Tag("random")]
    | Annotated[GridConfig, Tag("grid")]
    | Annotated[CustomSamplerConfig, Tag("package.module:Class")],
    Discriminator(_kind),
]

MEMORYLESS = ("random", "qmc", "grid", "brute_force")
"""Samplers whose proposals do not depend on how earlier trials ended."""
SINGLE_OBJECTIVE = ("cmaes",)
