"""Optuna behind Tune: a `Searcher` that owns its study through `ask` and `tell`.

The stock `OptunaSearch` reports trials stopped early as complete, leaves trials with NaN running, drops nested
initial points in silence and cannot be restored over a persistent storage; none of that happens here.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from samtune.records import Scalar
from samtune.spec.distributions import Choice, Distribution, Int, LogUniform
from samtune.spec.search import RandomConfig, SamplerConfig, TPEConfig
from samtune.spec.space import SearchSpace


def build_sampler(config: SamplerConfig, seed: int, parallel: bool) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of that name. With trials in parallel TPE assumes the running ones to be bad (constant liar)."""
    match config:
        case TPEConfig():
            return optuna.samplers.TPESampler(
                n_startup_trials=config.num_startup_trials,
                multivariate=config.multivariate,
                group=config.multivariate,
                constant_liar=parallel,
                seed=seed,
            )
        case RandomConfig():
            return optuna.samplers.RandomSampler(seed=seed)


def create_study(space: SearchSpace, name: str, journal: Path, parallel: bool) -> optuna.Study:
    """A new Optuna study in a journal file (which optuna-dashboard opens), with the initial points queued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's options and the metric's name
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=build_sampler(space.sampler, space.seed, parallel),
            direction="maximize" if space.objective.mode == "max" else "minimize",
        )
        study.set_metric_names([space.objective.metric])
    for point in space.initial:
        study.enqueue_trial(point)
    return study


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Scalar]:
    """One configuration: names first, then the keys that exist with them."""
    config: dict[str, Scalar] = {}
    for key, distribution in space.distributions():
        if space.is_active(key, config):
            config[key] = _suggest(trial, key, distribution)
    return config


def _suggest(trial: optuna.Trial, key: str, distribution: Distribution) -> Scalar:
    match distribution:
        case Choice():
            choice: Scalar = trial.suggest_categorical(key, distribution.choice)
            return choice
        case Int():
            return trial.suggest_int(key, distribution.low, distribution.high)
        case _:
            return trial.suggest_float(
                key, distribution.low, distribution.high, log=isinstance(distribution, LogUniform)
            )


class OptunaSearcher(Searcher):
    """Asks Optuna for configurations and tells it how they ended.

    Completed trials are told with their last value, trials stopped early as PRUNED with all values they reached,
    failed ones as FAIL.
    """

    def __init__(self, space: SearchSpace, study: optuna.Study) -> None:
        super().__init__(metric=space.objective.metric, mode=space.objective.mode)
        self._space, self._study = space, study
        self._trials: dict[str, optuna.Trial] = {}
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Scalar]:
        trial = self._study.ask()
        trial.set_user_attr("trial_id", trial_id)
        self._trials[trial_id] = trial
        self.numbers[trial_id] = trial.number
        return draw(trial, self._space)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self._trials.get(trial_id)
        if trial is None:
            return
        for record in result.get("records", []):
            value = record.get(self.metric)
            if value is not None and math.isfinite(value):
                trial.report(value, step=int(record["epoch"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result is not None:
            self.on_trial_result(trial_id, result)
        trial = self._trials.pop(trial_id, None)
        if trial is None:
            return
        outcome = (result or {}).get("outcome")
        value = (result or {}).get(self.metric)
        if error or outcome == "failed" or value is None or not math.isfinite(value):
            self._study.tell(trial, state=OptunaState.FAIL)
        elif outcome == "completed":
            self._study.tell(trial, value)
        else:
            self._study.tell(trial, state=OptunaState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal is the truth."""
