"""What a worker does around the epochs of a trial: saves them, tells the coordinator, and asks whether to go on."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samtune.config.search import CheckpointConfig
from samtune.storage import join, parent, trial_weights
from samtune.workers.card_use import CardUse
from samtune.workers.protocol import Assignment, Reply, WorkerId
from samtune.workers.trial_output import write_output
from samtune.workers.worker_endings import end_process

if TYPE_CHECKING:
    from samtune.train.checkpoint import CheckpointFolder, Resumable
    from samtune.train.checkpoint_consensus import Request
    from samtune.train.session import Place


TELL_SECONDS = 1.0
"""How often one worker alone tells of epochs that nobody decides about: each message costs three processes 1 ms."""


@dataclass(frozen=True)
class LoopConfig:
    """Handed to every worker of a group.

    Attributes:
        coordinator: the coordinator's actor handle.
        group: index of this group.
        threads: CPU threads that torch may use in each worker.
        checkpoint_root: folder of all trials' checkpoints, a path or URI that every worker reaches.
        checkpoint: when to save.
        timeout: seconds that an epoch may take; None: any.
        metrics: what the study optimizes.
        parts: reference to the user's own functions (see `samtune.user_code`), by path.
        user_folders: of the driver, that the user's own modules are in (see `samtune.user_path`).
        gpu_share: of its card's memory that a worker may take.
        keeps_weights: whether the weights of a trial that no other command than a search trains are kept too.
    """

    coordinator: Any
    group: int
    threads: int
    checkpoint_root: str
    checkpoint: CheckpointConfig
    timeout: float | None
    metrics: tuple[str, ...] = ()
    parts: Any = None
    user_folders: tuple[str, ...] = ()
    gpu_share: float = 1.0
    keeps_weights: bool = False


class RestartGroupError(Exception):
    """The group must restart, perhaps elsewhere: Ray Train replaces the workers of one that raises."""


class LeaveQuestion:
    """Whether this worker's node is about to be taken away: one question at the coordinator, trial after trial.

    The coordinator keeps a question until it has an answer, or for ten seconds; one for each trial would pile up there.
    """

    def __init__(self, coordinator: Any, worker: WorkerId) -> None:
        self._coordinator, self._worker = coordinator, worker
        self._asked: Any = None

    def answer(self) -> bool:
        """What is known now. Never waits for the coordinator: its answer is seen the next time."""
        import ray

        if self._asked is None:
            self._asked = self._coordinator.must_leave.remote(self._worker)
        elif ray.wait([self._asked], timeout=0)[0]:
            answer, self._asked = bool(ray.get(self._asked)), None
            return answer
        return False


class TrialHost:
    """The `samtune.train.session.Host` of an assignment on one worker.

    Use it as a context: an epoch that takes longer than `loop.timeout` ends this process, since a rank that hangs holds
    the others in a collective forever. Ray Train then replaces all workers, and the trial resumes from its checkpoint.
    """

    def __init__(
        self, assignment: Assignment, loop: LoopConfig, worker: WorkerId, place: Place, leave: LeaveQuestion
    ) -> None:
        from samtune.train.checkpoint import CheckpointFolder
        from samtune.train.checkpoint_consensus import CheckpointConsensus

        self.checkpoints: CheckpointFolder = CheckpointFolder(join(loop.checkpoint_root, assignment.key))
        self.study_folder = parent(loop.checkpoint_root)
        keeps = loop.keeps_weights or assignment.spec.final
        self.weights = trial_weights(self.study_folder, assignment.key) if keeps else None
        self.metrics = loop.metrics
        self._loop, self._worker, self._assignment = loop, worker, assignment
        self._card = CardUse.of(place.device)
        self._saved_at = time.monotonic()
        self._num_sent, self._told_at = 0, time.monotonic()
        self._held: dict[int, dict[str, float]] = {}  # how the card was used, of epochs that were not told of yet
        self._untold: tuple[Resumable, int] | None = None  # the run, and its last epoch, which was not told of yet
        self._tells_of_each = place.num_workers > 1 or not assignment.runs_freely
        self._leave = leave
        self._watchdog: threading.Timer | None = None
        self._agree = CheckpointConsensus(
            self._request, rank=place.rank, num_workers=place.num_workers, device=place.device
        )

    def __enter__(self) -> TrialHost:
        self._card.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop_watchdog()
        self._card.__exit__(*error)
        with suppress(Exception):  # where the trial has failed, its own error is the one to tell
            self._catch_up()

    # -- the epochs --------------------------------------------------------------------------------------------------

    def epoch_begins(self) -> None:
        self._stop_watchdog()
        if self._loop.timeout is not None:
            seconds = f"{self._loop.timeout:g} s (timeout)"
            words = f"ended itself, since an epoch took longer than {seconds}: a worker of its group hangs"
            self._watchdog = threading.Timer(self._loop.timeout, end_process, (words,))
            self._watchdog.daemon = True
            self._watchdog.start()

    def epoch_ends(self, run: Resumable, epoch: int) -> bool:
        """Raises RestartGroupError where the coordinator does not know this group."""
        import ray

        self._stop_watchdog()
        rank = self._worker.rank
        is_last = epoch >= self._assignment.spec.num_epochs
        saved = rank == 0 and not is_last and self._is_due(epoch)
        if saved:
            self._save(run)
        elif not (is_last or self._tells_of_each) and time.monotonic() - self._told_at < TELL_SECONDS:
            self._untold, self._held[len(run.history) - 1] = (run, epoch), self._card.metrics()
            return True
        if is_last:
            write_output()  # whoever hears that the trial has ended may look
        records = self._new_records(run) if rank == 0 else None
        answer = Reply.ASK_AGAIN
        while answer in (Reply.ASK_AGAIN, Reply.SAVE):
            if answer is Reply.SAVE:
                self._save(run)
                saved = True
            answer, records = ray.get(self._told(epoch, records, saved=saved)), None
        if answer is Reply.RESTART:
            raise RestartGroupError
        return answer is not Reply.END

    def after_step(self, run: Resumable) -> None:
        """Saves in the middle of an epoch where it takes long, or where the group's node is about to be taken away."""
        import ray

        from samtune.train.checkpoint_consensus import Request

        if self._untold is not None and time.monotonic() - self._told_at >= TELL_SECONDS:
            self._catch_up()
        request = self._agree()
        if request is Request.NOTHING:
            return
        self._save(run)
        if request is Request.LEAVE:
            ray.get(self._loop.coordinator.left.remote(self._worker, self._assignment.number))
            raise RestartGroupError

    # -- internals ---------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Tells of the epochs that were not told of. What is answered does not matter: the next epoch's end asks."""
        import ray

        if self._untold is not None:
            run, epoch = self._untold
            ray.get(self._told(epoch, self._new_records(run), saved=False))

    def _told(self, epoch: int, records: list[dict[str, float]] | None, *, saved: bool) -> Any:
        """The coordinator's answer, when it comes, to the end of an epoch."""
        number = self._assignment.number
        return self._loop.coordinator.epoch_done.remote(self._worker, number, epoch, records, saved)

    def _new_records(self, run: Resumable) -> list[dict[str, float]]:
        """The epochs that the coordinator has not heard of, with how this worker's card was used; it hears of them now.

        At first with those before a restore: the search may have died before it heard of them. The use of the card is
        not in the history itself: that is the same on all ranks, and after every resume.
        """
        last = len(run.history) - 1
        if last >= self._num_sent:
            self._held.setdefault(last, self._card.metrics())
        found = enumerate(run.history[self._num_sent :], start=self._num_sent)
        records = [{**self._held.get(index, {}), **record} for index, record in found]
        self._num_sent, self._told_at, self._untold = len(run.history), time.monotonic(), None
        self._held.clear()
        return records

    def _is_due(self, epoch: int) -> bool:
        config = self._loop.checkpoint
        return epoch % config.every_epochs == 0 and time.monotonic() - self._saved_at >= config.min_seconds

    def _save(self, run: Resumable) -> None:
        """Saves now; in the middle of an epoch on all ranks together."""
        run.save(self.checkpoints)
        self._saved_at = time.monotonic()

    def _request(self) -> Request:
        """Of the first rank."""
        from samtune.train.checkpoint_consensus import Request

        if self._leave.answer():
            return Request.LEAVE
        minutes = self._loop.checkpoint.every_minutes
        if minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes:
            return Request.SAVE
        return Request.NOTHING

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
