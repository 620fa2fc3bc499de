"""Who trains what: the one place where trials and worker groups meet.

It holds state, never a queue of commands. A worker that starts anew asks what its group is to do *now* and is told
the trial that was interrupted; a record that arrives twice is known by its epoch and dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from samtune.spec.trial import TrialSpec
from samtune.workers.messages import Assignment, Failure, Outcome, Place, Progress, Reply

POLL_SECONDS = 10.0
"""How long the mailbox holds a question before it answers `ASK_AGAIN`: no caller ever waits on a dead process."""


@dataclass
class _Work:
    """A trial in the mailbox."""

    number: int
    trial_id: str
    key: str
    spec: TrialSpec
    target: int  # the workers may train up to this epoch before they must wait
    handed_out: bool = False
    attempt: int = 0  # how often a group began it
    started_at: float | None = None
    last_loss: str = ""
    granted: int = 0  # after this epoch the workers were told to go on
    save_wanted: int = 0  # a checkpoint of this epoch is asked for
    saved: int = 0  # the last epoch with a checkpoint that was asked for
    records: list[dict[str, float]] = field(default_factory=list)
    places: list[tuple[int, float]] = field(default_factory=list)  # group and time of each record
    outcome: Outcome | None = None
    failure: Failure | None = None


@dataclass
class _Group:
    """A worker group. `life` names one start of all its processes; Ray Train replaces them together."""

    life: str = ""
    present: set[int] = field(default_factory=set)  # ranks that have asked in this life
    nodes: set[str] = field(default_factory=set)  # that they run on
    leaving: bool = False  # a node is about to be taken away: the trial is saved and goes on elsewhere
    dying: bool = False  # a rank raised: the processes of this life will be replaced, and get nothing any more
    failure_reported: bool = False
    work: _Work | None = None
    lost: bool = False
    ready_at: float | None = None
    busy_since: float | None = None
    busy_seconds: float = 0.0


class Mailbox:
    """A zero-CPU actor (asyncio). Questions that must wait are answered after POLL_SECONDS at the latest.

    All of its state can be lost: Trainables post trials that it does not know again, and workers that it does not know
    are replaced, since some of their ranks may have had an answer that the others have not.

    Args:
        num_groups, num_workers: groups, and ranks of each.
        max_failures: how often a trial may lose its group before it fails.
    """

    def __init__(self, num_workers: int, *, num_groups: int = 1, max_failures: int = 3) -> None:
        self._num_groups, self._num_workers = num_groups, num_workers
        self._max_failures = max_failures
        self._trials: dict[str, _Work] = {}
        self._keys: dict[str, str] = {}
        self._groups: dict[int, _Group] = {}
        self._last_number = time.time_ns()  # numbers rise over a restart of this actor
        self._closed = False
        self._events: list[str] = []
        self._first_loss: Failure | None = None
        self._changed = asyncio.Condition()

    # -- the Trainable's questions -----------------------------------------------------------------------------------

    async def assign(self, trial_id: str, spec: TrialSpec, target: int) -> None:
        """Posts a trial for the next idle group. Posting it again changes nothing, unless it was lost."""
        if trial_id not in self._trials:
            self._last_number += 1
            key = self._keys.get(trial_id, trial_id)
            self._trials[trial_id] = _Work(self._last_number, trial_id, key, spec, target)
            self._hand_out()
            await self._announce()

    async def progress(self, trial_id: str, known: int, target: int) -> Progress | Reply:
        """The trial's records after the first `known`, once there are any or the trial has ended.

        Args:
            target: the epoch up to which the trial may train without asking.

        Returns:
            The progress; ASK_AGAIN when there is none yet, START_ANEW when the trial must be posted again.
        """
        work = self._trials.get(trial_id)
        if work is None:
            return Reply.START_ANEW
        if target > work.target:
            work.target = target
            await self._announce()
        await self._wait(lambda: len(work.records) > known or work.outcome or self._closed or self._all_lost())
        if work.outcome is None and self._closed:
            work.outcome = Outcome.STOPPED
        elif work.outcome is None and self._all_lost():
            work.outcome, work.failure = Outcome.FAILED, self._first_loss
        if len(work.records) <= known and work.outcome is None:
            return Reply.ASK_AGAIN
        return Progress(work.records[known:], work.outcome, work.failure, work.started_at, work.places[known:])

    async def save(self, trial_id: str, epoch: int) -> str | Failure | Reply:
        """Has the workers, which wait after this epoch, write a checkpoint of it.

        Returns:
            The key of the trial's checkpoints once it is written; why it was not; ASK_AGAIN; START_ANEW when the trial
            must be posted again; END when the search is over.
        """
        work = self._trials.get(trial_id)
        if work is None:
            return Reply.START_ANEW
        work.save_wanted = epoch
        await self._announce()
        await self._wait(lambda: work.saved >= epoch or work.outcome or self._closed or self._all_lost())
        if work.saved >= epoch:
            return work.key
        if work.outcome is None and not self._closed and not self._all_lost():
            return Reply.ASK_AGAIN
        return work.failure or Reply.END

    async def key(self, trial_id: str) -> str:
        """The name of the trial's checkpoints."""
        return self._keys.get(trial_id, trial_id)

    async def end(self, trial_id: str) -> None:
        """The search is done with the trial, or has paused it; its group leaves it at the end of the epoch."""
        work = self._trials.pop(trial_id, None)
        if work is not None and work.outcome is None:
            work.outcome = Outcome.STOPPED
            await self._announce()

    # -- the workers' questions --------------------------------------------------------------------------------------

    async def next_assignment(self, place: Place, after: int) -> Assignment | Reply:
        """What the group is to train now.

        Args:
            after: number of the last assignment this process has finished; -1 when it has finished none.

        Returns:
            An assignment with a higher number, END when the search is over, ASK_AGAIN or START_ANEW.
        """
        if after != -1 and place.group not in self._groups:
            return Reply.START_ANEW
        group = self._groups.setdefault(place.group, _Group())
        self._note_presence(group, place)
        self._hand_out()
        await self._announce()

        def current() -> _Work | None:
            work = group.work
            alive = place.life == group.life and not group.dying
            return work if alive and work is not None and work.number > after else None

        def must_leave() -> bool:
            return group.leaving and place.life == group.life and group.work is None

        await self._wait(lambda: self._closed or current() or must_leave())
        if self._closed:
            return Reply.END
        work = current()
        if work is None and must_leave():
            self._take_back(group)
            return Reply.START_ANEW
        if work is None:
            return Reply.ASK_AGAIN
        if work.attempt == 0:
            work.attempt, work.started_at = 1, time.time()
        if group.busy_since is None:
            group.busy_since = time.time()
        return Assignment(work.number, work.trial_id, work.key, work.spec, work.attempt)

    async def epoch_done(
        self, place: Place, number: int, epoch: int, records: list[dict[str, float]] | None, saved: bool = False
    ) -> Reply:
        """A rank has finished an epoch. Every rank gets the same answer for the same epoch, but for SAVE.

        Args:
            records: the epochs' metrics not sent before, from rank 0; None from the others. Known ones are dropped.
            saved: whether rank 0 has written a checkpoint of this epoch.
        """
        group = self._groups.get(place.group)
        if group is None:
            return Reply.START_ANEW
        work = group.work
        if work is None or work.number != number:
            return Reply.END
        if records is not None and work.outcome is None:
            new = [record for record in records if record["epoch"] > len(work.records)]
            work.records += new
            work.places += [(place.group, time.time())] * len(new)
            if epoch >= work.spec.num_epochs:
                work.outcome = Outcome.COMPLETED
            await self._announce()
        if saved:
            work.saved = epoch
            await self._announce()
        if epoch < work.spec.num_epochs:

            def must_leave() -> bool:
                return group.leaving and work.granted < epoch

            def must_save() -> bool:
                return place.rank == 0 and epoch > work.saved and (work.save_wanted == epoch or must_leave())

            def may_go() -> bool:
                return work.granted >= epoch or (work.target > epoch and not group.leaving)

            await self._wait(
                lambda: (
                    may_go() or work.outcome or self._closed or must_save() or (must_leave() and work.saved >= epoch)
                )
            )
            if work.outcome is None and must_save():
                return Reply.SAVE
            if work.granted >= epoch:
                return Reply.GO_ON
            if work.outcome is None and not self._closed and must_leave():
                if work.saved < epoch:
                    return Reply.ASK_AGAIN  # rank 0 is saving it
                self._take_back(group)
                await self._announce()
                return Reply.START_ANEW
            if work.outcome is None and not self._closed:
                if work.target <= epoch:
                    return Reply.ASK_AGAIN
                work.granted = epoch
                return Reply.GO_ON
        elif work.outcome is None:
            # The last epoch is told from its record alone: rank 0 brings it a moment later.
            await self._wait(lambda: work.outcome or self._closed)
            if work.outcome is None and not self._closed:
                return Reply.ASK_AGAIN
        self._release(group, work)
        await self._announce()
        return Reply.END

    async def must_leave(self, place: Place) -> bool:
        """Whether a node of the group is about to be taken away: the trial is to be saved at once.

        Answered when it is so, or after POLL_SECONDS.
        """
        group = self._groups.get(place.group)
        if group is None or place.life != group.life:
            return False
        await self._wait(lambda: self._closed or group.leaving)
        return group.leaving and not self._closed

    async def left(self, place: Place, number: int) -> None:
        """The group has saved its trial in the middle of an epoch and is about to raise: it goes on elsewhere."""
        group = self._groups.get(place.group)
        if group is not None and place.life == group.life and group.work is not None and group.work.number == number:
            self._take_back(group)
            await self._announce()

    async def peer_lost(self, place: Place, number: int, error: str) -> None:
        """A collective of a rank broke: another rank is gone, or raised. The group is about to be replaced.

        Not a failure of the trial in itself; it costs the trial one of its attempts. Where another rank raised, that
        rank's report fails the trial.
        """
        group = self._dying(place)
        if group is not None and group.work is not None and group.work.number == number:
            group.work.last_loss = error

    async def trial_failed(self, place: Place, number: int, failure: Failure, restarts: bool) -> None:
        """A rank's trial raised. The first report counts: the errors of other ranks mostly follow from it.

        Args:
            restarts: whether the group will be replaced, because other ranks may wait in a collective for ever.
        """
        group = self._dying(place) if restarts else self._groups.get(place.group)
        if group is None or place.life != group.life:
            return
        group.failure_reported = True
        work = group.work
        if work is not None and work.number == number:
            if work.outcome is None:
                work.outcome, work.failure = Outcome.FAILED, failure
            self._release(group, work)
        await self._announce()

    # -- the driver's questions --------------------------------------------------------------------------------------

    async def go_on(self, trial_id: str, key: str) -> None:
        """The trial that will be posted under this id goes on from the checkpoints of `key`."""
        self._keys[trial_id] = key

    async def expect(self, num_groups: int) -> None:
        """There will be so many groups: nodes were added."""
        self._num_groups = num_groups

    async def nodes_changed(self, gone: set[str], draining: set[str]) -> None:
        """Nodes have died, or are about to be taken away. Trials on them go on in the next group that is idle.

        Args:
            gone: ids of nodes that are not there any more.
            draining: of nodes that soon will not be: their trials are saved at the end of the epoch, and then move.
        """
        for index, group in self._groups.items():
            if group.nodes & gone:
                group.failure_reported = True
                self._events.append(f"group {index} lost its node; it starts anew where there is room")
                self._note_lost_attempt(group)
                self._take_back(group)
            elif group.nodes & draining and not group.leaving:
                group.leaving = group.failure_reported = True
                self._events.append(f"group {index} leaves its node, which is about to be taken away")
        await self._announce()

    async def group_lost(self, group_index: int, failure: Failure) -> None:
        """The group cannot be started or kept alive; no further trial is given to it."""
        group = self._groups.setdefault(group_index, _Group())
        group.lost = True
        self._first_loss = self._first_loss or failure
        self._events.append(f"group {group_index} is lost: {failure.error}")
        if (work := group.work) is not None:
            if work.outcome is None:
                work.outcome, work.failure = Outcome.FAILED, failure
            self._release(group, work)
        await self._announce()

    async def close(self) -> None:
        """Ends every trial and every worker's loop."""
        self._closed = True
        await self._announce()

    async def events(self, known: int) -> list[str] | None:
        """Lines worth telling the user, after the first `known`; None when the search is over."""
        await self._wait(lambda: len(self._events) > known or self._closed)
        return None if self._closed else self._events[known:]

    async def usage(self) -> dict[int, dict[str, float]]:
        """Per group: `ready_at` (seconds since 1970, absent before) and `busy_seconds` with a trial."""
        now = time.time()
        return {
            index: {
                **({"ready_at": group.ready_at} if group.ready_at else {}),
                "busy_seconds": group.busy_seconds + (now - group.busy_since if group.busy_since else 0.0),
            }
            for index, group in self._groups.items()
        }

    # -- inside ------------------------------------------------------------------------------------------------------

    def _note_presence(self, group: _Group, place: Place) -> None:
        """A worker asks. A life not seen before means that the whole group was started, or replaced."""
        if place.life != group.life:
            if group.life:
                if not group.failure_reported:
                    self._events.append(f"group {place.group} lost a worker and was restarted")
                self._note_lost_attempt(group)
            group.life, group.present, group.nodes = place.life, set(), set()
            group.dying = group.failure_reported = group.leaving = False
        group.present.add(place.rank)
        group.nodes.add(place.node)
        if group.ready_at is None and len(group.present) == self._num_workers:
            group.ready_at = time.time()
            plural = "s" if self._num_workers > 1 else ""
            self._events.append(f"group {place.group} is ready ({self._num_workers} worker{plural})")

    def _note_lost_attempt(self, group: _Group) -> None:
        """The trial that the group had begun goes on with its new workers, unless it is over or lost too many."""
        work = group.work
        if work is None or work.attempt == 0:
            return
        if work.outcome is None and work.attempt <= self._max_failures:
            work.attempt += 1  # `epoch_done` drops the records of epochs that are repeated
            return
        if work.outcome is None:
            reason = f"; the last time: {work.last_loss}" if work.last_loss else ""
            text = f"lost its workers {work.attempt} times (max_failures is {self._max_failures})"
            work.outcome, work.failure = Outcome.FAILED, Failure(text + reason)
        self._release(group, work)

    def _take_back(self, group: _Group) -> None:
        """The trial waits for the next idle group; this one gets nothing until it has started anew."""
        group.dying, group.nodes = True, set()
        if (work := group.work) is not None:
            self._last_number += 1
            work.number, work.handed_out = self._last_number, False
            self._release(group, work)

    def _dying(self, place: Place) -> _Group | None:
        """The group of a rank that is about to raise; its processes get no further trial."""
        group = self._groups.get(place.group)
        if group is None or place.life != group.life:
            return None
        group.dying = True
        return group

    def _hand_out(self) -> None:
        """Gives waiting trials, the oldest first, to idle groups."""
        waiting = (work for work in self._trials.values() if not work.handed_out and work.outcome is None)
        for group in self._groups.values():
            if group.work is None and not (group.lost or group.dying or group.leaving):
                work = next(waiting, None)
                if work is None:
                    return
                work.handed_out = True
                group.work = work

    def _release(self, group: _Group, work: _Work) -> None:
        """The group has left the trial and is free for the next."""
        if group.work is work:
            if group.busy_since is not None:
                group.busy_seconds += time.time() - group.busy_since
            group.work = group.busy_since = None
            self._hand_out()

    def _all_lost(self) -> bool:
        return sum(group.lost for group in self._groups.values()) >= self._num_groups

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, condition: Callable[[], Any]) -> None:
        """Returns when the condition holds, or after POLL_SECONDS."""
        if condition():
            return
        try:
            async with asyncio.timeout(POLL_SECONDS), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            pass
