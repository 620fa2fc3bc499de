"""How a trial uses its card: its peak of memory, and how busy the card was, as metrics of each epoch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch

_SECONDS = 1.0  # NVML's own figure is of the last sixth of a second to a second


class CardUse:
    """Looks at a card once a second, in a thread, for as long as the body runs.

    Args:
        peak: bytes that the trial's largest allocation of memory took; None: there is no card to look at.
        utilization: percent of the last moment in which the card worked, for whichever process.
    """

    def __init__(self, peak: Callable[[], int] | None, utilization: Callable[[], float] | None = None) -> None:
        self._peak, self._utilization = peak, utilization
        self._lock = threading.Lock()
        self._sum, self._count = 0.0, 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """Of a worker's device; a CPU has no such metrics."""
        import torch

        if device.type != "cuda":
            return cls(None)
        return cls(lambda: torch.cuda.max_memory_reserved(device), lambda: torch.cuda.utilization(device))

    def __enter__(self) -> Self:
        if self._utilization is not None:
            self._thread = threading.Thread(target=self._run, name="samtune-card-use", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def metrics(self) -> dict[str, float]:
        """Since the last call: `gpu_utilization` in percent, a mean; since the trial began: `gpu_memory` in GiB."""
        if self._peak is None:
            return {}
        with self._lock:
            mean = self._sum / self._count if self._count else None
            self._sum, self._count = 0.0, 0
        found = {"gpu_memory": self._peak() / 2**30}
        return found if mean is None else {**found, "gpu_utilization": mean}

    def look(self) -> None:
        """Notes how busy the card is now."""
        if self._utilization is not None:
            percent = self._utilization()
            with self._lock:
                self._sum, self._count = self._sum + percent, self._count + 1

    def _run(self) -> None:
        with suppress(Exception):  # NVML is not there, or not for this user: a trial without the figure is a trial
            while not self._ended.wait(_SECONDS):
                self.look()
