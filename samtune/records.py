"""What a search knows of its trials, and the callbacks that are told of every change.

One `Study` per search and one `Trial` per configuration. The driver alone changes them; the tracker, the
terminal and the user's callbacks read them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Scalar = float | int | str | bool | None


class TrialState(StrEnum):
    """The state of a trial. The last four are final."""

    WAITING = "waiting"  # has a configuration, no worker group yet
    RUNNING = "running"
    COMPLETED = "completed"  # all its epochs
    PRUNED = "pruned"  # stopped early by the scheduler
    FAILED = "failed"  # an error, a non-finite loss, or lost too many workers
    INTERRUPTED = "interrupted"  # the search ended first (Ctrl-C)

    @property
    def is_final(self) -> bool:
        return self not in (TrialState.WAITING, TrialState.RUNNING)


@dataclass
class Trial:
    """One configuration and what became of it.

    Attributes:
        number: 0, 1, 2 … in the order in which Optuna proposed them.
        id: unique within the study; Ray Tune's trial id.
        config: the searched dotted keys only, e.g. `{"method.rho": 0.05, "training.lr": 0.1}`.
        params: every key of the resolved trial, flat, e.g. `{"model.depth": 28, "method.rho": 0.05, …}`.
        num_epochs: how many epochs the trial has when nothing stops it.
        history: one dict of metrics per finished epoch, in order; each holds `epoch` (counted from 1).
        error: one line, when the state is FAILED or INTERRUPTED; `traceback` the worker's text, if any.
    """

    number: int
    id: str
    config: dict[str, Scalar]
    params: dict[str, Scalar]
    num_epochs: int
    state: TrialState = TrialState.WAITING
    history: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    traceback: str | None = None
    started_at: float | None = None  # seconds since 1970
    ended_at: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last finished epoch; empty before the first."""
        return self.history[-1] if self.history else {}

    @property
    def seconds(self) -> float:
        """Wall time from the start of the trial to its end (or to now)."""
        if self.started_at is None:
            return 0.0
        return (self.ended_at or time.time()) - self.started_at


@dataclass(frozen=True)
class Objective:
    """What the search optimises: a metric of the last epoch, and which way."""

    metric: str = "val_accuracy"
    mode: Literal["max", "min"] = "max"

    def value(self, trial: Trial) -> float | None:
        """The trial's value; None when it has no finite one yet."""
        value = trial.metrics.get(self.metric)
        return value if value is not None and math.isfinite(value) else None

    def sort_key(self, trial: Trial) -> tuple[bool, float]:
        """Sorts the best trial first and those without a value last."""
        value = self.value(trial)
        return (value is None, 0.0 if value is None else (-value if self.mode == "max" else value))


@dataclass
class Study:
    """One search: what was asked for, where it is kept, and its trials so far.

    Attributes:
        space_yaml: the resolved search space as YAML text; `plan` its resolved plan (see `samtune.search.plan`).
        storage_path: absolute path or URI of the folder of this study.
        tracking_uri, experiment: MLflow's, absolute; the tracker fills in the two ids.
        command: the command line that started it; `versions` of python, samtune and the libraries.
        usage: at the end `startup_seconds` (from the start to the first group that was ready) and `busy_fraction`
            (share of the groups' time, once ready, that they spent on trials).
    """

    name: str
    objective: Objective
    num_trials: int
    space_yaml: str
    plan: dict[str, Any]
    storage_path: str
    tracking_uri: str
    experiment: str
    command: str
    versions: dict[str, str]
    trials: list[Trial] = field(default_factory=list)
    usage: dict[str, float] = field(default_factory=dict)
    experiment_id: str | None = None
    parent_run_id: str | None = None
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None

    def count(self, *states: TrialState) -> int:
        return sum(trial.state in states for trial in self.trials)

    @property
    def seconds(self) -> float:
        return (self.ended_at or time.time()) - self.started_at

    def ranked(self) -> list[Trial]:
        """All trials, the best first. Completed trials come before those stopped early: they saw more epochs."""
        return sorted(
            self.trials, key=lambda t: (t.state is not TrialState.COMPLETED, *self.objective.sort_key(t), t.number)
        )

    @property
    def best(self) -> Trial | None:
        """The best completed trial, or None."""
        return next(
            (t for t in self.ranked() if t.state is TrialState.COMPLETED and self.objective.value(t) is not None), None
        )

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)


class Callback:
    """Told of every change of a study, on the driver, in order. Override what is of interest; must return quickly."""

    def on_study_start(self, study: Study) -> None: ...

    def on_trial_start(self, study: Study, trial: Trial) -> None: ...

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None: ...

    def on_trial_end(self, study: Study, trial: Trial) -> None: ...

    def on_status(self, study: Study, message: str) -> None:
        """Something worth a line: workers starting, waiting for resources, a lost worker."""

    def on_study_end(self, study: Study) -> None: ...
