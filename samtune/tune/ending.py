"""How a study ends before its last trial."""

from __future__ import annotations

from collections.abc import Callable

HOPELESS = "every trial failed"
"""The reason of a study that had only failures."""


class Ending:
    """Whether a running study is to end, and why. One object per run: anyone may ask, any thread may set it.

    Attributes:
        reason: why the trials that run are to stop; None while they may train.
        no_more: why no new trial may begin, although those that run may end; None while one may.
        signal: the number of the signal that asked for the end, such as SIGINT for Ctrl-C; None where none did.
        fault: what is wrong with a machine or the cluster, where that is why; the study may be resumed once it is
            mended.
        trials_done: whether the last trial has ended, so that nothing is left to interrupt.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.no_more: str | None = None
        self.signal: int | None = None
        self.fault: str | None = None
        self.trials_done = False
        self._abandon: Callable[[str], None] | None = None

    def stop(self, reason: str) -> None:
        """Stops the trials that run. The first reason counts."""
        self.reason = self.reason or reason

    def stop_proposing(self, reason: str) -> None:
        """Begins no new trial. The first reason counts."""
        self.no_more = self.no_more or reason

    def stop_for_fault(self, fault: str) -> None:
        """Stops for a fault of a machine, which is not a trial's."""
        if self.reason is None:
            self.fault = fault
        self.stop(fault)

    def on_abandon(self, end_trials: Callable[[str], None] | None) -> None:
        """Sets what ends the trials when nothing can be asked of the cluster any more; None once they have ended."""
        self._abandon = end_trials

    def abandon(self, fault: str) -> None:
        """The cluster is lost: ends the trials without asking it. Called from another thread than Tune's."""
        self.stop_for_fault(fault)
        if self._abandon is not None:
            self._abandon(fault)

    @property
    def interrupted(self) -> bool:
        """Whether a signal, such as Ctrl-C, asked for the end."""
        return self.signal is not None

    @property
    def is_stopping(self) -> bool:
        return self.reason is not None
