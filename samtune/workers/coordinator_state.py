"""What is known of trials and worker groups, and the rules by which it changes. Nothing here waits.

The coordinator asks it, and waits until an answer is there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from samtune.config.trial import TrialSpec
from samtune.formatting import counted
from samtune.study import EpochLog, EpochRecord
from samtune.workers.protocol import Assignment, Failure, Outcome, Reply, WorkerId


@dataclass
class PostedTrial:
    """A trial that was posted."""

    trial_id: str
    key: str
    spec: TrialSpec
    target: int  # the workers may train up to this epoch before they must wait
    handed_out: bool = False
    number: int = -1  # of this handing out: what a group gets later has a higher one
    attempt: int = 0  # how often a group began it
    started_at: float | None = None
    last_loss: str = ""
    granted: int = 0  # after this epoch the workers were told to continue
    save_wanted: int = 0  # a checkpoint of this epoch is asked for
    saved: int = 0  # the last epoch with a checkpoint that was asked for
    history: EpochLog = field(default_factory=EpochLog)
    outcome: Outcome | None = None
    failure: Failure | None = None

    @property
    def runs_freely(self) -> bool:
        """Whether the workers train to the last epoch without asking."""
        return self.target >= self.spec.num_epochs


@dataclass
class WorkerGroup:
    """A worker group. `generation` names one start of all its processes; Ray Train replaces them together."""

    index: int
    num_workers: int  # of this generation, or of the one that is being started
    wanted: int  # workers of the next start
    least: int  # workers with which it certainly trains: the fewest so far
    on_trial: bool = False  # started with more than these, and has not finished an epoch with them
    retired: bool = False  # not needed any more: its processes end, and others have their places
    generation: str = ""
    present: dict[int, WorkerId] = field(default_factory=dict)  # ranks that have asked in this generation
    actors: dict[int, bytes] = field(default_factory=dict)  # Ray's handles of their processes, pickled
    nodes: set[str] = field(default_factory=set)  # that they run on
    leaving: bool = False  # after its epoch the trial is saved, and continues in the next group that is idle
    node_goes: bool = False  # a node is about to be taken away: it leaves in the middle of the epoch
    dying: bool = False  # a rank raised: the processes of this generation will be replaced, and get nothing any more
    failure_reported: bool = False
    examined: bool = False  # processes of this generation are gone; how they ended is being found out
    endings: str = ""  # how they ended
    work: PostedTrial | None = None
    lost: bool = False
    ready_at: float | None = None
    ready_with: int = 0  # workers, when all of them were there for the last time
    retired_at: float | None = None
    busy_since: float | None = None
    busy_seconds: float = 0.0

    @property
    def is_up(self) -> bool:
        """Whether all workers of its generation are there, and none of them is about to be replaced."""
        return len(self.present) == self.num_workers and not self.dying


class CoordinatorState:
    """Trials, groups, and which group has which trial.

    Args:
        num_workers, num_groups: ranks of each group when it first starts, and groups.
        max_failures: how often a trial may lose its group before it fails.

    Attributes:
        trials: by id, the oldest first; `keys` the names of checkpoints that differ from the trial's id.
        events: lines worth telling the user.
    """

    def __init__(self, num_workers: int, num_groups: int, max_failures: int) -> None:
        self.num_workers, self.num_groups, self.max_failures = num_workers, num_groups, max_failures
        self.trials: dict[str, PostedTrial] = {}
        self.keys: dict[str, str] = {}
        self.groups: dict[int, WorkerGroup] = {}
        self.events: list[str] = []
        self.closed = False
        self._first_loss: Failure | None = None
        self._last_number = time.time_ns()  # numbers rise over a restart of the coordinator

    # -- trials ------------------------------------------------------------------------------------------------------

    def post(self, trial_id: str, spec: TrialSpec, target: int) -> None:
        """A trial for the next idle group. Posted again, it stays as it is."""
        if trial_id not in self.trials:
            key = self.keys.get(trial_id, trial_id)
            self.trials[trial_id] = PostedTrial(trial_id, key, spec, target)
            self._hand_out()

    def withdraw(self, trial_id: str) -> None:
        """The search is done with the trial, or has paused it."""
        work = self.trials.pop(trial_id, None)
        if work is not None and work.outcome is None:
            work.outcome = Outcome.STOPPED

    def settle(self, work: PostedTrial) -> bool:
        """Whether the trial is over; so is one that nobody will train any more."""
        if work.outcome is None and self.closed:
            work.outcome = Outcome.STOPPED
        elif work.outcome is None and sum(g.lost or g.retired for g in self.groups.values()) >= self.num_groups:
            work.outcome, work.failure = Outcome.FAILED, self._first_loss
        return work.outcome is not None

    def add_records(self, work: PostedTrial, group: WorkerGroup, epoch: int, records: list[dict[str, float]]) -> None:
        """The metrics of epochs up to this one. Those known already, of epochs that were repeated, are dropped."""
        if len(records) > 1 and not work.runs_freely:
            # The first question after a restore. The rank that wrote the checkpoint may have died before its report.
            work.saved = max(work.saved, epoch - 1)
        group.on_trial, group.least = False, min(group.least, group.num_workers)
        if work.outcome is None:
            for metrics in records:
                work.history.append(EpochRecord(metrics, group.index, time.time()))
            if epoch >= work.spec.num_epochs:
                work.outcome = Outcome.COMPLETED

    def fail(self, group: WorkerGroup, failure: Failure) -> None:
        """The group's trial has failed, if it has not ended before, and the group is free."""
        if (work := group.work) is not None:
            if work.outcome is None:
                work.outcome, work.failure = Outcome.FAILED, failure
            self.release(group)

    # -- answers to workers ------------------------------------------------------------------------------------------

    def next_for(self, group: WorkerGroup, worker: WorkerId, after: int) -> PostedTrial | Reply | None:
        """What a process that has finished assignment `after` is to do; None while it must wait."""
        if self.closed or group.retired:
            return Reply.END
        if worker.generation != group.generation:
            return None  # it will be replaced
        if group.work is None:
            return Reply.RESTART if group.leaving else None
        return group.work if group.work.number > after and not group.dying else None

    def begin(self, group: WorkerGroup, work: PostedTrial) -> Assignment:
        """A rank of the group takes up its trial."""
        if work.attempt == 0:
            work.attempt, work.started_at = 1, time.time()
        if group.busy_since is None:
            group.busy_since = time.time()
        return Assignment(work.number, work.trial_id, work.key, work.spec, work.attempt, work.runs_freely)

    def reply_after(self, group: WorkerGroup, work: PostedTrial, rank: int, epoch: int) -> Reply | None:
        """The answer to a rank that has finished an epoch; None while it must wait.

        Every rank hears the same after the same epoch, but for SAVE: what one was granted the others are granted.
        """
        if epoch >= work.spec.num_epochs:  # told from its record alone, which rank 0 brings
            return Reply.END if work.outcome or self.closed else None
        leaves = group.leaving and work.granted < epoch
        unsaved = work.saved < epoch
        if work.outcome is None and rank == 0 and unsaved and (work.save_wanted == epoch or leaves):
            return Reply.SAVE
        if work.granted >= epoch:
            return Reply.CONTINUE
        if work.outcome is not None or self.closed:
            return Reply.END
        if group.work is not work:
            return Reply.RESTART  # it was taken back when another rank heard that the group leaves
        if leaves:
            return None if unsaved else Reply.RESTART
        return Reply.CONTINUE if work.target > epoch else None

    # -- groups ------------------------------------------------------------------------------------------------------

    def arrive(self, worker: WorkerId) -> WorkerGroup:
        """A worker asks. A generation not seen before means that the whole group was started, or replaced."""
        group = self.group(worker.group)
        if worker.generation != group.generation:
            if group.generation:
                if not group.failure_reported:
                    reason = f": {group.endings}" if group.endings else ""
                    self.events.append(f"group {group.index} lost a worker and was restarted{reason}")
                self._note_lost_attempt(group)
            group.generation, group.present, group.actors, group.nodes = worker.generation, {}, {}, set()
            group.endings = ""
            group.dying = group.failure_reported = group.leaving = group.node_goes = False
        group.present[worker.rank] = worker
        group.nodes.add(worker.node)
        if group.ready_with != group.num_workers == len(group.present) and not group.retired:
            group.ready_at, group.ready_with = group.ready_at or time.time(), group.num_workers
            self.events.append(f"group {group.index} is ready ({counted(group.num_workers, 'worker')})")
        self._hand_out()
        return group

    def alive(self, worker: WorkerId) -> WorkerGroup | None:
        """The group in whose present generation the process is."""
        group = self.groups.get(worker.group)
        return group if group is not None and group.generation == worker.generation else None

    def note_endings(self, group: WorkerGroup, endings: dict[int, str]) -> None:
        """How processes of the group ended, by rank. It says more than the broken collective of another rank."""
        group.endings = "; ".join(f"worker {rank} {how}" for rank, how in endings.items())
        if group.work is not None:
            group.work.last_loss = group.endings

    def lose(self, index: int, failure: Failure) -> None:
        """A group cannot be started or kept alive; no further trial is given to it."""
        group = self.group(index)
        group.lost = True
        self._first_loss = self._first_loss or failure
        self.events.append(f"group {index} is lost: {failure.error}")
        self.fail(group, failure)

    def controller_lost(self, index: int) -> bool:
        """The group's processes are gone and will be started again. Returns whether all of them had been there."""
        group = self.group(index)
        had_come_up = len(group.present) == group.num_workers
        group.failure_reported, group.present = True, {}
        self.events.append(f"group {index} lost its Ray Train controller and is restarted")
        self._note_lost_attempt(group)
        self.take_back(group)
        return had_come_up

    def nodes_changed(self, gone: set[str], draining: set[str]) -> None:
        """Nodes have died, or are about to be taken away. Trials on them continue in the next group that is idle."""
        for group in self.groups.values():
            if group.nodes & gone:
                group.failure_reported = True
                self.events.append(f"group {group.index} lost its node; it restarts where there is room")
                self._note_lost_attempt(group)
                self.take_back(group)
            elif group.nodes & draining and not group.node_goes:
                group.leaving = group.node_goes = group.failure_reported = True
                self.events.append(f"group {group.index} leaves its node, which is about to be taken away")

    def take_back(self, group: WorkerGroup) -> None:
        """The trial waits for the next idle group; this one gets nothing until it has restarted."""
        group.dying, group.nodes = True, set()
        if (work := group.work) is not None:
            work.handed_out = False
            self.release(group)

    def release(self, group: WorkerGroup) -> None:
        """The group has left its trial and is free for the next.

        Where it was to restart with other workers after the epoch, and the trial has ended first, it stays as it is.
        """
        if group.leaving and not (group.dying or group.node_goes):
            group.leaving, group.failure_reported, group.wanted = False, False, group.num_workers
        if group.busy_since is not None:
            group.busy_seconds += time.time() - group.busy_since
        group.work = group.busy_since = None
        self._hand_out()

    def usage(self) -> dict[int, dict[str, float]]:
        """Per group: `ready_at`, `retired_at` (seconds since 1970, absent before) and `busy_seconds` with a trial."""
        now = time.time()
        return {
            index: {
                **({"ready_at": group.ready_at} if group.ready_at else {}),
                **({"retired_at": group.retired_at} if group.retired_at else {}),
                "busy_seconds": group.busy_seconds + (now - group.busy_since if group.busy_since else 0.0),
            }
            for index, group in self.groups.items()
        }

    # -- inside ------------------------------------------------------------------------------------------------------

    def group(self, index: int) -> WorkerGroup:
        """A group, which is made where nothing is known of it yet."""
        first = self.num_workers
        return self.groups.setdefault(index, WorkerGroup(index, num_workers=first, wanted=first, least=first))

    def _note_lost_attempt(self, group: WorkerGroup) -> None:
        """The trial that the group had begun continues on its new workers, unless it is over or lost too many."""
        work = group.work
        if work is None or work.attempt == 0:
            return
        if work.outcome is None and work.attempt <= self.max_failures:
            work.attempt += 1
            return
        reason = f"; the last time: {work.last_loss}" if work.last_loss else ""
        text = f"lost its workers {work.attempt} times (max_failures is {self.max_failures})"
        self.fail(group, Failure(text + reason))

    def _hand_out(self) -> None:
        """Gives waiting trials, the oldest first, to idle groups."""
        waiting = (work for work in self.trials.values() if not work.handed_out and work.outcome is None)
        for group in self.groups.values():
            if group.work is None and not (group.lost or group.dying or group.leaving or group.retired):
                work = next(waiting, None)
                if work is None:
                    return
                self._last_number += 1
                work.number, work.handed_out = self._last_number, True
                group.work = work
