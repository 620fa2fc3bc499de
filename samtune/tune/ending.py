"""How a study ends before its last trial."""

from __future__ import annotations

HOPELESS = "every trial failed"
"""The reason of a study that had only failures."""


class Ending:
    """Whether a running study is to end, and why. One object per run: anyone may ask, any thread may set it.

    Attributes:
        reason: why the trials that run are to stop; None while they may train.
        no_more: why no new trial may begin, although those that run may end; None while one may.
        interrupted: whether Ctrl-C or a signal asked for it.
        trials_done: whether the last trial has ended, so that nothing is left to interrupt.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.no_more: str | None = None
        self.interrupted = False
        self.trials_done = False

    def stop(self, reason: str) -> None:
        """Stops the trials that run. The first reason counts."""
        self.reason = self.reason or reason

    def stop_proposing(self, reason: str) -> None:
        """Begins no new trial. The first reason counts."""
        self.no_more = self.no_more or reason

    @property
    def is_stopping(self) -> bool:
        return self.reason is not None

    @property
    def why(self) -> str | None:
        """What the study records as the reason; None where it ran to its last trial."""
        return self.no_more or self.reason
