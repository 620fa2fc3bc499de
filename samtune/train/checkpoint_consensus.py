"""The ranks agree, in the middle of an epoch, that it is time for a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum

import torch
import torch.distributed as dist

MAX_STEPS = 10_000


class Request(IntEnum):
    """What the first rank wants after a step."""

    NOTHING = 0
    SAVE = 1
    LEAVE = 2  # save, and continue elsewhere


class CheckpointConsensus:
    """Called after each step on every rank, returns the same on all of them: what the first rank requests.

    It is asked about every `interval` seconds, by a broadcast that also says after how many steps the next will be: so
    the ranks need no common clock, and a step costs what it costs without.

    Args:
        request: what the first rank wants; the other ranks are not asked.
        rank, num_workers, device: this worker's place.
        interval: seconds.
    """

    def __init__(
        self,
        request: Callable[[], Request],
        *,
        rank: int,
        num_workers: int,
        device: torch.device,
        interval: float = 2.0,
    ) -> None:
        self._request, self._rank, self._num_workers, self._device = request, rank, num_workers, device
        self._interval = interval
        self._asked_at, self._steps, self._left = time.monotonic(), 1, 1

    def __call__(self) -> Request:
        self._left -= 1
        if self._left:
            return Request.NOTHING
        request = Request.NOTHING
        if self._rank == 0:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # else the steps' launches would be timed, not the steps
            request, now = self._request(), time.monotonic()
            speed = self._steps / max(now - self._asked_at, 1e-9)
            self._asked_at, self._steps = now, max(1, min(MAX_STEPS, round(speed * self._interval)))
        if self._num_workers > 1:
            agreed = torch.tensor([int(request), self._steps], device=self._device)
            dist.broadcast(agreed, 0)
            number, self._steps = (int(value) for value in agreed.tolist())
            request = Request(number)
        self._left = self._steps
        return request
