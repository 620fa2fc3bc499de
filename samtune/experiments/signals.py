"""Ctrl-C, SIGTERM and SIGHUP while a study runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal came before there was a study to interrupt. `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextmanager
def interrupts_to(handle: Callable[[int, int], None]) -> Iterator[Callable[[], None]]:
    """The signals call a function with their number and their count so far, in the main thread.

    Elsewhere nothing changes. A signal that is ignored, as `nohup` ignores SIGHUP, stays ignored.

    Yields:
        A function that takes the signals back from a library that has set handlers of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    count = 0

    def on_signal(number: int, frame: Any) -> None:
        nonlocal count
        count += 1
        if number == signal.SIGHUP:
            _leave_terminal()
        handle(number, count)

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, on_signal) for number in handled}

    def take_back() -> None:
        for number in handled:
            signal.signal(number, on_signal)

    try:
        yield take_back
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """The terminal was closed: whoever writes to it now would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            if stream.isatty():
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
