"""`Training`: one configuration, no search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.experiments.candidates import Chosen, list_candidates
from samtune.experiments.confirm_source import fixed_trial
from samtune.experiments.fixed_trials import CandidateRun, CandidatesOwner
from samtune.study import Callback, Trial, TrialState


def default_name(space: SearchSpace) -> str:
    """Of the study of a training that is given none."""
    return f"{space.name}-train-{time.strftime('%Y%m%d-%H%M%S')}"


class Training(CandidatesOwner):
    """Trains the one configuration of a space on the groups, with the journal and the MLflow runs of a search.

    It is evaluated as a search's trials are: on the validation set after every epoch, or, with
    `data.validation_fraction: 0`, on the test set once, after the last. The weights are kept, and logged as a model.
    One network is trained, whatever `repeats` and `data.folds` say.

    Args:
        space: nothing in it is searched.
        name: of the study; one that has begun is resumed. Default: the space's name, `train` and the time.
        storage_path, tracking_uri, experiment, address, callbacks, check: as of `Tuner`.

    Raises:
        UsageError: something is searched, or another training has begun under this name.
    """

    _kind = "training"

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
        check: bool = True,
    ) -> None:
        spec = as_one_training(fixed_trial(space).trial({}))
        objective = None if spec.data.validation_fraction == 0 else space.objective
        chosen: Chosen = {spec.method.name: (spec, None)}
        run = CandidateRun(
            list_candidates(space, chosen, replicas=1, baselines=[], objective=objective, first_seed=space.seed),
            kind=self._kind,
            name=name or default_name(space),
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            experiment=experiment or space.name,
            address=address,
            callbacks=callbacks,
            check=check,
        )
        self._own(run)

    def run(self, *, register: str | None = None) -> Trial:
        """Trains, or resumes; keeps the weights in `best.safetensors` of the study.

        Returns:
            The trial; after Ctrl-C it is not completed.

        Raises:
            RunError: it failed.
        """
        self._run.check_register(register)
        study = self._run.complete()
        trial = study.trials[0]
        if trial.state is TrialState.COMPLETED:
            self._run.keep_weights(study, [trial], register)
        return trial


def as_one_training(spec: TrialSpec) -> TrialSpec:
    """The trial as `samtune train` trains it: one network, without repeats and folds, whose weights are kept."""
    data = spec.data.model_copy(update={"folds": None})
    return spec.model_copy(update={"final": True, "repeats": 1, "data": data})
