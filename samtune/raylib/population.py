"""Population based training: weak trials take over the weights of strong ones, with changed hyperparameters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2

from samtune.raylib.schedulers import Pausing

TakeOver = Callable[[str, str, int, dict[str, Any]], None]
"""(trial id, id of the trial whose weights it takes, their epoch, its new configuration)."""


class _Population(Pausing):
    """What Tune's two schedulers lack here. They compare the whole population at the same epoch (`synch`): a trial's
    epochs then continue from where it was, whosever weights it has.

    Args:
        population: how many trials there are in all.
        on_take_over: called for every trial that takes over another's weights.
        seed: of the choices made; Tune's own come from Python's and numpy's global generators.
    """

    def __init__(
        self, *, population: int, num_groups: Callable[[], int], on_take_over: TakeOver, seed: int, **options: Any
    ) -> None:
        super().__init__(synch=True, require_attrs=False, log_config=False, **options)  # type: ignore[call-arg]
        self.num_groups, self._population, self._on_take_over = num_groups, population, on_take_over
        self._random_states = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        # Tune refuses searchers here. Ours draws the first configurations and is not asked for more.
        without_searcher = SimpleNamespace(search_alg=None, _tune_controller=tune_controller._tune_controller)
        super().on_trial_add(without_searcher, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        scheduler: Any = self
        if len(scheduler._trial_state) < self._population and self._is_due(trial, result):
            # Tune would compare the trials there are: the others of the population have yet to be drawn.
            scheduler._save_trial_state(scheduler._trial_state[trial], result[scheduler._time_attr], result, trial)
            decision = TrialScheduler.PAUSE
        else:
            decision = self._compare(tune_controller, trial, result)
        if decision != TrialScheduler.CONTINUE:
            tune_controller.search_alg.searcher.on_pause(trial.trial_id)
        return decision

    def choose_trial_to_run(self, tune_controller: Any, *arguments: Any, **options: Any) -> Trial | None:
        live = list(tune_controller.get_live_trials())
        if live and all(t.status == Trial.PAUSED and not t.is_saving for t in live) and self._none_is_behind(live):
            # The last trial that the others waited for has ended without a result: nobody else compares them.
            self._compare(tune_controller, live[0], live[0].last_result)
        return super().choose_trial_to_run(tune_controller, *arguments, **options)

    def _compare(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        with self._seeded():
            return str(super().on_trial_result(tune_controller, trial, result))  # type: ignore[misc]

    def _is_due(self, trial: Trial, result: dict[str, Any]) -> bool:
        scheduler: Any = self
        if scheduler._metric not in result or scheduler._time_attr not in result:
            return False
        since = result[scheduler._time_attr] - scheduler._trial_state[trial].last_perturbation_time
        return bool(since >= scheduler._perturbation_interval)

    def _none_is_behind(self, live: list[Trial]) -> bool:
        scheduler: Any = self
        complete = len(scheduler._trial_state) >= self._population
        return complete and all(
            scheduler._trial_state[t].last_train_time >= scheduler._next_perturbation_sync for t in live
        )

    def _exploit(self, tune_controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        super()._exploit(tune_controller, trial, trial_to_clone)  # type: ignore[misc]
        scheduler: Any = self
        epoch = int(scheduler._trial_state[trial_to_clone].last_result["epoch"])
        self._on_take_over(trial.trial_id, trial_to_clone.trial_id, epoch, dict(trial.config))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        of_user = self._swap(self._random_states)
        try:
            yield
        finally:
            self._random_states = self._swap(of_user)

    @staticmethod
    def _swap(states: tuple[Any, Any]) -> tuple[Any, Any]:
        """Sets the global generators; returns their states before."""
        before = random.getstate(), np.random.get_state()
        random.setstate(states[0])
        np.random.set_state(states[1])
        return before


class Population(_Population, PopulationBasedTraining):
    """Population based training (Jaderberg et al. 2017)."""


class PopulationBandits(_Population, PB2):
    """PB2 (Parker-Holder et al. 2020): new hyperparameters from a Gaussian process over the population's progress."""
