"""How many steps trials take together, with one, two or more of them side by side on one device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from samtune.experiments.child_request import ROOT

_SCRIPT = Path(__file__).with_name("side_by_side_child.py")


class NotTimedError(Exception):
    """A trial could not be timed; the message says why, in a line."""


@dataclass(frozen=True)
class SideBySide:
    """What was measured.

    Attributes:
        device: its name.
        rates: number of trials side by side -> steps per second of all of them together.
        most: how many the device's memory holds; None where that was no limit.
    """

    device: str
    rates: dict[int, float]
    most: int | None = None


def time_side_by_side(request: bytes, counts: Sequence[int], *, seconds: float = 2.0, rounds: int = 2) -> SideBySide:
    """Times the steps of copies of one trial, each in a process of its own, as trials of a search are.

    Args:
        request: the trial, from `child_request.pack`.
        counts: how many at once, in ascending order from 1. Those that the device's memory cannot hold are left out.
        seconds: of each measurement.
        rounds: measurements of each count; the counts take turns.

    Raises:
        NotTimedError: the trial failed alone, or a process ended while it was timed.
    """
    with ExitStack() as running:
        trials = [running.enter_context(_Trial(request))]
        first = trials[0].answer()
        most = first["total"] // max(1, first["peak"]) if first["total"] else None
        counts = [count for count in counts if count == 1 or most is None or count <= most]
        others = [running.enter_context(_Trial(request)) for _ in range(counts[-1] - 1)]
        trials += [trial for trial in others if trial.is_ready()]
        if len(trials) < counts[-1]:  # each process needs memory that is no trial's, too
            most = len(trials)
            counts = [count for count in counts if count <= most]
        rates = dict.fromkeys(counts, 0.0)
        for _ in range(rounds):
            for count in counts:
                for trial in trials[:count]:
                    trial.begin(seconds)
                for timed in [trial.answer() for trial in trials[:count]]:
                    rates[count] += timed["steps"] / timed["seconds"] / rounds
    return SideBySide(first["device"], rates, most)


class _Trial:
    """A process that trains one copy. It ends with the body, or with this process."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT), str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with suppress(OSError):  # it has ended; its answer says so
            self._write(len(self._request).to_bytes(8, "big") + self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self, seconds: float) -> None:
        with suppress(OSError):
            self._write(f"{seconds}\n".encode())

    def is_ready(self) -> bool:
        try:
            self.answer()
        except NotTimedError:
            return False
        return True

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotTimedError(f"a process ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise NotTimedError(answer["error"])
        return answer

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(content)
        self._process.stdin.flush()
