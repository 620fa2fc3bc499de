"""A search in Weights & Biases: one run per trial, in the group of the study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from samtune.errors import UsageError, one_line
from samtune.formatting import trial_name
from samtune.storage import is_remote
from samtune.study import Callback, Study, Trial, TrialState

_LOG = logging.getLogger(__name__)


def check_login() -> None:
    """Makes sure, before anything starts, that W&B is told who writes: on a terminal, it asks.

    Raises:
        UsageError: nobody is logged in.
    """
    import wandb

    try:
        wandb.login()
    except wandb.Error as error:
        problem = f"{one_line(error)} (or set WANDB_API_KEY, or WANDB_MODE=offline)"
        raise UsageError(problem, argument="log_to", value="wandb") from error


class WandbLogger(Callback):
    """Writes with the library `wandb`, as its environment variables say (WANDB_MODE=offline, WANDB_PROJECT, …).

    All calls are made in one thread: a slow server does not hold the search up. What wandb refuses is said once.
    A trial that is resumed goes on in its run.
    """

    def __init__(self) -> None:
        self._runs: dict[str, Any] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._has_warned = False

    def on_study_start(self, study: Study) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samtune-wandb")

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        self._do(self._begin, study, trial)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self._do(self._log, study, trial, dict(metrics))

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self._do(self._end, study, trial)

    def on_study_end(self, study: Study) -> None:
        if self._thread is not None:
            for run in list(self._runs.values()):
                self._do(run.finish, 1)
            self._thread.shutdown()
            self._thread = None

    def _do(self, call: Callable[..., Any], *arguments: Any) -> None:
        def safely() -> None:
            try:
                call(*arguments)
            except Exception as error:  # the library's own, of many kinds: the search goes on without it
                if not self._has_warned:
                    self._has_warned = True
                    _LOG.warning("warning: not everything is in W&B: %s: %s", type(error).__name__, error)

        if self._thread is not None:
            self._thread.submit(safely)

    def _begin(self, study: Study, trial: Trial) -> Any:
        """The trial's run; opens it where it is not open."""
        import wandb

        if trial.id not in self._runs:
            self._runs[trial.id] = wandb.init(
                project=wandb.setup().settings.project or study.experiment,
                group=study.name,
                name=trial_name(study, trial),
                id=f"{study.name}-{trial.id}",
                resume="allow",
                job_type=study.kind,
                config=dict(trial.params),
                dir=None if is_remote(study.storage_path) else study.storage_path,
                reinit="create_new",  # several trials run at once
                settings=wandb.Settings(silent=True, console="off", disable_git=True),
            )
        return self._runs[trial.id]

    def _log(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self._begin(study, trial).log(metrics, step=int(metrics["epoch"]))

    def _end(self, study: Study, trial: Trial) -> None:
        run = self._begin(study, trial)
        run.summary["state"] = str(trial.state)
        run.finish(exit_code=int(trial.state is TrialState.FAILED))
        del self._runs[trial.id]
