"""How long a search will take, from a few timed steps of one of its trials on this machine."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.plan import Plan
from samtune.experiments.trust import UntrustedError
from samtune.formatting import format_number, format_seconds
from samtune.user_source import named_functions

if TYPE_CHECKING:
    from samtune.experiments.tuner import Tuner

_WARM_UP, _MOST_STEPS, _MOST_SECONDS = 3, 30, 10.0


@dataclass(frozen=True)
class Estimate:
    """What was timed, and what follows from it when no trial is stopped early and workers do not hinder each other.

    Attributes:
        device: where the steps ran.
        step_seconds: of one worker's share of a batch; the median of `num_steps`.
        seconds: of the whole search (least, most), without the start of the workers, evaluation and checkpoints.
    """

    device: str
    step_seconds: float
    num_steps: int
    seconds: tuple[float, float]

    def __str__(self) -> str:
        least, most = (format_seconds(seconds) for seconds in self.seconds)
        return (
            f"{least if least == most else f'{least} to {most}'} for all trials if none is stopped early: a step takes "
            f"{format_number(self.step_seconds)} s (median of {self.num_steps} on this machine's {self.device})"
        )


def plan_to_estimate(tuner: Tuner, *, trust: bool) -> Plan:
    """The plan that `estimate` takes: for its steps, the space's own functions are imported and called.

    Raises:
        UntrustedError: there are such functions, and the user has not allowed them.
    """
    if tuner.space.train is not None:
        raise UsageError(f"--estimate: times samtune's own loop, and {tuner.space.train} is another")
    reasons = [f"imports {each}" for each in named_functions(tuner.space.model_dump())]
    if reasons and not trust:
        raise UntrustedError(f"--estimate: trains some steps of {tuner.space.source_name}", reasons)
    return tuner.plan(import_code=True)


def estimate(space: SearchSpace, plan: Plan) -> Estimate:
    """Times some steps of the space's first trial in this process; reads the data, starts no worker."""
    import torch

    from samtune.train.first_batch import begin_trial

    device = torch.device("cuda" if plan.gpus_per_worker and torch.cuda.is_available() else "cpu")
    spec = space.trial(next(space.tree.enumerate(lambda name, key, node: node.extremes()[:1])))
    run, batches = begin_trial(spec, plan.num_workers, device)
    times: list[float] = []
    started = time.perf_counter()
    for inputs, targets in itertools.islice(batches, _MOST_STEPS):
        before = time.perf_counter()
        run.train_step(inputs, targets)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - before)
        if time.perf_counter() - started > _MOST_SECONDS:
            break
    timed = times[_WARM_UP:] or times
    step = statistics.median(timed)
    per_pass = step / spec.passes_per_step / plan.num_groups
    assert plan.steps_per_epoch is not None  # a plan that was made by importing the user's functions
    steps = [total * each for total, each in zip(plan.total_passes, plan.steps_per_epoch, strict=True)]
    return Estimate(str(device), step, len(timed), (steps[0] * per_pass, steps[1] * per_pass))
