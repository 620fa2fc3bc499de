"""What Ray knows of a worker process that is gone, told before Ray Train replaces its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.train import UserCallback


class WorkerLossCallback(UserCallback):
    """Runs in Ray Train's controller, which sees which workers' processes have ended.

    Args:
        tell: called with what Ray says of each lost process, by rank; with nothing where a rank has raised and no
            process is known to be gone yet. It must not wait.
    """

    def __init__(self, tell: Callable[[dict[int, str]], None]) -> None:
        self._tell = tell

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Of Ray Train's: some workers have raised, or are gone."""
        self._tell({rank: text for rank, error in worker_exceptions.items() if (text := loss_of(error)) is not None})


def loss_of(error: Exception) -> str | None:
    """What Ray says of a process that is gone; None where the process has raised."""
    cause = getattr(error, "health_check_failure", error)
    gone = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    return str(cause) if isinstance(cause, gone) else None
