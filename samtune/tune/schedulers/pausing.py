"""Schedulers that pause trials: more of them are under way than there are worker groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB

from samtune.tune.schedulers.actors import KeepsActors


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
