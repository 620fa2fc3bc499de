"""What every worker of a group runs, from the group's start to the search's end: ask, train, report, ask again."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from samtune.config.search import CheckpointConfig
from samtune.config.trial import LABEL_NOISE
from samtune.errors import one_line, safe_text
from samtune.raylib.environment import GROUP_GENERATION
from samtune.storage import join, parent
from samtune.user_code import accept_functions
from samtune.user_path import add_user_folders, importing_user_code
from samtune.workers.protocol import Assignment, Failure, Reply, WorkerId
from samtune.workers.torch_globals import TorchGlobals
from samtune.workers.trial_errors import failure_of, is_about_a_peer, ruins_the_device
from samtune.workers.worker_endings import end_process, error_file, kernel_kills, note_calls_of_exit


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
        parts: reference to the user's own functions (see `samtune.user_code`), by path.
        user_folders: of the driver, that the user's own modules are in (see `samtune.user_path`).
    """

    coordinator: Any
    group: int
    threads: int
    checkpoint_root: str
    checkpoint: CheckpointConfig
    timeout: float | None
    parts: Any = None
    user_folders: tuple[str, ...] = ()


class RestartGroupError(Exception):
    """The group must restart, perhaps elsewhere: Ray Train replaces the workers of one that raises."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Ends this process when its body takes longer: a rank that hangs holds the others in a collective forever.

    Ray Train then replaces all workers of the group, and the trial resumes from its last checkpoint.
    """
    if seconds is None:
        yield
        return
    words = f"ended itself, since an epoch took longer than {seconds:g} s (timeout): a worker of its group hangs"
    watchdog = threading.Timer(seconds, end_process, (words,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def worker_loop(config: dict[str, LoopConfig]) -> None:
    """The train function of a group's `GroupTrainer`: trains what the coordinator says until the search is over."""
    import ray

    loop = config["loop"]
    try:
        worker = _start(loop)
    except Exception as error:  # would fail again and again: the group ends in order instead
        ray.get(loop.coordinator.group_lost.remote(loop.group, failure_of(error)))
        return
    finished, settings = -1, TorchGlobals()
    while True:
        answer = ray.get(loop.coordinator.next_assignment.remote(worker.id, finished))
        if answer is Reply.END:
            return
        if answer is Reply.RESTART:
            raise RestartGroupError
        if isinstance(answer, Assignment):
            _run(answer, loop, worker)
            settings.restore()
            gc.collect()  # a trial's graph holds cycles; its memory must be free before the next
            if finished == -1:
                gc.freeze()  # all that is there now stays: going through torch's objects again costs 0.2 s a trial
            finished = answer.number


@dataclass(frozen=True)
class _Worker:
    id: WorkerId
    num_workers: int
    device: Any


def _start(loop: LoopConfig) -> _Worker:
    """Imports what training needs (here, since the Train controller loads this module too) and finds its worker."""
    import ray.train.torch
    import torch

    import samtune.train.repeats  # noqa: F401  # paid for here, once

    note_calls_of_exit()
    add_user_folders(loop.user_folders)
    if loop.parts is not None:
        with importing_user_code():  # to unpickle them
            accept_functions(ray.get(loop.parts))
    torch.set_num_threads(loop.threads)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    node = ray.get_runtime_context().get_node_id()
    generation = os.environ[GROUP_GENERATION]
    worker = WorkerId(loop.group, context.get_world_rank(), generation, node, error_file(), kernel_kills())
    return _Worker(worker, context.get_world_size(), device)


def _run(assignment: Assignment, loop: LoopConfig, worker: _Worker) -> None:
    """Trains one trial; its errors fail the trial, not the group, unless other ranks may be waiting for this one."""
    import ray

    from samtune.train.labels import keep_changed_labels
    from samtune.train.repeats import build_run
    from samtune.train.trial import DivergedError

    try:
        run = build_run(assignment.spec, rank=worker.id.rank, num_workers=worker.num_workers, device=worker.device)
        if worker.id.rank == 0:
            keep_changed_labels(run.dataset, assignment.spec, join(parent(loop.checkpoint_root), LABEL_NOISE))
        _train(run, assignment, loop, worker)
    except DivergedError as error:  # seen by all ranks alike: the group stays
        failure = Failure(safe_text(error), diverged=True)
        ray.get(loop.coordinator.trial_failed.remote(worker.id, assignment.number, failure, False))
    except RestartGroupError:
        raise
    except BaseException as error:  # sys.exit in a trial's code would end the worker without a word
        if is_about_a_peer(error):
            ray.get(loop.coordinator.peer_lost.remote(worker.id, assignment.number, failure_of(error).error))
            raise
        # The other ranks may wait in a collective forever: raising makes Ray Train replace them all.
        alone = worker.num_workers == 1 and not ruins_the_device(error)
        ray.get(loop.coordinator.trial_failed.remote(worker.id, assignment.number, failure_of(error), not alone))
        if not alone:
            raise RestartGroupError(one_line(error)) from None


def _train(run: Any, assignment: Assignment, loop: LoopConfig, worker: _Worker) -> None:
    """Trains epoch by epoch from the newest checkpoint on, until the coordinator says that it is enough."""
    import ray

    from samtune.train.checkpoint import CheckpointFolder

    rank = worker.id.rank
    checkpoints = CheckpointFolder(join(loop.checkpoint_root, assignment.key))
    run.restore(checkpoints)
    saver = _Saver(run, checkpoints, assignment, loop, worker)
    last, num_sent = assignment.spec.num_epochs, 0
    for epoch in range(len(run.history) + 1, last + 1):
        with deadline(loop.timeout):
            run.train_epoch(epoch, saver.after_step)
        if rank == 0 and epoch == last and assignment.spec.final:
            run.save_weights(join(parent(loop.checkpoint_root), "weights", f"{assignment.key}.safetensors"))
        saved = rank == 0 and epoch < last and saver.is_due(epoch)
        if saved:
            saver.save()
        # At first with those before a restore: the search may have died before it heard of them.
        records, num_sent = (run.history[num_sent:] if rank == 0 else None), len(run.history)
        answer = Reply.ASK_AGAIN
        while answer in (Reply.ASK_AGAIN, Reply.SAVE):
            if answer is Reply.SAVE:
                saver.save()
                saved = True
            question = loop.coordinator.epoch_done.remote(worker.id, assignment.number, epoch, records, saved)
            answer, records = ray.get(question), None
        if answer is Reply.RESTART:
            raise RestartGroupError
        if answer is Reply.END:
            return


class _Saver:
    """Decides when a trial is saved, and does it."""

    def __init__(self, run: Any, checkpoints: Any, assignment: Assignment, loop: LoopConfig, worker: _Worker) -> None:
        from samtune.train.checkpoint_consensus import CheckpointConsensus

        self._run, self._checkpoints, self._loop, self._worker = run, checkpoints, loop, worker
        self._number = assignment.number
        self._saved_at = time.monotonic()
        self._must_leave: Any = None  # the coordinator's answer, when it comes
        place = {"rank": worker.id.rank, "num_workers": worker.num_workers, "device": worker.device}
        self._agree = CheckpointConsensus(self._request, **place)

    def is_due(self, epoch: int) -> bool:
        """Whether a checkpoint is written after this epoch."""
        config = self._loop.checkpoint
        return epoch % config.every_epochs == 0 and time.monotonic() - self._saved_at >= config.min_seconds

    def save(self) -> None:
        """Saves now; in the middle of an epoch on all ranks together."""
        self._run.save(self._checkpoints)
        self._saved_at = time.monotonic()

    def after_step(self) -> None:
        """Saves in the middle of an epoch where it takes long, or where the group's node is about to be taken away."""
        import ray

        from samtune.train.checkpoint_consensus import Request

        request = self._agree()
        if request is Request.NOTHING:
            return
        self.save()
        if request is Request.LEAVE:
            ray.get(self._loop.coordinator.left.remote(self._worker.id, self._number))
            raise RestartGroupError

    def _request(self) -> Any:
        """Of the first rank. Never waits for the coordinator: its answer is seen the next time."""
        import ray

        from samtune.train.checkpoint_consensus import Request

        if self._must_leave is None:
            self._must_leave = self._loop.coordinator.must_leave.remote(self._worker.id)
        elif ray.wait([self._must_leave], timeout=0)[0]:
            answer, self._must_leave = ray.get(self._must_leave), None
            if answer:
                return Request.LEAVE
        minutes = self._loop.checkpoint.every_minutes
        if minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes:
            return Request.SAVE
        return Request.NOTHING
