"""One thread that writes to the store, in order, until everything is written or told to stop.

What it is handed are not requests but *records to bring up to date*: each knows what of it the store has. A record
that changes ten times while the store is away is written once when it is back, and repeating is always safe.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from samtune.tracking.store import Store, StoreError

_LINGER_SECONDS = 5.0  # a short trial is created, logged and ended in one go instead of epoch by epoch
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class Record(Protocol):
    """Something the store should have. Compared by identity."""

    name: str

    def write(self, store: Store) -> None:
        """Brings the store up to date. Raises StoreError; what was written before it counts."""


class Writer:
    """Writes records to a store from one thread.

    Args:
        say: called when the store stops answering, when it answers again, and when it refuses a record. Called from
            the writer's thread.
    """

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self._store, self._say = store, say
        self._waiting: OrderedDict[int, tuple[Record, float]] = OrderedDict()  # and since when
        self._writing: Record | None = None
        self._refused: list[str] = []
        self._condition = threading.Condition()
        self._closing = self._closed = False
        self._failures = 0  # in a row
        self._progress_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="samtune-mlflow", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Asks for a record to be brought up to date. Returns at once; may be called again while it waits."""
        with self._condition:
            self._waiting.setdefault(id(record), (record, time.monotonic()))
            self._condition.notify_all()

    def drain(self, seconds: float) -> int:
        """Stops collecting, waits a moment, and returns how many records are still to be written."""
        until = time.monotonic() + seconds
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            while self._pending() and (left := until - time.monotonic()) > 0:
                self._condition.wait(left)
            return len(self._pending())

    def close(self, patience: float) -> list[str]:
        """Waits until all is written, as long as there is progress, and ends the thread.

        Args:
            patience: seconds without any progress after which to give up.

        Returns:
            The names of the records that the store does not have completely.
        """
        with self._condition:
            self._progress_at = time.monotonic()
            self._closing = True
            self._condition.notify_all()
            while self._pending():
                left = self._progress_at + patience - time.monotonic()
                if left <= 0:
                    break
                self._condition.wait(min(left, 0.5))
            unsent = [record.name for record in self._pending()] + self._refused
            self._closed = True
            self._condition.notify_all()
        if not unsent:
            self._thread.join(timeout=5.0)
        return list(dict.fromkeys(unsent))

    def _pending(self) -> list[Record]:
        return ([self._writing] if self._writing else []) + [record for record, _ in self._waiting.values()]

    def _run(self) -> None:
        while (record := self._next()) is not None:
            try:
                record.write(self._store)
            except StoreError as error:
                self._failed(record, error)
            except Exception as error:  # a defect of ours: the search continues, and the record is reported unsent
                self._failed(record, StoreError(f"{type(error).__name__}: {error}", refused=True))
            else:
                self._succeeded()

    def _next(self) -> Record | None:
        with self._condition:
            while not self._closed:
                if not self._waiting:
                    self._condition.wait()
                    continue
                key, (record, since) = next(iter(self._waiting.items()))
                left = since + _LINGER_SECONDS - time.monotonic()
                if left <= 0 or self._closing:
                    del self._waiting[key]
                    self._writing = record
                    return record
                self._condition.wait(left)
            return None

    def _succeeded(self) -> None:
        with self._condition:
            outage, self._failures = self._failures > 0, 0
            self._writing = None
            self._progress_at = time.monotonic()
            self._condition.notify_all()
        if outage:
            self._say("MLflow answers again; what was kept is being written")

    def _failed(self, record: Record, error: StoreError) -> None:
        with self._condition:
            self._writing = None
            if error.refused:
                self._refused.append(record.name)
                self._progress_at = time.monotonic()
            else:
                self._waiting.setdefault(id(record), (record, time.monotonic()))
                self._failures += 1
            self._condition.notify_all()
        if error.refused:
            self._say(f"warning: MLflow refuses {record.name}: {error}")
            return
        if self._failures == 1:
            self._say(f"warning: MLflow does not answer; the search continues and its records are kept ({error})")
        self._pause(_BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS)) - 1])

    def _pause(self, seconds: float) -> None:
        """Waits before the next attempt; at the end of the search, where somebody waits for it, not for long."""
        started = time.monotonic()
        with self._condition:
            while not self._closed:
                left = started + (min(seconds, 1.0) if self._closing else seconds) - time.monotonic()
                if left <= 0:
                    return
                self._condition.wait(left)
