"""Keeps the light actors of the trials: as many as are active at once, however many trials there are."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

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
            tune_controller._tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=_ALL)
        super().on_trial_add(tune_controller, trial)  # type: ignore[misc]

    def choose_trial_to_run(self, tune_controller: Any, *arguments: Any, **options: Any) -> Any:
        """Leaves out a trial whose own actor is starting.

        Tune would give it the actor of a trial that has just ended and throw its own away; with short trials no second
        actor would ever come up. Now a new trial gets that actor.
        """
        trial = super().choose_trial_to_run(tune_controller, *arguments, **options)  # type: ignore[misc]
        return None if trial in tune_controller._tune_controller._trial_to_actor else trial

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for a restore of its own; our studies are restored from their journal


class Fifo(KeepsActors, FIFOScheduler):
    """Every trial to its end."""


class ASHA(KeepsActors, AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020)."""
