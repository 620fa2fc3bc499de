"""When things happened in a search."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field


@dataclass
class Timeline:
    """Seconds of `time.perf_counter`: the start, the first epoch's end, every trial's end, and the search's end."""

    started_at: float = field(default_factory=time.perf_counter)
    first_epoch_at: float | None = None
    trials_at: list[float] = field(default_factory=list)
    ended_at: float = 0.0

    def epoch(self) -> None:
        if self.first_epoch_at is None:
            self.first_epoch_at = time.perf_counter()

    def trial(self) -> None:
        self.trials_at.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Wall time of the whole search."""
        return self.ended_at - self.started_at

    @property
    def to_first_epoch(self) -> float:
        """From the start to the first epoch's end."""
        assert self.first_epoch_at is not None
        return self.first_epoch_at - self.started_at

    @property
    def per_trial(self) -> float:
        """Seconds that one more trial takes: the median time from one trial's end to the next one's."""
        pairs = zip(self.trials_at, self.trials_at[1:], strict=False)
        return statistics.median(later - earlier for earlier, later in pairs)

    def wall(self, num_trials: int) -> float:
        """Wall time of a search of `num_trials` trials: measured, or from this one's with the rest added per trial."""
        return self.seconds + (num_trials - len(self.trials_at)) * self.per_trial
