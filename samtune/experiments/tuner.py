"""`Tuner`: one call that runs a search from its space to its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from samtune.config.dumped import drop_searched
from samtune.config.notes import notes_on
from samtune.config.space import SearchSpace
from samtune.config.trial import OPEN_SECTION, SECTIONS, TrialSpec, flatten
from samtune.errors import UsageError
from samtune.experiments.plan import Plan, Summary, search_summary
from samtune.experiments.progress import Progress, display_for
from samtune.experiments.results import Results, raise_if_failed
from samtune.experiments.runner import Runner
from samtune.experiments.study_owner import StudyOwner
from samtune.experiments.trust import check_trust
from samtune.experiments.variants import search_layouts, search_variants
from samtune.formatting import counted
from samtune.store.study_folder import located, stored_space, study_folder
from samtune.study import Callback, Study, TrialState
from samtune.tune.trial_source import TrialSource
from samtune.user_code import absolute_path, name_function

if TYPE_CHECKING:
    from samtune.experiments.extension import Extension
    from samtune.experiments.warm_start import Earlier
    from samtune.train.trial_context import TrialContext

OPTIONS = {
    "num_trials": "--num-trials",
    "resources.num_workers": "--num-workers",
    "max_concurrent": "--max-concurrent",
    "seed": "--seed",
}
"""The arguments of a search that are keys of its space, and how the command line calls them."""


class Tuner(StudyOwner):
    """Searches a space with Ray Tune and Optuna on warm Ray Train groups, and logs everything to MLflow.

    Args:
        space: what is trained and searched; also its nested keys as a dict, or the name of its YAML file.
        num_trials, num_workers, max_concurrent, seed: replace the space's own.
        name: of the study; default: the space's name and the time.
        storage_path: folder for all studies (default ./samtune-results) or a URI such as s3://bucket/path; the study
            gets a folder of its name in it.
        tracking_uri: MLflow's; default: a sqlite store in `storage_path`, shared by all its studies. A remote
            `storage_path` cannot hold one: there it must be given.
        experiment: MLflow experiment; default: the space's name.
        address: of a running Ray cluster; default: the one that runs on this machine, else a new local one.
        callbacks: their hooks run on the driver for every trial and epoch.
        log_to: other trackers beside MLflow, `tensorboard` or `wandb`, each through its own library.
        model, data, loss, metrics: your own functions in place of the space's: what the import paths of
            `model.name`, `data.name`, `training.loss` and `training.metrics` would name. `data` may also be a pair
            (train, test) of torch Datasets or of tensors.
        train: a training function instead of the built-in loop, called with a `TrialContext` on every worker; the
            space then has no `data` and `model`.
        check: before any worker starts, one batch goes through the parts that are yours, in a process of its own; an
            error in it is raised as a UsageError. A training function is not checked so.

    Example:
        >>> results = Tuner(SearchSpace.from_yaml("digits.yaml"), num_trials=8).fit()
        >>> results.best.config, results.best.metrics["val_accuracy"]
    """

    def __init__(
        self,
        space: SearchSpace | Mapping[str, Any] | str | Path,
        *,
        num_trials: int | None = None,
        num_workers: int | Literal["auto"] | None = None,
        max_concurrent: int | None = None,
        seed: int | None = None,
        name: str | None = None,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        log_to: Sequence[str] = (),
        model: Callable[..., Any] | None = None,
        data: Callable[..., Any] | tuple[Any, Any] | None = None,
        loss: Callable[..., Any] | None = None,
        metrics: Sequence[Callable[..., Any]] | None = None,
        train: Callable[[TrialContext], None] | None = None,
        check: bool = True,
    ) -> None:
        changes = {
            "num_trials": num_trials,
            "resources.num_workers": num_workers,
            "max_concurrent": max_concurrent,
            "seed": seed,
            "train": train and name_function(train, "train"),
            "model.name": model and name_function(model, "model"),
            "data.name": data and name_function(data, "data"),
            "training.loss": loss and name_function(loss, "loss"),
            "training.metrics": None if metrics is None else [name_function(metric, "metric") for metric in metrics],
        }
        if train is not None and isinstance(space, Mapping):
            space = {**space, "train": changes.pop("train")}  # without it, the keys are no space
        space = _as_space(space)
        changes = {key: value for key, value in changes.items() if value is not None}
        self._own(
            located(space).replace(changes, OPTIONS),
            name=name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            experiment=experiment or space.name,
            address=address,
            callbacks=callbacks,
            log_to=log_to,
            check=check,
        )

    def _own(self, space: SearchSpace, **options: Any) -> None:
        self._trials = SearchTrials(space)
        self._runner = Runner(self._trials, kind="search", **options)

    @property
    def space(self) -> SearchSpace:
        """What is searched, with everything that was given over it."""
        return self._trials.definition

    @property
    def study(self) -> Study:
        """The study, once `fit` has begun it. Raises RunError before."""
        return self._runner.study

    @property
    def callbacks(self) -> list[Callback]:
        """They hear of every trial and epoch; more may be appended before `fit`."""
        return self._runner.callbacks

    def plan(self, *, import_code: bool = False) -> Plan:
        """The resolved plan on this machine's resources; starts nothing. Raises UsageError where it cannot work.

        Args:
            import_code: whether functions by import path may be imported, and that of the data be called, as `fit`
                does; else only their source is read, and the number of examples of their data is not known.
        """
        plan, runner = self._runner.plan(import_code=import_code), self._runner
        if runner.earlier is None:
            self._trials.check(runner.folder.storage, runner.tracking_uri)
        return plan

    @classmethod
    def resume(
        cls,
        name: str,
        *,
        storage_path: str | Path | None = None,
        num_trials: int | None = None,
        space: SearchSpace | None = None,
        extend: bool = False,
        max_concurrent: int | None = None,
        tracking_uri: str | None = None,
        budget: Mapping[str, Any] | None = None,
        retry_failed: bool = False,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        log_to: Sequence[str] = (),
        trust: bool = False,
        check: bool = True,
    ) -> Self:
        """A tuner that resumes a study whose driver has ended, however it ended; call `fit` on it.

        Finished trials keep their results, interrupted ones resume from their last checkpoint, and the trials that are
        missing are run.

        Args:
            name: of the study in `storage_path`.
            num_trials: how many trials the study shall have in all: more than before, or fewer to end it early, but not
                fewer than have begun.
            space: must be the study's own (but for num_trials); default: the stored one.
            extend: the study goes on in `space`, which may search other ranges, keys and constraints, but must not make
                an earlier trial another one than was trained. The trials that it still searches count, and the sampler
                learns from them; the others stay in the records. `num_trials` is then how many shall count, by default
                that of `space`.
            tracking_uri: another MLflow store than before, to which all trials are written again.
            budget: another budget than before, by key: `{"passes": 4000}`; None takes a limit away.
            retry_failed: runs the failed trials again.
            trust: resume it although somebody else began it, or on another machine: what it names is imported.
            log_to, check: as of `Tuner`.

        Raises:
            UsageError: there is no such study, it is not a search, the space is another, or it is not trusted.
        """
        folder = study_folder(storage_path, name)
        study = folder.read()
        if study.kind != "search":
            command = {"confirmation": "samtune confirm", "training": "samtune train"}[study.kind]
            raise UsageError(f"study {name} is a {study.kind}: `{command}` resumes it")
        if retry_failed:
            for trial in study:
                if trial.state is TrialState.FAILED:
                    trial.state, trial.diverged = TrialState.INTERRUPTED, False
        stored = stored_space(study, folder.uri)
        extension: Extension | None = None
        if extend:
            if space is None:
                raise UsageError("goes with the space in which the study continues", argument="extend")
            from samtune.experiments.extension import extend as extend_study

            before, stored = located(stored), located(space)
            extension = extend_study(study, before, stored)
            num_trials = (stored.num_trials if num_trials is None else num_trials) + extension.num_other
        elif space is not None:
            _check_same(name, stored, space)
        check_trust(study, stored.model_dump(), trust=trust or space is not None)
        num_trials = study.num_trials if num_trials is None else num_trials
        if num_trials < len(study.trials):  # begun: none of them is thrown away
            least = len(study.trials)
            these = f"{least} completes {'it' if least == 1 else 'these'} and ends the study early"
            problem = f"study {name} has begun {counted(least, 'trial')}; {these}"
            raise UsageError(problem, argument="num_trials", value=num_trials)
        given = {"num_trials": num_trials, "max_concurrent": max_concurrent}
        changes = {key: value for key, value in given.items() if value is not None}
        changes |= {f"budget.{key}": value for key, value in (budget or {}).items()}
        tuner = cls.__new__(cls)
        tuner._own(
            located(stored).replace(changes, OPTIONS),
            earlier=study,
            name=name,
            storage_path=storage_path,
            tracking_uri=tracking_uri,
            experiment=study.experiment,
            address=address,
            callbacks=callbacks,
            log_to=log_to,
            check=check,
        )
        tuner._trials.extension = extension
        return tuner

    def fit(self, *, progress: Progress = "auto") -> Results:
        """Runs the search.

        Args:
            progress: `auto` shows a live table where stdout is a terminal, and in a notebook a table below what the
                cell has shown; `lines` prints a line per trial; `none` shows nothing. A display among the callbacks
                replaces it.

        Returns:
            The results. After Ctrl-C, or an interrupt of the kernel, they hold what was finished, and
            `results.interrupted` is true.

        Raises:
            UsageError: before anything is started: data, cluster, tracking server or name will not do.
            SearchFailedError: (a RunError) no trial succeeded; has the results.
        """
        self._runner.callbacks += display_for(progress, self._runner.callbacks)
        study = self._runner.run()
        raise_if_failed(study, self._runner.ending)
        return Results(study, interrupted=self._runner.ending.interrupted)


class SearchTrials:
    """The trials of a search: Optuna proposes them from a space (see `samtune.experiments.trials.Trials`)."""

    def __init__(self, space: SearchSpace) -> None:
        self.definition = space
        self.extension: Extension | None = None
        """Where a study goes on in another space than it was begun with."""
        self._warm: list[Earlier] = []

    def variants(self) -> Iterable[TrialSpec]:
        return search_variants(self.definition)

    def layouts(self) -> Sequence[TrialSpec] | None:
        return search_layouts(self.definition)

    def summary(self) -> Summary:
        return search_summary(self.definition)

    def check(self, storage: str, tracking_uri: str) -> None:
        """Raises UsageError where what `warm_start` names is not there."""
        if self.definition.warm_start:
            from samtune.experiments.warm_start import check_earlier

            check_earlier(self.definition, storage, tracking_uri)

    def prepare(self, storage: str, tracking_uri: str) -> None:
        if self.definition.warm_start:
            from samtune.experiments.warm_start import load_earlier

            self._warm = load_earlier(self.definition, storage, tracking_uri)

    def source(self, study: Study, folder: Path, parallel: bool) -> tuple[TrialSource, list[str]]:
        from samtune.store.optuna_journal import FILE_NAME
        from samtune.tune.optuna_trials import OptunaTrials, open_study

        lines = [f"note: {note}" for note in notes_on(self.definition)] if not study.trials else []
        if self._warm:
            from samtune.experiments.warm_start import warm_start

            lines += warm_start(self.definition, study.name, folder, self._warm)
        warm = []
        if self.extension is not None:
            from samtune.experiments.extension import add_warm, set_aside

            warm = set_aside(folder)
            lines.append(self.extension.line())
        optuna_study = open_study(self.definition, study.name, folder / FILE_NAME, parallel, study.trials, lines.append)
        if warm:
            add_warm(optuna_study, self.definition, warm)
        return OptunaTrials(self.definition, optuna_study, study.trials), lines


def _as_space(space: SearchSpace | Mapping[str, Any] | str | Path) -> SearchSpace:
    if isinstance(space, SearchSpace):
        return space
    return SearchSpace.from_dict(space) if isinstance(space, Mapping) else SearchSpace.from_yaml(space)


def _check_same(name: str, stored: SearchSpace, given: SearchSpace) -> None:
    """A study has one space: a changed one would mix results that cannot be compared."""
    folder = located(given).folder if given.folder else stored.folder
    same: dict[str, Any] = {"num_trials": stored.num_trials, "folder": folder}
    if given.train is not None:
        same["train"] = absolute_path(given.train, folder or ".")
    old, new = flatten(_settings(stored)), flatten(_settings(given) | same)
    different = [
        f"{key}: {old.get(key, 'absent')!r} in the study, {new.get(key, 'absent')!r} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, "absent") != new.get(key, "absent")
    ]
    if different:
        problem = f"the space is not the study's: {'; '.join(different)}"
        raise UsageError(problem, argument="resume", value=name)


def _settings(space: SearchSpace) -> dict[str, Any]:
    """What a space sets, with the defaults that its YAML leaves out: studies of before have stored them."""
    data = space.model_dump()
    whole = [key for key in SECTIONS if key in data and key != OPEN_SECTION and key not in space.search]
    data |= {key: getattr(space, key).model_dump() for key in whole}
    drop_searched(data, space.search)
    return data
