"""The last trials of a search share all places, where `resources.num_workers` is auto.

Places that become free are added; where places are lost, trials give some of theirs to those that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from samtune.config.search import ResourcesConfig
from samtune.config.trial import TrialSpec
from samtune.errors import SpaceError
from samtune.experiments.worker_choice import choose_workers
from samtune.formatting import counted
from samtune.raylib.cluster import Node, count_workers
from samtune.study import Scalar, Study, Trial, TrialState, is_over

GAIN = 2.0
"""How many starts of a group a trial must save by more workers, if they were all of the speed that they could be. The
start that is measured is of a cold group, so that this is worth its while from about 1.2 of the speed on with twice the
workers."""


class Groups(Protocol):
    """What is asked of the worker groups of a search."""

    def startup_seconds(self, started_at: float) -> float | None:
        """How long the first group took from this time on to be ready; None before it is."""

    def workers_of_trials(self) -> Mapping[str, int]:
        """How many workers each trial has that a group trains, by its id."""

    def widen(self, sizes: Mapping[str, int]) -> Sequence[str]:
        """Gives trials more workers after their epoch; the ids of those that get them."""

    def make_room(self, sizes: Mapping[str, int]) -> Sequence[str]:
        """Has trials give workers back after their epoch for one that waits; the ids of those that do."""

    def narrow(self, size: int) -> Sequence[int]:
        """Has groups that lost their workers come up again with no more than `size`; the indices of these groups."""


class Widening:
    """Looks whether the trials that are left had better have more workers, and has their groups restart with these.

    It is the choice that is made at the start of a search, made again where no trial is to come: one for every trial
    that is left, by the same rules (see `samtune.experiments.worker_choice`). Every trial gets a number of workers
    once: where these do not come up, its group takes the former number again, and stays with it. A group whose node is
    lost comes up with fewer where no room is left for as many. Where no room is left at all, the widest of the other
    trials give places back, unless they end so soon that to wait for them is cheaper; they may get them again later.

    Args:
        resources: of the search.
        gpus: of a worker.
        make_spec: the trial of a configuration.
        none_to_come: whether no further trial will begin.
        say: called with a line for each trial that moves.
    """

    def __init__(
        self,
        study: Study,
        resources: ResourcesConfig,
        gpus: float,
        groups: Groups,
        *,
        make_spec: Callable[[Mapping[str, Scalar]], TrialSpec],
        none_to_come: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._study, self._resources, self._gpus, self._groups = study, resources, gpus, groups
        self._make_spec, self._none_to_come, self._say = make_spec, none_to_come, say
        self._asked: set[tuple[str, int]] = set()

    def look(self, nodes: Sequence[Node]) -> None:
        """Called now and then, with the nodes that the cluster has."""
        if (left := self._left()) is None:
            return
        if (wanted := self._wanted(left, nodes)) is None:
            return
        now = self._groups.workers_of_trials()
        if any(trial.id not in now for trial in left):
            # Its group may have been on a node that is gone: what the others have left must do.
            for index in self._groups.narrow(wanted):
                workers = counted(wanted, "worker")
                self._say(f"group {index} lost its workers and restarts with {workers}, which the nodes have room for")
            self._make_room(left, now, wanted, nodes)
            return
        if wanted > 1:
            self._widen(left, now, wanted)

    def _widen(self, left: Sequence[Trial], now: Mapping[str, int], wanted: int) -> None:
        startup = self._groups.startup_seconds(self._study.started_at)
        sizes = {
            trial.id: wanted
            for trial in left
            if startup is not None
            and (trial.id, wanted) not in self._asked
            and saved_seconds(trial, now[trial.id], wanted) > GAIN * startup
        }
        if not sizes:
            return
        for trial_id in self._groups.widen(sizes):
            self._asked.add((trial_id, wanted))
            number = next(trial.number for trial in left if trial.id == trial_id)
            more = counted(wanted, "worker")
            self._say(f"no trials are to come: after this epoch, trial {number} continues with {more}")

    def _make_room(self, left: Sequence[Trial], now: Mapping[str, int], wanted: int, nodes: Sequence[Node]) -> None:
        """Has the widest trials give places back for those that have none, where these places are what is missing."""
        startup = self._groups.startup_seconds(self._study.started_at)
        free = count_workers(self._resources.cpus_per_worker, self._gpus, nodes) - sum(now.values())
        missing = wanted * sum(trial.id not in now for trial in left) - free
        held = [trial for trial in left if now.get(trial.id, 0) > wanted]
        sizes = {}
        for trial in sorted(held, key=lambda trial: -now[trial.id]):
            if startup is not None and missing > 0 and remaining_seconds(trial) > GAIN * startup:
                sizes[trial.id] = wanted
                missing -= now[trial.id] - wanted
        for trial_id in self._groups.make_room(sizes) if sizes else ():
            self._asked -= {(trial_id, size) for size in range(wanted + 1, now[trial_id] + 1)}
            number = next(trial.number for trial in left if trial.id == trial_id)
            fewer = counted(wanted, "worker")
            self._say(f"places were lost, and a trial waits: after this epoch, trial {number} continues with {fewer}")

    def _left(self) -> list[Trial] | None:
        """The trials that are left; None while others may still come, or some of these wait."""
        trials = list(self._study.trials)
        left = [trial for trial in trials if not is_over(trial)]
        if not left or any(trial.state is not TrialState.RUNNING for trial in left):
            return None
        return left if len(trials) >= self._study.num_trials or self._none_to_come() else None

    def _wanted(self, left: Sequence[Trial], nodes: Sequence[Node]) -> int | None:
        """How many workers each of them can have; None where that is not known."""
        try:
            specs = [self._make_spec(trial.config) for trial in left]
        except SpaceError:  # of a configuration that breaks a rule: its trial is about to fail
            return None
        if any(spec.training.parallel == "fsdp" for spec in specs):
            return None  # with fewer workers each holds more of the weights, for which its memory may not do
        return choose_workers(self._resources, self._gpus, nodes, at_once=len(left), layouts=lambda: specs).num_workers


def saved_seconds(trial: Trial, now: int, then: int) -> float:
    """What a trial would save at best with `then` workers in place of `now`, from its next epoch on."""
    return remaining_seconds(trial) * (1 - now / then) if then > now else 0.0


def remaining_seconds(trial: Trial) -> float:
    """How long a trial still takes with the workers that it has, after the epoch that is being trained."""
    if not trial.history:
        return 0.0
    return (trial.num_epochs - trial.history.last - 1) * trial.history[-1].get("epoch_seconds", 0.0)
