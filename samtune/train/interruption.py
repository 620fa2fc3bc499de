"""Agreement between the ranks, in the middle of an epoch, that it is time for a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum

import torch
import torch.distributed as dist

MAX_STEPS = 10_000


class Wish(IntEnum):
    """What the first rank wants after a step."""

    NOTHING = 0
    SAVE = 1
    LEAVE = 2  # save, and go on elsewhere


class Agreement:
    """Called after each step on every rank, tells all the same: what the first rank wishes.

    It is asked about every `interval` seconds, by a broadcast that also says after how many steps the next will be: so
    the ranks need no common clock, and a step costs what it costs without.

    Args:
        wish: of the first rank; the others' are not asked.
        rank, num_workers, device: this worker's place.
        interval: seconds.
    """

    def __init__(
        self, wish: Callable[[], Wish], *, rank: int, num_workers: int, device: torch.device, interval: float = 2.0
    ) -> None:
        self._wish, self._rank, self._num_workers, self._device = wish, rank, num_workers, device
        self._interval = interval
        self._asked_at, self._steps, self._left = time.monotonic(), 1, 1

    def __call__(self) -> Wish:
        self._left -= 1
        if self._left:
            return Wish.NOTHING
        wish = Wish.NOTHING
        if self._rank == 0:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # else the steps' launches would be timed, not the steps
            wish, now = self._wish(), time.monotonic()
            speed = self._steps / max(now - self._asked_at, 1e-9)
            self._asked_at, self._steps = now, max(1, min(MAX_STEPS, round(speed * self._interval)))
        if self._num_workers > 1:
            said = torch.tensor([int(wish), self._steps], device=self._device)
            dist.broadcast(said, 0)
            wish_number, self._steps = (int(value) for value in said.tolist())
            wish = Wish(wish_number)
        self._left = self._steps
        return wish
