"""How a configuration is drawn through Optuna, and in which order a grid is gone through."""

from __future__ import annotations

import random
from collections.abc import Mapping

import optuna
from optuna.trial import TrialState

from samtune.config.distributions import Choice, Distribution, Int, LogInt, LogUniform
from samtune.config.space import SearchSpace
from samtune.study import Scalar

WARM_START = "warm_start"
"""User attribute of Optuna's trials that are of another study: where they come from."""

_NUM_RANDOM = 10_000


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Scalar]:
    """One configuration: names and branches first, then the keys that exist with them."""
    return space.tree.draw(lambda name, key, distribution: _suggest(trial, name, distribution))


def _suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Scalar:
    match distribution:
        case Choice():
            choice: Scalar = trial.suggest_categorical(name, distribution.extremes())
            return choice
        case LogInt():
            return trial.suggest_int(name, distribution.low, distribution.high, log=True)
        case Int():
            return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step or 1)
        case LogUniform():
            return trial.suggest_float(name, distribution.low, distribution.high, log=True)
        case _:
            drawn = trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step)
            return distribution.nearest(drawn)


def fits(space: SearchSpace, config: Mapping[str, Scalar]) -> bool:
    """Whether a configuration is one that the space searches: a study's space may have been narrowed since."""
    return config.keys() <= space.tree.encoded_keys(config)


def distributions_of(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """What Optuna knows of every searched parameter, by its name."""
    asked = optuna.trial.FixedTrial({})
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for leaf in space.tree.leaves():
        if isinstance(leaf.node, Distribution):
            asked = optuna.trial.FixedTrial({leaf.name: leaf.node.extremes()[0]})
            _suggest(asked, leaf.name, leaf.node)  # type: ignore[arg-type]
            found |= asked.distributions
    return found


def random_feasible(space: SearchSpace, seed: int) -> dict[str, Scalar] | None:
    """The first of many random configurations that satisfies the constraints, if any does."""
    rng = random.Random(seed)
    for _ in range(_NUM_RANDOM):
        config = space.tree.draw(lambda name, key, distribution: distribution.random(rng))
        if not any(space.violations(config)):
            return config
    return None


class GridPoints:
    """The points of a grid that a study has not had, in an order that the seed decides.

    Optuna's own samplers do not do: GridSampler knows no branches, and BruteForceSampler looks at all trials again for
    every parameter it draws.
    """

    def __init__(self, space: SearchSpace, study: optuna.Study) -> None:
        self._study = study
        self._had = {_key(trial.params) for trial in study.get_trials(deepcopy=False)}
        values = space.tree.enumerate(lambda name, key, node: node.values() or node.extremes())
        self._points = [space.tree.encode(config) for config in values if not any(space.violations(config))]
        random.Random(space.seed).shuffle(self._points)
        self._num_waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def enqueue_next(self) -> bool:
        """Makes the study's next trial a point that it has not had; False where there is none."""
        if self._num_waiting:  # the initial points
            self._num_waiting -= 1
            return True
        while self._points:
            point = self._points.pop()
            if _key(point) not in self._had:
                self._study.enqueue_trial(point)
                return True
        return False

    def add(self, params: Mapping[str, Scalar]) -> None:
        """The study has had these parameters."""
        self._had.add(_key(params))


def _key(params: Mapping[str, Scalar]) -> frozenset[tuple[str, type, Scalar]]:
    """What makes two points the same, whatever rounding their steps went through."""
    return frozenset(
        (name, type(value), float(f"{value:.12g}") if isinstance(value, float) else value)
        for name, value in params.items()
    )
