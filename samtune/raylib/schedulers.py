"""Tune's schedulers, mended: they keep the light actors of the trials, and pause no more than there are groups for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, HyperBandForBOHB, MedianStoppingRule

_ALL = 1_000_000


class KeepsActors:
    """Mixed into each of Tune's schedulers, the one place from which Tune's controller can be reached.

    Of the actors that its trials leave behind Tune keeps only one for reuse, so that where two trials end together
    another actor is started (1.4 CPU seconds each; with short trials faster than the old ones end).
    """

    _told = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if not self._told:
            self._told = True
            controller = tune_controller._tune_controller
            controller._actor_cache.increase_max(trial.placement_group_factory, by=_ALL)
            _survive_resets(controller)
        super().on_trial_add(tune_controller, trial)  # type: ignore[misc]

    def choose_trial_to_run(self, tune_controller: Any, *arguments: Any, **options: Any) -> Any:
        """Leaves out a trial whose own actor is starting.

        Tune would give it the actor of a trial that has just ended and throw its own away; with short trials no second
        actor would ever come up. Now a new trial gets that actor.
        """
        trial = super().choose_trial_to_run(tune_controller, *arguments, **options)  # type: ignore[misc]
        return None if trial in tune_controller._tune_controller._trial_to_actor else trial

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for its own restore; our studies are restored from their journal


def _survive_resets(controller: Any) -> None:
    """Tries a trial again whose actor died between two trials, as Tune does with every other loss of an actor.

    Tune finds out when it gives the actor to the next trial. It is then told twice: that the actor died, upon which the
    trial is to be tried again, and that the actor did not take the trial, upon which the waiting trial fails. And it
    goes on taking the trial for one that is given an actor.
    """
    as_tune_does = controller._trial_task_failure
    known: list[Exception] = []

    def fail(trial: Trial, exception: Exception) -> None:
        if not any(exception is each for each in known):
            known[:] = [exception]
            controller._resetting_trials.discard(trial)
            as_tune_does(trial, exception)

    controller._trial_task_failure = fail


class Fifo(KeepsActors, FIFOScheduler):
    """Every trial to its end."""


class ASHA(KeepsActors, AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020)."""


class Median(KeepsActors, MedianStoppingRule):
    """Ray's rule fails on the last result of a trial that has no metric, and pauses trials to wait for others."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self.metric in result and self._time_attr in result:
            super().on_trial_complete(tune_controller, trial, result)

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(self.CONTINUE)


class Pausing(KeepsActors):
    """Lets a paused trial start again only when a group is free for it. Mixed into one of Tune's schedulers.

    New trials are kept back by the searcher, which is told of every pause.
    """

    num_groups: Callable[[], int]
    _supports_buffered_results = True  # silences Tune's warning about a buffer, which is off here in any case

    def choose_trial_to_run(self, tune_controller: Any, *arguments: Any, **options: Any) -> Trial | None:
        trial: Trial | None = super().choose_trial_to_run(tune_controller, *arguments, **options)
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
