"""`Confirmer`: the best trials of a search, retrained and tested."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.candidates import CandidateList, distinguish, list_candidates, stored_candidates
from samtune.experiments.confirm_candidates import add_baselines, find_sources, first_seed, joined
from samtune.experiments.confirmation import Confirmation, confirmation_of
from samtune.experiments.fixed_trials import CandidateRun, CandidatesOwner
from samtune.experiments.study_record import all_done
from samtune.experiments.trust import check_trust
from samtune.storage import parent
from samtune.store.study_folder import StudyFolder, study_folder
from samtune.study import Callback, Study

SUFFIX = "-confirm"
NEW_REPLICAS = 5


class Confirmer(CandidatesOwner):
    """Retrains the best trials of a study on the whole training set, with new seeds, and tests each once.

    The confirmation is a study of its own, `NAME-confirm`, next to the search's. Where it has begun, it is resumed.

    Args:
        source: a study's name; the id of an MLflow run, of a search or of one trial; or a `SearchSpace` (or the path
            of its YAML) of which nothing is searched. A list of them is confirmed together, as `A-B-confirm`: the
            same seeds and the same baseline for the best of each.
        storage_path: folder or URI of all studies; default ./samtune-results.
        tracking_uri: where to look for a run, and where a space's confirmation is tracked; a search's confirmation
            is tracked where the search was.
        top: how many of a search's best trials; of several searches, of each.
        replicas: seeds of each; two at least give an interval. More than the confirmation was begun with are added to
            it. Default: as many as it has, and 5 of a new one.
        baseline: `sgd` adds plain SGD for as many epochs and for as many passes as the best trial (see
            `add_baseline`), `none` nothing. The name of a study adds its best trial as it was found: a baseline that
            was tuned as well.
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
        source: str | SearchSpace | Sequence[str | SearchSpace],
        *,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        top: int = 3,
        replicas: int | None = None,
        baseline: str = "sgd",
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        trust: bool = False,
    ) -> None:
        texts = [source] if isinstance(source, str | SearchSpace) else list(source)
        sources = find_sources(texts, top=top, storage_path=storage_path, tracking_uri=tracking_uri)
        found = replace(one := joined(sources), chosen=distinguish(one.chosen))
        before = set(found.chosen)
        baselines, tuned = add_baselines(found, baseline, found.storage)
        sources += [tuned] if tuned else []
        for each in sources:
            if each.study is not None:
                check_trust(each.study, each.space.model_dump(), trust=trust)
        name = found.name + SUFFIX
        run = CandidateRun(
            list_candidates(
                found.space,
                found.chosen,
                replicas=_num_replicas(study_folder(found.storage, name), replicas),
                baselines=baselines,
                chosen_baselines=[label for label in baselines if label in before],
                first_seed=first_seed(sources),
            ),
            kind=self._kind,
            name=name,
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
        best = confirmation.best_trials() if all_done(study) else []
        if best:
            self._run.keep_weights(study, best, register)
        return confirmation


def _num_replicas(folder: StudyFolder, asked: int | None) -> int:
    """How many replicas a confirmation shall have.

    Raises:
        UsageError: fewer than it was begun with.
    """
    if not folder.exists():
        return NEW_REPLICAS if asked is None else asked
    study = folder.read()
    begun = stored_candidates(study).replicas
    if asked is not None and asked < begun:
        problem = f"study {study.name} was begun with {begun}: give as many, more, or none to resume or see it"
        raise UsageError(problem, argument="replicas", value=asked)
    return begun if asked is None else asked


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
