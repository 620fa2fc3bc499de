"""`Confirmer`: the best trials of a search, retrained and tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samtune.config.space import SearchSpace
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError
from samtune.experiments.candidates import BASELINES, add_baseline, make_lineup
from samtune.experiments.confirm_source import find_source
from samtune.experiments.confirmation import Confirmation, confirmation_of
from samtune.experiments.fixed_trials import LineupTuner, lineup_of
from samtune.storage import parent
from samtune.store.study_folder import study_folder
from samtune.study import Callback, Study

SUFFIX = "-confirm"


class Confirmer(LineupTuner):
    """Retrains the best trials of a study on the whole training set, with new seeds, and tests each once.

    The line-up is a study of its own, `NAME-confirm`, beside the search's. Where it has been begun, it goes on.

    Args:
        source: a study's name; the id of an MLflow run, of a search or of one trial; or a `SearchSpace` (or the path
            of its YAML) of which nothing is searched.
        storage_path: folder or URI of all studies; default ./samtune-results.
        tracking_uri: where to look for a run, and where a space's confirmation is tracked; a search's confirmation
            is tracked where the search was.
        top: how many of a search's best trials.
        replicas: seeds of each; two at least give an interval.
        baseline: `sgd` adds plain SGD for as many epochs and for as many passes as the best trial (see
            `add_baseline`), `none` nothing.
        address, callbacks: as of `Tuner`.

    Raises:
        UsageError: there is no such study or run, it has no completed trial, or what was begun is another line-up.

    Example:
        >>> confirmation = Confirmer("digits-1", top=1, replicas=5).run()
        >>> confirmation.best.estimate.interval, confirmation.best.comparison.p_value
    """

    kind = "confirmation"

    def __init__(
        self,
        source: str | SearchSpace,
        *,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        top: int = 3,
        replicas: int = 5,
        baseline: str = "sgd",
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if baseline not in BASELINES:
            raise UsageError(f"--baseline {baseline}: unknown{did_you_mean(baseline, BASELINES)}")
        found = find_source(source, top=top, storage_path=storage_path, tracking_uri=tracking_uri)
        baselines = add_baseline(found.chosen, found.study, found.space) if baseline != "none" else []
        super().__init__(
            make_lineup(found.space, found.chosen, replicas=replicas, baselines=baselines),
            name=found.name + SUFFIX,
            storage_path=found.storage,
            tracking_uri=found.study.tracking_uri if found.study else tracking_uri,
            experiment=found.study.experiment if found.study else found.name,
            address=address,
            callbacks=callbacks,
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
        study = self.complete()
        confirmation = confirmation_of(study, self.lineup)
        best = confirmation.best_trial() if self.is_done(study) else None
        if best is not None:
            self.keep_weights(study, best, register)
        return confirmation


def load_confirmation(study: Study) -> Confirmation | None:
    """The confirmation of a search as far as it has come; None where there is none."""
    folder = study_folder(parent(study.storage_path), study.name + SUFFIX)
    if not folder.exists():
        return None
    confirmed = folder.read()
    return confirmation_of(confirmed, lineup_of(confirmed))
