"""What every worker of a group runs, from the group's start to the search's end: ask, train, report, ask again."""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass
from typing import Any

from samtune.workers.mailbox import Assignment, Failure, Reply


@dataclass(frozen=True)
class LoopConfig:
    """Handed to every worker of a group.

    Attributes:
        mailbox: the mailbox's actor handle.
        group: index of this group.
        threads: CPU threads that torch may use in each worker.
    """

    mailbox: Any
    group: int
    threads: int


def worker_loop(config: dict[str, LoopConfig]) -> None:
    """The train function of a group's `TorchTrainer`. Imports stay inside: the Train controller loads this module."""
    import ray
    import ray.train
    import torch

    from samtune.train.trial import TrialRun

    loop = config["loop"]
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(loop.threads)
    device = ray.train.torch.get_device() if torch.cuda.is_available() else torch.device("cpu")

    finished = -1
    while True:
        answer = ray.get(loop.mailbox.next_assignment.remote(loop.group, rank, finished))
        if answer is Reply.END:
            return
        if isinstance(answer, Assignment):
            try:
                _train(TrialRun(answer.spec, rank=rank, num_workers=num_workers, device=device), answer, loop, rank)
            except Exception as error:
                _report(error, answer, loop, num_workers)
            finished = answer.number
            gc.collect()  # a trial's graph holds cycles; its memory must be free before the next


def _train(run: Any, assignment: Assignment, loop: LoopConfig, rank: int) -> None:
    import ray

    for epoch in range(1, assignment.spec.training.epochs + 1):
        record = run.train_epoch(epoch)
        answer = Reply.ASK_AGAIN
        while answer is Reply.ASK_AGAIN:
            question = loop.mailbox.epoch_done.remote(
                loop.group, assignment.number, epoch, record if rank == 0 else None
            )
            answer = ray.get(question)
        if answer is Reply.END:
            return


def _report(error: Exception, assignment: Assignment, loop: LoopConfig, num_workers: int) -> None:
    """Fails the trial. Unless every rank raises the same, the others may wait in a collective: the group restarts."""
    import ray

    from samtune.train.trial import DivergedError

    restarts = num_workers > 1 and not isinstance(error, DivergedError)
    line = " ".join(f"{type(error).__name__}: {error}".split())
    text = "" if isinstance(error, DivergedError) else "".join(traceback.format_exception(error))
    failure = Failure(str(error) if isinstance(error, DivergedError) else line[:500], text)
    ray.get(loop.mailbox.trial_failed.remote(loop.group, assignment.number, failure, restarts))
    if restarts:
        raise error
