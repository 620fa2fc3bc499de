"""How many trials are under way: as many as there are worker groups, not counting those that are paused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from samtune.tune.optuna_searcher import OptunaSearcher


class ConcurrencyLimiter(Searcher):
    """Asks a searcher for a trial when a group is free for one.

    Tune's `ConcurrencyLimiter` also counts the paused trials, so that a scheduler that waits for more trials before it
    lets the paused ones go on would wait for ever; and its limit is fixed.

    Args:
        limit: asked anew each time; the number of groups may change.
        on_pause: told the id of a trial that is paused.
    """

    def __init__(self, inner: OptunaSearcher, limit: Callable[[], int], on_pause: Callable[[str], None]) -> None:
        super().__init__(metric=inner.metric, mode=inner.mode)
        self._inner, self._limit, self._on_pause = inner, limit, on_pause
        self._active: set[str] = set()
        self.closed = False
        """Set when no new trial may begin."""

    def suggest(self, trial_id: str) -> Any:
        if self.closed:
            return Searcher.FINISHED
        if len(self._active) >= self._limit():
            return None
        config = self._inner.suggest(trial_id)
        if isinstance(config, dict):
            self._active.add(trial_id)
        return config

    def on_start(self, trial_id: str) -> None:
        """A trial runs, for the first time or again."""
        self._active.add(trial_id)

    def on_pause(self, trial_id: str) -> None:
        """Called by the schedulers."""
        self._active.discard(trial_id)
        self._on_pause(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Called when a paused trial may go on; it is active once it has a group."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._active.discard(trial_id)
        self._inner.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for a restore of its own
