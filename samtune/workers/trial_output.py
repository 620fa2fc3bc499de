"""What a trial's own code prints and warns, kept in a file of its study: the beginning and the end, within bounds.

A worker trains one trial after another, and what code in it holds on to, a logging handler for instance, outlives a
trial. So `listen` replaces stdout and stderr once per process, and a `TrialOutput` says whose output it is at present.
What a library writes below Python, to the file descriptor, is not heard.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from contextlib import suppress
from typing import Any, TextIO, cast

from samtune.errors import safe_text
from samtune.storage import join, read_bytes, write_bytes

FOLDER = "output"
KEPT_BYTES = 500_000
"""Of the beginning, and as many of the end."""
LEFT_OUT = b"\n[... what came here is left out ...]\n"
TAKEN_UP = "[... taken up again ...]\n"

_SECONDS = 2.0  # between two writes: all that is lost where a worker is killed

_current: TrialOutput | None = None


def output_file(study_folder: str, trial_id: str, rank: int) -> str:
    """Where the output of a trial on one of its workers is kept."""
    return join(study_folder, FOLDER, f"{trial_id}.{rank}.txt")


def listen() -> None:
    """Hears what this process prints from now on; for the second time, does nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Heard):
            setattr(sys, name, cast(TextIO, _Heard(stream)))


def write_output() -> None:
    """Writes what the present trial has printed, if there is one."""
    if _current is not None:
        _current.write()


class HeadAndTail:
    """The first and the last bytes of a stream."""

    def __init__(self, size: int) -> None:
        self._size, self._head, self._tail, self._is_cut = size, bytearray(), bytearray(), False

    def add(self, content: bytes) -> None:
        room = self._size - len(self._head)
        self._head += content[:room]
        self._tail += content[room:]
        if len(self._tail) > 2 * self._size:  # seldom, as it moves bytes
            self._trim()

    def __len__(self) -> int:
        return len(self._head) + len(self._tail)

    def content(self) -> bytes:
        if len(self._tail) > self._size:
            self._trim()
        return bytes(self._head + (LEFT_OUT if self._is_cut else b"") + self._tail)

    def _trim(self) -> None:
        del self._tail[: -self._size]
        self._is_cut = True


class TrialOutput:
    """While it is entered, what this process prints belongs to a trial, and is written to a file every few seconds.

    What the file holds already, of earlier workers of the trial, stays in front. Each trial sees the warnings that
    Python shows once per place. That the file cannot be written is no reason to end a trial.

    Args:
        uri: of the file.
    """

    def __init__(self, uri: str, *, size: int = KEPT_BYTES, seconds: float = _SECONDS) -> None:
        self._uri, self._size, self._seconds = uri, size, seconds
        self._kept: HeadAndTail | None = None  # once there is something to keep
        self._fresh = HeadAndTail(size)
        self._lock, self._writing, self._ended = threading.Lock(), threading.Lock(), threading.Event()
        self._process = os.getpid()
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> TrialOutput:
        global _current
        self._warnings.__enter__()
        _current = self
        return self

    def __exit__(self, *error: object) -> None:
        global _current
        _current = None
        self._warnings.__exit__(*error)  # type: ignore[arg-type]
        self._ended.set()
        self.write()

    def hear(self, text: str) -> None:
        """Something was printed."""
        if os.getpid() != self._process:
            return  # a process that was forked has a copy of this, whose lock another thread may have held
        with self._lock:
            begins = self._kept is None and not self._fresh
            self._fresh.add(safe_text(text).encode())
        if begins:
            threading.Thread(target=self._write_now_and_then, daemon=True, name="samtune-output").start()

    def write(self) -> None:
        """Writes the file, if there is something new."""
        with self._writing, suppress(OSError, ValueError):
            with self._lock:
                fresh, self._fresh = self._fresh, HeadAndTail(self._size)
            if not fresh:
                return
            if self._kept is None:
                self._kept = HeadAndTail(self._size)
                if earlier := read_bytes(self._uri):
                    self._kept.add(earlier)
                    self._kept.add(TAKEN_UP.encode())
            self._kept.add(fresh.content())
            write_bytes(self._uri, self._kept.content())

    def _write_now_and_then(self) -> None:
        while not self._ended.wait(self._seconds):
            self.write()


class _Heard:
    """A text stream that is heard too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        if _current is not None:
            _current.hear(text)
        return count

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
