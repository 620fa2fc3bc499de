"""`Training`: one configuration, no search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from samtune.config.space import SearchSpace
from samtune.experiments.candidates import Chosen, list_candidates
from samtune.experiments.confirm_source import fixed_trial
from samtune.experiments.fixed_trials import CandidateRun
from samtune.store.study_folder import StudyFolder
from samtune.study import Callback, Trial, TrialState


def default_name(space: SearchSpace) -> str:
    """Of the study of a training that is given none."""
    return f"{space.name}-train-{time.strftime('%Y%m%d-%H%M%S')}"


class Training:
    """Trains the one configuration of a space on the groups, with the journal and the MLflow runs of a search.

    It is evaluated as a search's trials are: on the validation set after every epoch, or, with
    `data.validation_fraction: 0`, on the test set once, after the last. The weights are kept, and logged as a model.

    Args:
        space: nothing in it is searched.
        name: of the study; one that has begun is resumed. Default: the space's name, `train` and the time.
        storage_path, tracking_uri, experiment, address, callbacks: as of `Tuner`.

    Raises:
        UsageError: something is searched, or another training has begun under this name.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        name: str | None = None,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        spec = fixed_trial(space).trial({}).model_copy(update={"final": True, "repeats": 1})
        objective = None if spec.data.validation_fraction == 0 else space.objective
        chosen: Chosen = {spec.method.name: (spec, None)}
        self._run = CandidateRun(
            list_candidates(space, chosen, replicas=1, baselines=[], objective=objective, first_seed=space.seed),
            kind="training",
            name=name or default_name(space),
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            experiment=experiment or space.name,
            address=address,
            callbacks=callbacks,
        )

    @classmethod
    def resume(
        cls,
        name: str,
        *,
        storage_path: str | Path | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        trust: bool = False,
    ) -> Self:
        """A training that resumes the study of that name with the settings it was started with; call `run` on it.

        Raises:
            UsageError: there is no such study, or it is no training.
        """
        training = cls.__new__(cls)
        training._run = CandidateRun(
            None,
            kind="training",
            name=name,
            storage_path=storage_path,
            address=address,
            callbacks=callbacks,
            trust=trust,
        )
        return training

    @property
    def name(self) -> str:
        """Of the study."""
        return self._run.runner.name

    @property
    def folder(self) -> StudyFolder:
        """Where the study is kept."""
        return self._run.folder

    @property
    def interrupted_by(self) -> int | None:
        """The number of the signal that ended the run (Ctrl-C: `signal.SIGINT`); None where none did."""
        return self._run.runner.ending.signal

    def stop(self, reason: str = "stopped") -> None:
        """Ends the run from a callback, a signal handler or another thread; what is finished is kept."""
        self._run.runner.ending.stop(reason)

    def run(self, *, register: str | None = None) -> Trial:
        """Trains, or goes on; keeps the weights in `best.safetensors` of the study.

        Returns:
            The trial; after Ctrl-C it is not completed.

        Raises:
            RunError: it failed.
        """
        study = self._run.complete()
        trial = study.trials[0]
        if trial.state is TrialState.COMPLETED:
            self._run.keep_weights(study, trial, register)
        return trial
