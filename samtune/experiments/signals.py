"""What reaches a running search from outside its loop: the lines of the coordinator, and the user's Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.workers.pool import WorkerPool

SLOW_START_SECONDS = 30.0  # after which the user is told what the first group waits for


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
                    f"no group is ready yet: each needs {self._pool.needs()}; free in the cluster are now "
                    f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"
                )


@contextmanager
def interrupts_to(handle: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call a function with the how-manieth it is, in the main thread; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def on_signal(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        handle(count)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
