"""Tune's schedulers, mended: their trials run in the driver, and no more are paused than there are groups for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, HyperBandForBOHB, MedianStoppingRule

from samtune.raylib.driver_trials import DriverTrials


class InDriver:
    """Mixed into each of Tune's schedulers, the one place from which Tune's controller can be reached.

    The trials run in threads of the driver.
    """

    _trials: DriverTrials | None = None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if self._trials is None:
            self._trials = DriverTrials.of(tune_controller._tune_controller)
        super().on_trial_add(tune_controller, trial)  # type: ignore[misc]

    def join(self, timeout: float) -> None:
        """Waits for the threads of the trials, when Tune is done with them."""
        if self._trials is not None:
            self._trials.join(timeout)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for its own restore; our studies are restored from their journal


class Fifo(InDriver, FIFOScheduler):
    """Every trial to its end."""


class ASHA(InDriver, AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020)."""


class Median(InDriver, MedianStoppingRule):
    """Ray's rule fails on the last result of a trial that has no metric, and pauses trials to wait for others."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self.metric in result and self._time_attr in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(self.CONTINUE)


class Pausing(InDriver):
    """Lets a paused trial start again only when a group is free for it. Mixed into one of Tune's schedulers.

    New trials are kept back by the searcher, which is told of every pause.
    """

    num_groups: Callable[[], int]
    _supports_buffered_results = True  # silences Tune's warning about a buffer, which is off here in any case

    def choose_trial_to_run(self, tune_controller: Any, *arguments: Any, **options: Any) -> Trial | None:
        trial: Trial | None = super().choose_trial_to_run(tune_controller, *arguments, **options)  # type: ignore[misc]
        if trial is not None and trial.status == Trial.PAUSED:
            active = sum(t.status in (Trial.RUNNING, Trial.PENDING) for t in tune_controller.get_live_trials())
            if active >= self.num_groups():
                return None
        return trial


class HyperBand(Pausing, HyperBandForBOHB):
    """HyperBand (Li et al. 2018), its brackets filled from the largest on, with the sampler learning in between.

    Tune's plain `HyperBandScheduler` wants all trials of a bracket drawn before the first of them ends; this one is the
    scheduler of BOHB (Falkner et al. 2018), which draws them as groups become free. It tells the searcher of pauses.
    """

    def __init__(self, *, num_groups: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self.num_groups = num_groups
