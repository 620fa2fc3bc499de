"""A trial as Tune sees it: it posts the trial in the coordinator and passes its records on.

It runs in a thread of the driver (see `samtune.raylib.driver_trials`), and only waits there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from samtune.errors import SpaceError
from samtune.raylib.driver_trials import DriverTrainable
from samtune.storage import join
from samtune.study import EpochLog
from samtune.train.checkpoint import CheckpointFolder
from samtune.tune.objectives import SCORE, objectives_of
from samtune.tune.trial_source import Definition
from samtune.workers.protocol import Failure, Outcome, Progress, Reply

NO_LIMIT = 2**31


class SaveError(Exception):
    """The workers could not write a checkpoint that the scheduler needs."""


class TrialTrainable(DriverTrainable):
    """Runs one trial, from `setup` or a checkpoint to its end or a pause. A broken configuration is a final result.

    Without a scheduler the workers train to the last epoch without asking; with one, an epoch is begun when the
    scheduler has let the trial pass the one before. A trial that the scheduler pauses is saved and leaves its group.
    """

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, coordinator: Any, definition: Definition, checkpoint_root: str
    ) -> None:
        self._coordinator, self._checkpoint_root = coordinator, checkpoint_root
        self._free_running = definition.scheduler.name == "none"
        self._objective = objectives_of(definition)[0]
        self._key, self._history, self._posted = self.trial_id, EpochLog(), False
        self._invalid: str | None = None
        try:
            self._spec = definition.trial(config)
        except SpaceError as error:
            self._invalid = str(error)

    def cleanup(self) -> None:
        """A paused trial's group is free for the next."""
        if self._posted:
            self._coordinator.end.remote(self._key)

    def _post(self, target: int) -> None:
        ray.get(self._coordinator.assign.remote(self._key, self._spec, target))
        self._posted = True

    @property
    def _target(self) -> int:
        return NO_LIMIT if self._free_running else self._history.last + 1

    def step(self) -> dict[str, Any]:
        """Waits for the next epochs of the trial.

        Returns:
            The last epoch's metrics; `epochs` with the records of all that are new; the objective so far;
            `started_at`; and at the end `done`, `outcome` (an `Outcome`) and, of a failed trial, its `failure`.
        """
        if self._invalid is not None:
            return {"epochs": [], "done": True, "outcome": Outcome.FAILED, "failure": Failure(self._invalid)}
        if not self._posted:  # not before: Tune may hand over a checkpoint first
            self._post(self._target)
        progress: Progress | Reply = Reply.ASK_AGAIN
        while not isinstance(progress, Progress):
            if progress is Reply.RESTART:
                self._post(self._target)
            progress = ray.get(self._coordinator.progress.remote(self._key, self._history.last, self._target))
        for epoch in progress.epochs:
            self._history.append(epoch)
        result: dict[str, Any] = {**(progress.epochs[-1].metrics if progress.epochs else {}), "epochs": progress.epochs}
        result["started_at"] = progress.started_at
        if (score := self._objective.score(self._history)) is not None:
            result[SCORE] = score
        if progress.outcome is not None:
            result |= {"done": True, "outcome": progress.outcome, "failure": progress.failure}
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Has the workers save the epoch after which they wait, and gives Tune a copy of its own.

        Raises:
            SaveError: they could not; Tune tries again and then fails the trial.
        """
        answer: str | Failure | Reply = Reply.ASK_AGAIN
        while answer in (Reply.ASK_AGAIN, Reply.RESTART):
            if answer is Reply.RESTART:
                self._post(self._history.last)
            answer = ray.get(self._coordinator.save.remote(self._key, self._history.last))
        if isinstance(answer, Failure):
            raise SaveError(answer.error)
        if not isinstance(answer, Reply):  # else the search is over, and nobody will ask for this checkpoint
            self._checkpoints(answer).export(self._history.last, Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """The trial resumes from its own checkpoint, or from that of a trial that it takes over."""
        key = ray.get(self._coordinator.key.remote(self._key))
        if any(Path(checkpoint_dir).glob("epoch-*.pt")):
            self._checkpoints(key).adopt(Path(checkpoint_dir))

    def _checkpoints(self, key: str) -> CheckpointFolder:
        return CheckpointFolder(join(self._checkpoint_root, key))
