"""Ctrl-C and SIGTERM while a search runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_to(handle: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call a function with their count so far, in the main thread; elsewhere nothing changes."""
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
