"""How many workers each group has, and when that changes: when its processes start, and after an epoch of its trial."""

from __future__ import annotations

import time
from collections.abc import Mapping

from samtune.formatting import counted
from samtune.workers.coordinator_state import CoordinatorState, WorkerGroup


class GroupSizes:
    """The sizes of the groups of a coordinator's state.

    A group whose size changes leaves its trial at the end of the epoch, with a checkpoint, and its processes are
    replaced; the trial continues in the group that is there first. So a trial moves at most once an epoch.
    """

    def __init__(self, state: CoordinatorState) -> None:
        self._state = state

    def widen(self, sizes: Mapping[str, int]) -> list[str]:
        """Trials get more workers: their groups restart with as many after the epoch, and the idle groups end.

        Nothing changes unless every trial that is known has a group whose workers are all there.

        Args:
            sizes: workers by the key of a trial; fewer than it has, or as many, change nothing.

        Returns:
            The keys of the trials that get them.
        """
        state = self._state
        busy = [group for group in state.groups.values() if group.work is not None]
        going = [work for work in state.trials.values() if work.outcome is None]
        if len(busy) != len(going) or not all(_is_settled(group) for group in busy):
            return []
        wider = [g for g in busy if g.work is not None and sizes.get(g.work.key, 0) > g.num_workers]
        for index in range(state.num_groups) if wider else ():
            if (idle := state.group(index)).work is None and not idle.retired:
                idle.retired, idle.retired_at = True, time.time()
        return self._resize(wider, sizes)

    def make_room(self, sizes: Mapping[str, int]) -> list[str]:
        """Trials give workers back, after their epoch, so that a group that is starting finds places for its own.

        Nothing changes unless a trial waits, and each group that is not up is being started with no more workers than
        the fewest of these: one with more would take the places before the group that has given them back is up again.

        Args:
            sizes: workers by the key of a trial; more than it has, or as many, change nothing.

        Returns:
            The keys of the trials that give some back.
        """
        state, least = self._state, min(sizes.values(), default=0)
        groups = [group for group in state.groups.values() if not (group.lost or group.retired)]
        starting = [group for group in groups if not group.is_up]
        waits = any(work.outcome is None and not work.handed_out for work in state.trials.values())
        if not waits or not starting or any(group.num_workers > least for group in starting):
            return []
        narrower = [
            group
            for group in groups
            if group.work is not None and _is_settled(group) and 0 < sizes.get(group.work.key, 0) < group.num_workers
        ]
        return self._resize(narrower, sizes)

    def narrow(self, size: int) -> list[int]:
        """Groups that have lost their workers, and had all of them before, come up again with no more than `size`.

        Returns:
            The indices of those that would have had more.
        """
        narrower = []
        for group in self._state.groups.values():
            if group.ready_with and group.wanted > size and not (group.is_up or group.lost or group.retired):
                group.wanted = size
                narrower.append(group.index)
        return narrower

    def for_start(self, index: int) -> int:
        """How many workers the group is to be started with now.

        One that was widened and has not finished an epoch since gets its former number back: there is no room after
        all, or more workers do not work.
        """
        state = self._state
        if (group := state.groups.get(index)) is None:  # its first start
            return state.num_workers
        if group.on_trial:
            group.wanted = min(group.wanted, group.least)
            more = counted(group.num_workers, "worker")
            state.events.append(f"group {index} did not train on {more}: it goes back to {group.wanted}")
            state.take_back(group)  # not an attempt of the trial's
        group.num_workers, group.on_trial = group.wanted, group.wanted > group.least
        return group.num_workers

    def of_trials(self) -> dict[str, int]:
        """How many workers each trial has that a group trains, by its key."""
        return {group.work.key: group.num_workers for group in self._state.groups.values() if group.work is not None}

    def _resize(self, groups: list[WorkerGroup], sizes: Mapping[str, int]) -> list[str]:
        """The keys of the trials whose groups restart with these sizes after the epoch."""
        keys = [group.work.key for group in groups if group.work is not None]
        for group, key in zip(groups, keys, strict=True):
            group.wanted, group.leaving, group.failure_reported = sizes[key], True, True
        return keys


def _is_settled(group: WorkerGroup) -> bool:
    """Whether all its workers are there and are to stay."""
    return group.ready_with == group.num_workers and group.is_up and not group.leaving
