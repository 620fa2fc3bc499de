"""What every worker of a group runs, from the group's start to the search's end: ask, train, report, ask again."""

from __future__ import annotations

import gc
import time
import traceback
from dataclasses import dataclass
from typing import Any

from samtune.spec.search import CheckpointConfig
from samtune.storage import join
from samtune.workers.mailbox import Assignment, Failure, Reply


@dataclass(frozen=True)
class LoopConfig:
    """Handed to every worker of a group.

    Attributes:
        mailbox: the mailbox's actor handle.
        group: index of this group.
        threads: CPU threads that torch may use in each worker.
        checkpoint_root: folder of all trials' checkpoints, a path or URI that every worker reaches.
        checkpoint: when to save.
    """

    mailbox: Any
    group: int
    threads: int
    checkpoint_root: str
    checkpoint: CheckpointConfig


def worker_loop(config: dict[str, LoopConfig]) -> None:
    """The train function of a group's `GroupTrainer`: trains what the mailbox says until the search is over."""
    import ray

    loop = config["loop"]
    try:
        worker = _start(loop)
    except Exception as error:  # would fail again and again: the group ends in order instead
        ray.get(loop.mailbox.group_lost.remote(loop.group, _failure(error)))
        return
    finished = -1
    while True:
        answer = ray.get(loop.mailbox.next_assignment.remote(loop.group, worker.rank, finished))
        if answer is Reply.END:
            return
        if isinstance(answer, Assignment):
            _run(answer, loop, worker)
            finished = answer.number


@dataclass(frozen=True)
class _Worker:
    rank: int
    num_workers: int
    device: Any


def _start(loop: LoopConfig) -> _Worker:
    """Imports what training needs (here, since the Train controller loads this module too) and finds its place."""
    import ray.train.torch
    import torch

    import samtune.train.trial  # noqa: F401  # paid for here, once

    torch.set_num_threads(loop.threads)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return _Worker(context.get_world_rank(), context.get_world_size(), device)


def _run(assignment: Assignment, loop: LoopConfig, worker: _Worker) -> None:
    """Trains one trial; its errors fail the trial, not the group, unless other ranks may be waiting for this one."""
    import ray

    from samtune.train.trial import DivergedError, TrialRun

    try:
        run = TrialRun(assignment.spec, rank=worker.rank, num_workers=worker.num_workers, device=worker.device)
        _train(run, assignment, loop, worker.rank)
    except DivergedError as error:  # seen by all ranks alike: the group goes on
        ray.get(loop.mailbox.trial_failed.remote(loop.group, assignment.number, Failure(str(error)), False))
    except Exception as error:
        if _is_about_a_peer(error):
            ray.get(loop.mailbox.peer_lost.remote(loop.group, assignment.number, _failure(error).error))
            raise
        # The other ranks may wait in a collective for ever: raising makes Ray Train replace them all.
        alone = worker.num_workers == 1
        ray.get(loop.mailbox.trial_failed.remote(loop.group, assignment.number, _failure(error), not alone))
        if not alone:
            raise
    finally:
        gc.collect()  # a trial's graph holds cycles; its memory must be free before the next


def _is_about_a_peer(error: Exception) -> bool:
    """Whether a collective broke because another rank left it. Gloo raises plain RuntimeErrors that name its source."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _failure(error: Exception) -> Failure:
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return Failure(line[:500], "".join(traceback.format_exception(error)))


def _train(run: Any, assignment: Assignment, loop: LoopConfig, rank: int) -> None:
    """Trains epoch by epoch from the newest checkpoint on, until the mailbox says that it is enough."""
    import ray

    from samtune.train.checkpoint import CheckpointFolder

    checkpoints = CheckpointFolder(join(loop.checkpoint_root, assignment.key))
    run.restore(checkpoints)
    last, saved_at, num_sent = assignment.spec.training.epochs, time.monotonic(), 0
    for epoch in range(len(run.history) + 1, last + 1):
        run.train_epoch(epoch)
        due = epoch % loop.checkpoint.every_epochs == 0 and time.monotonic() - saved_at >= loop.checkpoint.min_seconds
        if rank == 0 and due and epoch < last:
            run.save(checkpoints)
            saved_at = time.monotonic()
        # At first with those before a restore: the search may have died before it heard of them.
        records, num_sent = (run.history[num_sent:] if rank == 0 else None), len(run.history)
        answer = Reply.ASK_AGAIN
        while answer is Reply.ASK_AGAIN:
            answer = ray.get(loop.mailbox.epoch_done.remote(loop.group, assignment.number, epoch, records))
            records = None
        if answer is Reply.END:
            return
