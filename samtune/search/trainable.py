"""A trial as Tune sees it: a light actor that posts the trial in the mailbox and passes its records on.

It imports neither torch nor Ray Train, takes no CPU, and is reused for the next trial.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from samtune.errors import SpaceError
from samtune.spec.space import SearchSpace
from samtune.workers.messages import Progress, Reply

NO_LIMIT = 2**31


class TrialRunner(tune.Trainable):
    """Runs one trial after another. Its own errors become a final result: an actor that raises is thrown away.

    Without a scheduler the workers train to the last epoch without asking; with one, an epoch is begun when the
    scheduler has let the trial pass the one before.
    """

    def setup(self, config: dict[str, Any], *, mailbox: Any, space: SearchSpace) -> None:  # type: ignore[override]
        self._mailbox, self._space = mailbox, space
        self._free_running = space.scheduler.name == "none"
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._known = 0
        self._invalid: str | None = None
        try:
            spec = self._space.trial(config)
        except SpaceError as error:
            self._invalid = str(error)
            return
        self._spec = spec
        ray.get(self._mailbox.assign.remote(self.trial_id, spec, self._target))

    @property
    def _target(self) -> int:
        return NO_LIMIT if self._free_running else self._known + 1

    def step(self) -> dict[str, Any]:
        """Waits for the next records of the trial.

        Returns:
            The last record's metrics; `records` with all that are new; `started_at`; and at the end `done`, `outcome`
            ("completed", "stopped", "failed") and, of a failed trial, `error` and `traceback`.
        """
        if self._invalid is not None:
            return {"records": [], "done": True, "outcome": "failed", "error": self._invalid, "traceback": ""}
        progress: Progress | Reply = Reply.ASK_AGAIN
        while not isinstance(progress, Progress):
            if progress is Reply.START_ANEW:
                ray.get(self._mailbox.assign.remote(self.trial_id, self._spec, self._target))
            progress = ray.get(self._mailbox.progress.remote(self.trial_id, self._known, self._target))
        self._known += len(progress.records)
        result: dict[str, Any] = {**(progress.records[-1] if progress.records else {}), "records": progress.records}
        result["started_at"] = progress.started_at
        if progress.outcome is not None:
            result |= {"done": True, "outcome": str(progress.outcome)}
        if progress.failure is not None:
            result |= {"error": progress.failure.error, "traceback": progress.failure.traceback}
        return result
