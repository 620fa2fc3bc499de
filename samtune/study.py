"""A study, its trials, and the callbacks that hear of every change.

One `Study` per search and one `Trial` per configuration. Only the driver changes them; the tracker, the terminal and
the user's callbacks read them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, overload

from samtune.html_table import html_table

Scalar = float | int | str | bool | None

StudyKind = Literal["search", "confirmation", "training"]

CANDIDATE, REPLICA = "candidate", "replica"
"""Keys of a trial's configuration in a study with a fixed list of trials: the candidate's label, and the replica."""


@dataclass(frozen=True)
class EpochRecord:
    """What one finished epoch of a trial measured.

    Attributes:
        metrics: by name; holds `epoch`, counted from 1.
        group: the worker group that trained it; None where that is not known.
        ended_at: seconds since 1970.
    """

    metrics: dict[str, float]
    group: int | None = field(default=None, compare=False)
    ended_at: float | None = field(default=None, compare=False)

    @property
    def epoch(self) -> int:
        return int(self.metrics["epoch"])


class EpochLog(Sequence[dict[str, float]]):
    """The finished epochs of a trial, in order: a sequence of their metrics, to which epochs are only ever appended.

    A trial that resumes from a checkpoint repeats epochs, and a message may arrive twice. Whether an epoch is new is
    decided here and nowhere else.

    Attributes:
        records: the same epochs with where and when each was trained.
    """

    def __init__(self, epochs: Iterable[EpochRecord | dict[str, float]] = ()) -> None:
        self.records: list[EpochRecord] = []
        for epoch in epochs:
            self.append(epoch)

    def append(self, epoch: EpochRecord | dict[str, float]) -> bool:
        """Appends an epoch, unless it or a later one is here already. Returns whether it was new."""
        record = epoch if isinstance(epoch, EpochRecord) else EpochRecord(epoch)
        if record.epoch <= self.last:
            return False
        self.records.append(record)
        return True

    def after(self, epoch: int) -> list[EpochRecord]:
        """The records of the epochs after this one."""
        return [record for record in self.records if record.epoch > epoch]

    @property
    def last(self) -> int:
        """The number of the last epoch; 0 before the first."""
        return self.records[-1].epoch if self.records else 0

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> dict[str, float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, float]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, float] | list[dict[str, float]]:
        if isinstance(index, slice):
            return [record.metrics for record in self.records[index]]
        return self.records[index].metrics

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"EpochLog({list(self)!r})"


class TrialState(StrEnum):
    """The state of a trial. The last four are final."""

    WAITING = "waiting"  # paused by the scheduler: has a configuration and no worker group
    RUNNING = "running"
    COMPLETED = "completed"  # all its epochs
    PRUNED = "pruned"  # stopped early by the scheduler
    FAILED = "failed"  # an error, a non-finite loss, or lost too many workers
    INTERRUPTED = "interrupted"  # the search ended first (Ctrl-C)

    @property
    def is_final(self) -> bool:
        return self not in (TrialState.WAITING, TrialState.RUNNING)


@dataclass(repr=False)
class Trial:
    """One configuration and what became of it.

    Attributes:
        number: 0, 1, 2 … in the order in which Optuna proposed them.
        id: unique within the study; Ray Tune's trial id.
        config: the searched dotted keys only, e.g. `{"method.rho": 0.05, "training.lr": 0.1}`.
        params: every key of the resolved trial, flat, e.g. `{"model.depth": 28, "method.rho": 0.05, …}`.
        num_epochs: how many epochs the trial has when nothing stops it.
        history: one dict of metrics per finished epoch, in order; each holds `epoch` (counted from 1). Its `records`
            also say which worker group trained the epoch, and when.
        error: one line, when the state is FAILED or INTERRUPTED; `traceback` the worker's text, if any.
        diverged: whether it failed because its training loss was not finite.
        perturbations: where population based training replaced its weights by another trial's: after which `epoch`
            of that trial, its number (`source`), and the configuration and params `before`; `config` and `params` are
            those since the last of them.
    """

    number: int
    id: str
    config: dict[str, Scalar]
    params: dict[str, Scalar]
    num_epochs: int
    state: TrialState = TrialState.WAITING
    history: EpochLog = field(default_factory=EpochLog)
    error: str | None = None
    traceback: str | None = None
    diverged: bool = False
    started_at: float | None = None  # seconds since 1970
    ended_at: float | None = None
    perturbations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return self.history.last

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

    def __repr__(self) -> str:
        config = "".join(f", {key}={_short(value)}" for key, value in self.config.items())
        shown = next((name for name in _TOLD if name in self.metrics), None)
        metric = f", {shown} {_short(self.metrics[shown])}" if shown else ""
        error = f", {self.error!r}" if self.error else ""
        return f"Trial({self.number}, {self.state}, epoch {self.epoch}/{self.num_epochs}{metric}{config}{error})"

    def _repr_html_(self) -> str:
        rows = [(key, _short(value)) for key, value in (*self.config.items(), *self.metrics.items())]
        title = f"trial {self.number}: {self.state}, epoch {self.epoch} of {self.num_epochs}"
        return html_table(title, (), rows, [self.error] if self.error else [])


_TOLD = ("val_accuracy", "test_accuracy", "val_loss", "train_loss")
"""The metrics that say most of a trial: its text has the first that it measured."""


def _short(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Objective:
    """What the search optimises: a metric of a trial's epochs, and which way.

    Attributes:
        epochs: which epochs count: the `last`, the `best` of all, or the mean of the last N.
    """

    metric: str = "val_accuracy"
    mode: Literal["max", "min"] = "max"
    epochs: Literal["last", "best"] | int = "last"

    def score(self, history: Sequence[Mapping[str, float]]) -> float | None:
        """The value after these epochs; None when there is no finite one.

        Args:
            history: one dict of metrics per epoch.
        """
        values = [record.get(self.metric, math.nan) for record in history]
        if self.epochs == "best":
            finite = [value for value in values if math.isfinite(value)]
            return (max if self.mode == "max" else min)(finite, default=None)
        last = values[-1:] if self.epochs == "last" else values[-self.epochs :]
        mean = sum(last) / len(last) if last else math.nan
        return mean if math.isfinite(mean) else None

    def value(self, trial: Trial) -> float | None:
        """The trial's value; None when it has no finite one yet."""
        return self.score(trial.history)

    def sort_key(self, trial: Trial) -> tuple[bool, float]:
        """Sorts the best trial first and those without a value last."""
        value = self.value(trial)
        return (value is None, 0.0 if value is None else (-value if self.mode == "max" else value))

    def __str__(self) -> str:
        over = {"last": "", "best": " of the best epoch"}.get(str(self.epochs), f" over the last {self.epochs} epochs")
        return self.metric + over


@dataclass
class Study:
    """One search: what was asked for, where it is kept, and its trials so far.

    Attributes:
        objectives: what is optimised; with several, `pareto` holds the trials that none is better than in all.
        space_yaml: the resolved search space as YAML text; `plan` its resolved plan (see `samtune.experiments.plan`).
        storage_path: absolute path or URI of the folder of this study.
        tracking_uri, experiment: MLflow's, absolute; the tracker fills in the two ids.
        command: the command line that started it; `versions` of python, samtune and the libraries.
        usage: at the end `startup_seconds` (from the start to the first group that was ready) and `busy_fraction`
            (share of the groups' time, once ready, that they spent on trials).
        moved_from: the `storage_path` that it was begun in, where that is another.
        is_own: whether this user began it on this machine, as far as its files tell (`samtune.store.ownership`).
        verdict: at the end of a search, what its numbers allow to say, in lines (`samtune.experiments.verdict`).
        stopped_by: why the search ended before its last trial: a budget, Ctrl-C, only failures; None: it did not.
    """

    name: str
    objectives: tuple[Objective, ...]
    num_trials: int
    space_yaml: str
    plan: dict[str, Any]
    storage_path: str
    tracking_uri: str
    experiment: str
    command: str
    versions: dict[str, str]
    kind: StudyKind = "search"
    trials: list[Trial] = field(default_factory=list)
    usage: dict[str, float] = field(default_factory=dict)
    is_own: bool = False
    stopped_by: str | None = None
    experiment_id: str | None = None
    parent_run_id: str | None = None
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    verdict: list[str] = field(default_factory=list)
    moved_from: str | None = None

    def count(self, *states: TrialState) -> int:
        return sum(trial.state in states for trial in self.trials)

    @property
    def seconds(self) -> float:
        return (self.ended_at or time.time()) - self.started_at

    def rank_key(self, trial: Trial) -> tuple[float, ...]:
        """Sorts ended trials, the best first. Where the first objective ties, the next decides: so the first trial is
        on the Pareto front."""
        keys = (key for objective in self.objectives for key in objective.sort_key(trial))
        return (trial.state is not TrialState.COMPLETED, *keys, tie_break(trial), trial.number)

    @property
    def is_cut_short(self) -> bool:
        """Whether trials are missing, other than those that a budget or a complete grid left out."""
        in_budget = (self.stopped_by or "").startswith(("budget.", "grid:"))
        return not in_budget and (self.count(TrialState.INTERRUPTED) > 0 or len(self.trials) < self.num_trials)

    @property
    def objective(self) -> Objective:
        """The first objective, which decides what `best` is."""
        return self.objectives[0]

    @property
    def goal(self) -> str:
        """`max val_accuracy, min sharpness`."""
        return ", ".join(f"{objective.mode} {objective}" for objective in self.objectives)

    def ranked(self) -> list[Trial]:
        """All trials, the best first. Completed trials come before those stopped early: they saw more epochs.

        Of trials with the same value the one with the lower `val_loss` comes first: an accuracy of few examples ties
        often, and the loss says more.

        With several objectives the trials of the Pareto front come first.
        """
        front = {trial.number for trial in self.pareto} if len(self.objectives) > 1 else set()
        return sorted(
            self.trials, key=lambda t: (t.state is not TrialState.COMPLETED, t.number not in front, *self.rank_key(t))
        )

    @property
    def pareto(self) -> list[Trial]:
        """The completed trials that no other is at least as good as in every objective and better in one.

        In the order of the first objective, the best first.
        """
        keys = {
            trial.number: [objective.sort_key(trial) for objective in self.objectives]
            for trial in self.trials
            if trial.state is TrialState.COMPLETED
        }
        values = {n: [value for _, value in own] for n, own in keys.items() if not any(missing for missing, _ in own)}

        def dominated(own: list[float]) -> bool:
            return any(
                other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in values.values()
            )

        front = [t for t in self.trials if t.number in values and not dominated(values[t.number])]
        return sorted(front, key=lambda t: (values[t.number], t.number))

    @property
    def best(self) -> Trial | None:
        """The best completed trial by the first objective, or None."""
        return next(
            (t for t in self.ranked() if t.state is TrialState.COMPLETED and self.objective.value(t) is not None), None
        )

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)


def tie_break(trial: Trial) -> float:
    """Decides between trials with the same objective: less is better."""
    loss = trial.metrics.get("val_loss", math.inf)
    return math.inf if math.isnan(loss) else loss


def is_over(trial: Trial) -> bool:
    """Whether a trial need not be run again when its study is resumed."""
    return trial.state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)


class Callback:
    """Hears of every change of a study, on the driver, in order. Override the hooks you need; they must return quickly.

    A callback reads the study and does not change it.
    """

    def on_study_start(self, study: Study) -> None: ...

    def on_trial_start(self, study: Study, trial: Trial) -> None: ...

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None: ...

    def on_trial_change(self, study: Study, trial: Trial) -> None:
        """Its configuration was changed while it is under way (see `Trial.perturbations`)."""

    def on_trial_end(self, study: Study, trial: Trial) -> None: ...

    def on_status(self, study: Study, message: str) -> None:
        """Something worth a line: workers starting, waiting for resources, a lost worker."""

    def on_study_end(self, study: Study) -> None: ...
