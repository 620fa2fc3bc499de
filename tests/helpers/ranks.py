"""Real gloo ranks on this machine: four processes that live as long as the test session and form any smaller group."""

from __future__ import annotations

import atexit
import datetime
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

MAX_RANKS = 4
_TIMEOUT_SECONDS = 120

_processes: list[Any] = []
_pipes: list[Connection] = []


def run_ranks(num_ranks: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """`function(rank, num_ranks, *args, **kwargs)` on every rank of a new process group; results in rank order.

    The function lives at the top of a test module. Its results are sent back: plain values and tensors.
    """
    assert 1 <= num_ranks <= MAX_RANKS
    if not _processes:
        _start()
    with tempfile.TemporaryDirectory() as folder:
        for rank, pipe in enumerate(_pipes[:num_ranks]):
            pipe.send((function, args, kwargs, rank, num_ranks, os.path.join(folder, "store")))
        answers = [pipe.recv() if pipe.poll(_TIMEOUT_SECONDS) else (False, "no answer") for pipe in _pipes[:num_ranks]]
    failed = [answer for ok, answer in answers if not ok]
    if failed:
        _stop()  # the others may be stuck in a collective
        raise AssertionError("\n".join(failed))
    return [answer for _, answer in answers]


def _start() -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(MAX_RANKS):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        _processes.append(process)
        _pipes.append(ours)


def _stop() -> None:
    for process in _processes:
        process.kill()
        process.join()
    _processes.clear()
    _pipes.clear()


atexit.register(_stop)


def _serve(pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            function, args, kwargs, rank, num_ranks, path = pipe.recv()
        except EOFError:
            return
        try:
            dist.init_process_group(
                "gloo",
                store=dist.FileStore(path, num_ranks),
                rank=rank,
                world_size=num_ranks,
                timeout=datetime.timedelta(seconds=_TIMEOUT_SECONDS / 2),
            )
            dist.barrier()  # one that is done must not leave while another is still connecting to it
            answer = (True, function(rank, num_ranks, *args, **kwargs))
            dist.destroy_process_group()
        except BaseException:
            answer = (False, f"rank {rank}:\n{traceback.format_exc()}")
        pipe.send(answer)
