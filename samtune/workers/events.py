"""The lines of the coordinator, passed on to the user while a search runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samtune.workers.pool import WorkerPool

SLOW_START_SECONDS = 30.0  # after which a line says what the first group waits for


class EventThread(threading.Thread):
    """Passes the coordinator's lines on until the search is over, and says what the first group still waits for."""

    def __init__(self, pool: WorkerPool, say: Callable[[str], None]) -> None:
        super().__init__(name="samtune-events", daemon=True)
        self._pool, self._say = pool, say

    def run(self) -> None:
        import ray

        known, started, waiting = 0, time.monotonic(), False
        while True:
            try:
                events = ray.get(self._pool.coordinator.events.remote(known))
            except ray.exceptions.RayError:
                return
            if events is None:
                return
            known += len(events)
            for event in events:
                self._say(event)
            if known == 0 and not waiting and time.monotonic() - started > SLOW_START_SECONDS:
                waiting = True
                free = ray.available_resources()
                self._say(
                    f"still waiting for the first workers: a trial needs {self._pool.needs()}; free in the cluster are "
                    f"now {free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"
                )
