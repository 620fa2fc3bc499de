"""Who trains what: the one place where trials and worker groups meet.

It holds state, never a queue of commands. A worker that restarts asks what its group is to do *now* and is told
the trial that was interrupted; a record that arrives twice is known by its epoch and dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from samtune.config.trial import TrialSpec
from samtune.workers.coordinator_state import CoordinatorState, PostedTrial
from samtune.workers.group_sizes import GroupSizes
from samtune.workers.protocol import Assignment, Failure, Progress, Reply, WorkerId
from samtune.workers.worker_endings import ending_of, losses_among

POLL_SECONDS = 10.0
"""How long the coordinator holds a question before it answers `ASK_AGAIN`: no caller ever waits on a dead process."""


class Coordinator:
    """A zero-CPU actor (asyncio). Questions that must wait are answered after POLL_SECONDS at the latest.

    All of its state can be lost: Trainables post trials that it does not know again, and workers that it does not know
    are replaced, since some of their ranks may have had an answer that the others have not.

    Args:
        num_groups, num_workers: groups, and ranks of each.
        max_failures: how often a trial may lose its group before it fails.
    """

    def __init__(self, num_workers: int, *, num_groups: int = 1, max_failures: int = 3) -> None:
        self._state = CoordinatorState(num_workers, num_groups, max_failures)
        self._sizes = GroupSizes(self._state)
        self._changed = asyncio.Condition()

    # -- the Trainable's questions -----------------------------------------------------------------------------------

    async def assign(self, trial_id: str, spec: TrialSpec, target: int) -> None:
        """Posts a trial for the next idle group. Posting it again changes nothing, unless it was lost."""
        self._state.post(trial_id, spec, target)
        await self._announce()

    async def progress(self, trial_id: str, known: int, target: int) -> Progress | Reply:
        """The trial's epochs after epoch `known`, once there are any or the trial has ended.

        Args:
            known: the last epoch that the caller has; 0 for none.
            target: the epoch up to which the trial may train without asking.

        Returns:
            The progress; ASK_AGAIN when there is none yet, RESTART when the trial must be posted again.
        """
        work = self._state.trials.get(trial_id)
        if work is None:
            return Reply.RESTART
        if target > work.target:
            work.target = target
            await self._announce()
        await self._wait(lambda: work.history.last > known or self._state.settle(work))
        if not self._state.settle(work) and work.history.last <= known:
            return Reply.ASK_AGAIN
        return Progress(work.history.after(known), work.outcome, work.failure, work.started_at)

    async def save(self, trial_id: str, epoch: int) -> str | Failure | Reply:
        """Has the workers, which wait after this epoch, write a checkpoint of it.

        Returns:
            The key of the trial's checkpoints once it is written; why it was not; ASK_AGAIN; RESTART when the trial
            must be posted again; END when the search is over.
        """
        work = self._state.trials.get(trial_id)
        if work is None:
            return Reply.RESTART
        work.save_wanted = epoch
        await self._announce()
        await self._wait(lambda: work.saved >= epoch or self._state.settle(work))
        if work.saved >= epoch:
            return work.key
        if not self._state.settle(work):
            return Reply.ASK_AGAIN
        return work.failure or Reply.END

    async def key(self, trial_id: str) -> str:
        """The name of the trial's checkpoints."""
        return self._state.keys.get(trial_id, trial_id)

    async def end(self, trial_id: str) -> None:
        """The search is done with the trial, or has paused it; its group leaves it at the end of the epoch."""
        self._state.withdraw(trial_id)
        await self._announce()

    # -- the workers' questions --------------------------------------------------------------------------------------

    async def next_assignment(self, worker: WorkerId, after: int, actor: bytes | None = None) -> Assignment | Reply:
        """What the group is to train now.

        Args:
            after: number of the last assignment this process has finished; -1 when it has finished none.
            actor: Ray's handle of the process that asks, pickled.

        Returns:
            An assignment with a higher number, END when the search is over, ASK_AGAIN or RESTART.
        """
        known = self._state.groups.get(worker.group)
        if after != -1 and known is None:
            return Reply.RESTART
        if known is not None and known.generation != worker.generation:
            await self._wait(lambda: not known.examined)
        group = self._state.arrive(worker)
        if actor is not None:
            group.actors[worker.rank] = actor
        await self._announce()
        await self._wait(lambda: self._state.next_for(group, worker, after))
        found = self._state.next_for(group, worker, after)
        if isinstance(found, PostedTrial):
            return self._state.begin(group, found)
        if found is Reply.RESTART:
            self._state.take_back(group)
        return found or Reply.ASK_AGAIN

    async def epoch_done(
        self, worker: WorkerId, number: int, epoch: int, records: list[dict[str, float]] | None, saved: bool = False
    ) -> Reply:
        """A rank has finished an epoch. Every rank gets the same answer for the same epoch, but for SAVE.

        Args:
            records: the epochs' metrics not sent before, from rank 0; None from the others. Known ones are dropped.
            saved: whether rank 0 has written a checkpoint of this epoch.
        """
        group = self._state.groups.get(worker.group)
        if group is None:
            return Reply.RESTART
        work = group.work
        if work is None or work.number != number:
            return Reply.END
        if records is not None:
            self._state.add_records(work, group, epoch, records)
        if saved:
            work.saved = epoch
        if records is not None or saved:
            await self._announce()
        await self._wait(lambda: self._state.reply_after(group, work, worker.rank, epoch))
        reply = self._state.reply_after(group, work, worker.rank, epoch)
        if reply is Reply.CONTINUE:
            work.granted = max(work.granted, epoch)
        elif group.work is work and reply is Reply.RESTART:
            self._state.take_back(group)
            await self._announce()
        elif group.work is work and reply is Reply.END:
            self._state.release(group)
            await self._announce()
        return reply or Reply.ASK_AGAIN

    async def must_leave(self, worker: WorkerId) -> bool:
        """Whether a node of the group is about to be taken away: the trial is to be saved at once.

        Answered when it is so, or after POLL_SECONDS. A group that leaves for other workers finishes its epoch.
        """
        group = self._state.alive(worker)
        if group is None:
            return False
        await self._wait(lambda: self._state.closed or group.node_goes)
        return group.node_goes and not self._state.closed

    async def left(self, worker: WorkerId, number: int) -> None:
        """The group has saved its trial in the middle of an epoch and is about to raise: it continues elsewhere."""
        group = self._state.alive(worker)
        if group is not None and group.work is not None and group.work.number == number:
            self._state.take_back(group)
            await self._announce()

    async def peer_lost(self, worker: WorkerId, number: int, error: str) -> None:
        """A collective of a rank broke: another rank is gone, or raised. The group is about to be replaced.

        Not a failure of the trial in itself; it costs the trial one of its attempts. Where another rank raised, that
        rank's report fails the trial.
        """
        if (group := self._state.alive(worker)) is not None:
            group.dying = True
            if group.work is not None and group.work.number == number:
                group.work.last_loss = error

    async def trial_failed(self, worker: WorkerId, number: int, failure: Failure, restarts: bool) -> None:
        """A rank's trial raised. The first report counts: the errors of other ranks mostly follow from it.

        Args:
            restarts: whether the group will be replaced, because other ranks may wait in a collective forever.
        """
        if (group := self._state.alive(worker)) is not None:
            group.dying = group.dying or restarts
            group.failure_reported = True
            if group.work is not None and group.work.number == number:
                if restarts and group.on_trial:
                    self._state.take_back(group)  # more workers may be why: it is tried again with fewer
                else:
                    self._state.fail(group, failure)
            await self._announce()

    # -- the driver's questions --------------------------------------------------------------------------------------

    async def resume(self, trial_id: str, key: str) -> None:
        """The trial that will be posted under this id resumes from the checkpoints of `key`."""
        self._state.keys[trial_id] = key

    async def expect(self, num_groups: int) -> None:
        """Sets the number of groups: nodes were added."""
        self._state.num_groups = num_groups

    async def nodes_changed(self, gone: set[str], draining: set[str]) -> None:
        """Nodes have died, or are about to be taken away. Trials on them continue in the next group that is idle.

        Args:
            gone: ids of nodes that are not there any more.
            draining: of nodes that soon will not be: their trials are saved at once, and then move.
        """
        self._state.nodes_changed(gone, draining)
        await self._announce()

    async def widen(self, sizes: dict[str, int]) -> list[str]:
        """The trials with these keys get so many workers after the epoch, and the idle groups end.

        Returns:
            The keys of those that get them.
        """
        keys = self._sizes.widen(sizes)
        await self._announce()
        return keys

    async def make_room(self, sizes: dict[str, int]) -> list[str]:
        """The trials with these keys get so many workers after the epoch, fewer than now, for a trial that waits.

        Returns:
            The keys of those that give some back; see `GroupSizes.make_room`.
        """
        keys = self._sizes.make_room(sizes)
        await self._announce()
        return keys

    async def narrow(self, size: int) -> list[int]:
        """Groups that have lost their workers come up again with no more than `size`: nodes were lost.

        Returns:
            The indices of those that would have had more.
        """
        return self._sizes.narrow(size)

    async def workers_of_trials(self) -> dict[str, int]:
        """How many workers each trial has that a group trains, by its key."""
        return self._sizes.of_trials()

    async def workers_for_start(self, group_index: int) -> int:
        """How many workers the group is to be started with now. Asked by its Ray Train controller, once a start."""
        size = self._sizes.for_start(group_index)
        await self._announce()  # a trial that it could not train may be another's now
        return size

    async def controller_lost(self, group_index: int) -> bool:
        """Ray Train's controller of the group has died, and its workers with it: the group starts again.

        Returns:
            Whether all workers of the group had been there since its last start.
        """
        had_come_up = self._state.controller_lost(group_index)
        await self._announce()
        return had_come_up

    async def workers_lost(self, group_index: int, losses: dict[int, str]) -> None:
        """Processes of the group are gone, and Ray Train is about to replace them all. How they ended is told then.

        Args:
            losses: what Ray says of each, by rank. Empty where all that Ray Train has seen so far is the broken
                collective of another rank: on a busy machine the news of a lost process comes after it.
        """
        group = self._state.groups.get(group_index)
        if group is None or (not losses and group.failure_reported):
            return
        group.examined = True
        try:
            losses = losses or await losses_among(group.actors)
            endings = [await ending_of(group.present.get(rank), text) for rank, text in sorted(losses.items())]
            self._state.note_endings(group, dict(zip(sorted(losses), endings, strict=True)))
        finally:
            group.examined = False
            await self._announce()

    async def group_lost(self, group_index: int, failure: Failure) -> None:
        """The group cannot be started or kept alive; no further trial is given to it."""
        self._state.lose(group_index, failure)
        await self._announce()

    async def close(self) -> None:
        """Ends every trial and every worker's loop."""
        self._state.closed = True
        await self._announce()

    async def events(self, known: int) -> list[str] | None:
        """Lines worth telling the user, after the first `known`; None when the search is over."""
        await self._wait(lambda: len(self._state.events) > known or self._state.closed)
        return None if self._state.closed else self._state.events[known:]

    async def usage(self) -> dict[int, dict[str, float]]:
        """Per group: `ready_at` (seconds since 1970, absent before) and `busy_seconds` with a trial."""
        return self._state.usage()

    # -- inside ------------------------------------------------------------------------------------------------------

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
