"""Runs a line-up as a search runs its space: same groups, journal, MLflow, resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samtune.confirm.confirmation import Confirmation, confirmation_of
from samtune.confirm.lineup import BASELINES, Lineup, add_baseline, candidates_of, make_lineup
from samtune.errors import UsageError
from samtune.records import Callback, Study
from samtune.search.folders import SPACE_FILE, study_folder
from samtune.search.sampler import is_over
from samtune.search.tuner import Tuner
from samtune.spec.source import did_you_mean, parse_yaml
from samtune.spec.space import SearchSpace
from samtune.storage import delete_folder, join, parent, read_bytes, write_bytes

SUFFIX = "-confirm"
BEST_WEIGHTS = "best.safetensors"


class Confirmer(Tuner):
    """Retrains the best trials of a study on the whole training set, with new seeds, and tests each once.

    The line-up is a study of its own, `NAME-confirm`, beside the search's. Where it has been begun, it goes on.

    Args:
        name: of the study.
        storage_path: folder or URI of all studies; default ./samtune-results.
        top: how many of the best trials.
        replicas: seeds of each; two at least give an interval.
        baseline: `sgd` adds plain SGD for as many epochs and for as many passes as the best trial (see
            `add_baseline`), `none` nothing.
        address, callbacks: as of `Tuner`.

    Raises:
        UsageError: there is no such study, it has no completed trial, or what was begun is another line-up.

    Example:
        >>> confirmation = Confirmer("digits-1", top=1, replicas=5).run()
        >>> confirmation.best.estimate.interval, confirmation.best.comparison.p_value
    """

    def __init__(
        self,
        name: str,
        *,
        storage_path: str | Path | None = None,
        top: int = 3,
        replicas: int = 5,
        baseline: str = "sgd",
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        folder = study_folder(storage_path, name)
        study = folder.read()
        data, source = parse_yaml(study.space_yaml, join(folder.uri, SPACE_FILE))
        space = SearchSpace.from_dict(data, source=source)
        chosen = candidates_of(study, space, top)
        if baseline not in BASELINES:
            raise UsageError(f"--baseline {baseline}: unknown{did_you_mean(baseline, BASELINES)}")
        baselines = add_baseline(chosen, study, space) if baseline != "none" else []
        self._prepare(study, make_lineup(space, chosen, replicas=replicas, baselines=baselines), folder.storage)
        super().__init__(
            self.lineup,
            name=name + SUFFIX,
            storage_path=folder.storage,
            tracking_uri=study.tracking_uri,
            experiment=study.experiment,
            address=address,
            callbacks=callbacks,
        )
        self._earlier = self._begun

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended `run`."""
        return self._interrupted

    def _prepare(self, study: Study, lineup: Lineup, storage: str) -> None:
        """Finds out whether this line-up has been begun."""
        target = study_folder(storage, study.name + SUFFIX)
        self.lineup, self._begun = lineup, target.read() if target.exists() else None
        if self._begun is not None and lineup_of(self._begun) != lineup:
            raise UsageError(
                f"study {target.name} has confirmed other trials, or with other replicas or baselines, before: "
                f"delete {target.uri} to begin anew"
            )

    def run(self, *, register: str | None = None) -> Confirmation:
        """Runs what is missing; when all is done, keeps the best weights and logs them to MLflow as a model.

        Args:
            register: also makes a new version of MLflow's registered model of this name.

        Returns:
            The statistics; after Ctrl-C of what was finished (`num_missing` tells).

        Raises:
            RunError: no replica succeeded.
            TrackingError: the tracking server does not take the model.
        """
        begun = self._begun
        study = begun if begun is not None and self._is_done(begun) else self.fit().study
        confirmation = confirmation_of(study, self.lineup)
        best = confirmation.best_trial() if self._is_done(study) else None
        if best is not None:
            weights = join(study.storage_path, "weights")
            content = read_bytes(join(weights, f"{best.id}.safetensors"))
            if content is not None:
                write_bytes(weights_file(study), content)
            if content is not None or register:
                self._log_model(study, register)
            delete_folder(weights)  # last: while they are there, this is not done
        return confirmation

    def _is_done(self, study: Study) -> bool:
        return sum(is_over(trial) for trial in study) >= self.lineup.num_trials

    def _log_model(self, study: Study, register: str | None) -> None:
        from samtune.models.saved import load_model, saved_input_shape
        from samtune.tracking.models import log_model

        weights, run_id = weights_file(study), study.parent_run_id
        assert run_id is not None
        shape = saved_input_shape(weights)
        log_model(self.tracking_uri, run_id, load_model(weights), shape, registered_name=register)


def load_confirmation(study: Study) -> Confirmation | None:
    """The confirmation of a search as far as it has come; None where there is none."""
    folder = study_folder(parent(study.storage_path), study.name + SUFFIX)
    if not folder.exists():
        return None
    confirmed = folder.read()
    return confirmation_of(confirmed, lineup_of(confirmed))


def lineup_of(study: Study) -> Lineup:
    """The line-up that a confirmation's study was started with."""
    data, _ = parse_yaml(study.space_yaml, SPACE_FILE)
    return Lineup.model_validate(data)


def weights_file(study: Study) -> str:
    """Where the best weights of a confirmation are."""
    return join(study.storage_path, BEST_WEIGHTS)
