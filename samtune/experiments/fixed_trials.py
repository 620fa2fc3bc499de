"""Runs a list of candidates as a study: same groups, journal, MLflow and resume as a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

from samtune.config.data import OwnDataConfig
from samtune.config.model import is_one_shape
from samtune.config.trial import TrialSpec
from samtune.data.info import dataset_info
from samtune.errors import RunError, UsageError
from samtune.experiments.candidates import CandidateList, stored_candidates
from samtune.experiments.plan import Summary
from samtune.experiments.results import raise_if_failed
from samtune.experiments.runner import Runner
from samtune.experiments.study_owner import StudyOwner
from samtune.experiments.study_record import all_done
from samtune.experiments.trust import check_trust
from samtune.storage import WEIGHTS, delete_folder, is_file, join, read_bytes, trial_weights, write_bytes
from samtune.store.study_files import check_links
from samtune.store.study_folder import StudyFolder, study_folder, weights_file
from samtune.study import Callback, Study, StudyKind, Trial
from samtune.tune.trial_source import FixedTrials, TrialSource


class CandidateTrials:
    """The trials of a list of candidates (see `samtune.experiments.trials.Trials`)."""

    def __init__(self, candidates: CandidateList) -> None:
        self.definition = candidates

    def variants(self) -> Iterable[TrialSpec]:
        return self.definition.candidates.values()

    def layouts(self) -> Sequence[TrialSpec]:
        return list(self.definition.candidates.values())

    def summary(self) -> Summary:
        return Summary(sampler="fixed list")

    def prepare(self, storage: str, tracking_uri: str) -> None:
        """A list names nothing else."""

    def source(self, study: Study, folder: Path, parallel: bool) -> tuple[TrialSource, list[str]]:
        return FixedTrials(self.definition.configs(), study.trials), []


class CandidateRun:
    """A study of a list of candidates. Where it has begun, it is resumed.

    Args:
        candidates: what is trained; None: what the study of this name was started with.
        kind, name, storage_path, tracking_uri, experiment, address, callbacks: as of `Runner`.
        trust: as of `Tuner.resume`.

    Raises:
        UsageError: the study that has begun under this name has other candidates, or there is none to resume.
    """

    def __init__(
        self,
        candidates: CandidateList | None,
        *,
        kind: StudyKind,
        name: str,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        trust: bool = False,
        check: bool = True,
    ) -> None:
        folder = study_folder(storage_path, name)
        begun = folder.read() if candidates is None or folder.exists() else None
        if begun is not None and candidates is not None:
            candidates = candidates.labelled_as(before := stored_candidates(begun))
            if not _continues(before, candidates):
                raise UsageError(
                    f"study {name} has trained something else before (other trials or settings): "
                    f"delete {folder.uri} to start over"
                )
        if begun is not None and begun.kind != kind:
            raise UsageError(f"study {name} is a {begun.kind}, not a {kind}")
        if candidates is None:
            assert begun is not None  # `read` raises where there is none
            candidates = stored_candidates(begun)
            check_trust(begun, candidates.model_dump(), trust=trust)
        elif begun is not None:
            check_trust(begun, {}, trust=trust)  # its candidates are the user's own, but not its tracking server
        self.candidates = candidates
        self.runner = Runner(
            CandidateTrials(candidates),
            kind=kind,
            name=name,
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            experiment=experiment or candidates.name,
            address=address,
            callbacks=callbacks,
            earlier=begun,
            check=check and kind == "training",  # what is confirmed has been trained before
        )

    @property
    def folder(self) -> StudyFolder:
        """Where the study is kept."""
        return self.runner.folder

    def complete(self) -> Study:
        """Runs what is missing; starts nothing where nothing is.

        Raises:
            UsageError: before anything is started: data, cluster or tracking server will not do.
            SearchFailedError: (a RunError) no trial succeeded; has the results.
        """
        begun = self.runner.earlier
        if begun is not None and all_done(begun, self.candidates.num_trials):
            check_links(self.folder.local)  # the best weights may still have to be moved
            return begun
        study = self.runner.run()
        raise_if_failed(study, self.runner.ending)
        return study

    def keep_weights(self, study: Study, best: Sequence[Trial], register: str | None) -> None:
        """Keeps the weights of one trial, and no others, and logs them to MLflow as a model. Safe to repeat.

        Args:
            best: the first whose weights are there is kept: where replicas were added to a confirmation, the weights
                of its earlier ones are gone, but for those in `best.safetensors`.
            register: also makes a new version of MLflow's registered model of this name.

        Raises:
            TrackingError: the tracking server does not take the model.
        """
        content = None
        if any(is_file(trial_weights(study.storage_path, trial.id)) for trial in study):
            for trial in best:
                content = read_bytes(trial_weights(study.storage_path, trial.id))
                if content is not None or self._is_kept(study, trial):
                    break
        if content is not None:
            write_bytes(weights_file(study), content)
        if content is not None or register:
            self._log_model(study, register)
        delete_folder(join(study.storage_path, WEIGHTS))  # last: while they are there, this is not done

    def _is_kept(self, study: Study, trial: Trial) -> bool:
        """Whether `best.safetensors` holds the weights of this trial."""
        from samtune.models.saved import read_saved

        if not is_file(weights_file(study)):
            return False
        kept = read_saved(weights_file(study))[2]
        return kept.params() == trial.params

    def check_register(self, register: str | None) -> None:
        """Raises UsageError where the network cannot be registered as a model."""
        for spec in self.candidates.candidates.values():
            if register and spec.train is not None:
                problem = f"only {spec.train} can build the network; its weights are kept in best.safetensors"
                raise UsageError(problem, argument="register", value=register)
            own = isinstance(spec.data, OwnDataConfig)
            if register and own and not is_one_shape(dataset_info(spec.data).input_shape):
                problem = "the network takes nested inputs; its weights are kept in best.safetensors"
                raise UsageError(problem, argument="register", value=register)

    def _log_model(self, study: Study, register: str | None) -> None:
        if any(spec.train is not None for spec in self.candidates.candidates.values()):
            return  # only the training function can build the network
        from samtune.models.saved import function_of, load_model, saved_input_shape
        from samtune.tracking.models import ModelNotLoggedError, log_model

        weights, run_id = weights_file(study), study.parent_run_id
        assert run_id is not None
        shape = saved_input_shape(weights)
        if not is_one_shape(shape):
            return  # MLflow's signature is of one array
        function = function_of(weights, (spec.model for spec in self.candidates.candidates.values()))
        model = load_model(weights, model=function)
        try:
            log_model(self.runner.tracking_uri, run_id, model, shape, registered_name=register)
        except ModelNotLoggedError as error:
            if register:
                raise RunError(
                    f"the network is not registered in MLflow: {error}; its weights are in {weights}"
                ) from error
            self.runner.say(f"note: the network is no model in MLflow: {error}; its weights are in {weights}")


def _continues(begun: CandidateList, candidates: CandidateList) -> bool:
    """Whether a list is that of a study that has begun, or has more replicas of the same candidates."""
    return (
        begun.replicas <= candidates.replicas
        and begun.model_copy(update={"replicas": candidates.replicas, "chosen_baselines": candidates.chosen_baselines})
        == candidates
    )


class CandidatesOwner(StudyOwner):
    """What `Confirmer` and `Training` have in common: each runs a study of a list of candidates."""

    _kind: ClassVar[StudyKind]

    def _own(self, run: CandidateRun) -> None:
        self._run, self._runner = run, run.runner

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
        """One that resumes the study of that name with what it was started with; call `run` on it.

        Args:
            name: of the study; a confirmation's own is `NAME-confirm`.

        Raises:
            UsageError: there is no such study, or it is of another kind.
        """
        owner = cls.__new__(cls)
        owner._own(
            CandidateRun(
                None,
                kind=cls._kind,
                name=name,
                storage_path=storage_path,
                address=address,
                callbacks=callbacks,
                trust=trust,
            )
        )
        return owner
