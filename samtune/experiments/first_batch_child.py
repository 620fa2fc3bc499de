"""Run as a script by `samtune.experiments.first_batch`: sends one batch through the trials it is given on stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def main(root: str, cpu_seconds: str, seconds: str) -> None:
    """Writes one JSON object to stdout: what went wrong, if anything did.

    Args:
        root: the folder that samtune is in.
        cpu_seconds, seconds: of work and of time, after which this process is of no use to anybody.
    """
    signal.setitimer(signal.ITIMER_PROF, float(cpu_seconds))  # its signal ends the process
    signal.alarm(int(seconds))
    sys.path.append(root)  # it may not be installed
    from samtune.experiments.child_request import answer_stream, unpack

    answer = answer_stream()
    json.dump(_answer(**unpack(sys.stdin.buffer.read())), answer)
    answer.flush()
    os._exit(0)  # processes that read examples, and threads of the user's, are not waited for


def _answer(specs: list[Any], num_workers: int, device: str, threads: int) -> dict[str, Any]:
    import torch

    from samtune.experiments.child_request import become_a_worker
    from samtune.train.first_batch import FirstBatchError, try_first_batch

    become_a_worker(threads)
    for spec in specs:
        try:
            try_first_batch(spec, num_workers, torch.device(device))
        except FirstBatchError as error:
            return {"line": str(error), "traceback": error.traceback, "certain": error.certain}
    return {"line": None}


if __name__ == "__main__":
    main(*sys.argv[1:])
