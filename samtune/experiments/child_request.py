"""A process beside a study that builds trials: what it is sent, the user's own parts among it, and how it starts."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from samtune.config.trial import TrialSpec, flatten
from samtune.user_code import accept_functions, given_functions
from samtune.user_path import add_user_folders, importing_user_code, user_folders

ROOT = Path(__file__).parents[2]
"""The folder that samtune is in, which need not be installed."""


def pack(specs: Sequence[TrialSpec], **settings: Any) -> bytes:
    """Trials and settings of the process's own, as `unpack` takes them.

    Raises:
        Exception: a part of the user's cannot be pickled.
    """
    parts = given_functions([value for spec in specs for value in flatten(spec.model_dump()).values()])
    if parts:
        from ray import cloudpickle
    return pickle.dumps(
        {
            "folders": user_folders(),
            "parts": cloudpickle.dumps(parts) if parts else None,
            "trials": pickle.dumps({"specs": list(specs), **settings}),
        }
    )


def answer_stream() -> TextIO:
    """In the process: its stdout, which is its answer's alone from here on.

    What the user's code prints goes nowhere: it prints it again on the workers.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return stream


def become_a_worker(threads: int) -> None:
    """In the process: torch has so many threads, and a process group of this process alone, as a worker has one."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def unpack(request: bytes) -> dict[str, Any]:
    """In the process: the settings, and the trials as `specs`, whose parts of the user's can be resolved now."""
    content = pickle.loads(request)
    add_user_folders(content["folders"])
    if content["parts"] is not None:
        with importing_user_code():  # to unpickle them
            accept_functions(pickle.loads(content["parts"]))
    trials: dict[str, Any] = pickle.loads(content["trials"])
    return trials
