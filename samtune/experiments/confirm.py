"""`Confirmer`: the best trials of a search, retrained and tested."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from samtune.config.space import SearchSpace
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError
from samtune.experiments.candidates import BASELINES, CandidateList, add_baseline, list_candidates, stored_candidates
from samtune.experiments.confirm_source import find_source
from samtune.experiments.confirmation import Confirmation, confirmation_of
from samtune.experiments.fixed_trials import CandidateRun, CandidatesOwner
from samtune.experiments.runner import all_done
from samtune.experiments.trust import check_trust
from samtune.storage import parent
from samtune.store.study_folder import study_folder
from samtune.study import Callback, Study

SUFFIX = "-confirm"


class Confirmer(CandidatesOwner):
    """Retrains the best trials of a study on the whole training set, with new seeds, and tests each once.

    The confirmation is a study of its own, `NAME-confirm`, next to the search's. Where it has begun, it is resumed.

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
        trust: confirm trials of a study although somebody else began it: what it names is imported.

    Raises:
        UsageError: there is no such study or run, it has no completed trial, or the confirmation that has begun under
            its name is of other trials or settings. (UntrustedError, a UsageError) the study is not this user's own.

    Example:
        >>> confirmation = Confirmer("digits-1", top=1, replicas=5).run()
        >>> confirmation.best.estimate.interval, confirmation.best.comparison.p_value
    """

    _kind = "confirmation"

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
        trust: bool = False,
    ) -> None:
        if baseline not in BASELINES:
            raise UsageError(f"unknown{did_you_mean(baseline, BASELINES)}", argument="baseline", value=baseline)
        found = find_source(source, top=top, storage_path=storage_path, tracking_uri=tracking_uri)
        if found.study is not None:
            check_trust(found.study, found.space.model_dump(), trust=trust)
        baselines = add_baseline(found.chosen, found.study, found.space) if baseline != "none" else []
        run = CandidateRun(
            list_candidates(found.space, found.chosen, replicas=replicas, baselines=baselines),
            kind=self._kind,
            name=found.name + SUFFIX,
            storage_path=found.storage,
            tracking_uri=found.study.tracking_uri if found.study else tracking_uri,
            experiment=found.study.experiment if found.study else found.name,
            address=address,
            callbacks=callbacks,
            trust=trust,
        )
        self._own(run)

    @property
    def candidates(self) -> CandidateList:
        """What is trained."""
        return self._run.candidates

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
        self._run.check_register(register)
        study = self._run.complete()
        confirmation = confirmation_of(study, self._run.candidates)
        best = confirmation.best_trial() if all_done(study) else None
        if best is not None:
            self._run.keep_weights(study, best, register)
        return confirmation


def confirmation_so_far(study: Study) -> Confirmation | None:
    """As `load_confirmation`, for what is shown beside a search: None too where it cannot be read."""
    if study.kind != "search":
        return None
    with suppress(UsageError, OSError):
        return load_confirmation(study)
    return None


def load_confirmation(study: Study) -> Confirmation | None:
    """The confirmation of a search as far as it has come; None where there is none."""
    folder = study_folder(parent(study.storage_path), study.name + SUFFIX)
    if not folder.exists():
        return None
    confirmed = folder.read()
    return confirmation_of(confirmed, stored_candidates(confirmed))
