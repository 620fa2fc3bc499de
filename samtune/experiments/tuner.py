"""`Tuner`: one call that runs a search from its space to its results."""

from __future__ import annotations

import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from samtune.config.space import SearchSpace
from samtune.config.trial import flatten
from samtune.errors import UsageError
from samtune.experiments.plan import Plan, check_data, make_plan
from samtune.experiments.results import HOPELESS, Results, SearchFailedError
from samtune.experiments.signals import interrupts_to
from samtune.raylib.cluster import addable_nodes, connected, local_node, look_at_cluster
from samtune.raylib.runtime_env import runtime_env
from samtune.raylib.storage_check import check_storage
from samtune.store.study_folder import SPACE_FILE, StudyFolder, located, stored_space, study_folder
from samtune.study import Callback, Study, TrialState
from samtune.tracking import MlflowTracker, default_tracking_uri, resolve_tracking_uri
from samtune.tune.objectives import objectives_of
from samtune.user_code import given_functions, name_function
from samtune.workers.elasticity import ElasticityThread
from samtune.workers.events import EventThread

if TYPE_CHECKING:
    from samtune.experiments.warm_start import Earlier
    from samtune.workers.pool import WorkerPool

INTERRUPTED = "interrupted"
OPTIONS = {
    "num_trials": "--num-trials",
    "resources.num_workers": "--num-workers",
    "max_concurrent": "--max-concurrent",
    "seed": "--seed",
}
"""The arguments of a search that are keys of its space, and how the command line calls them."""


class Tuner:
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
        callbacks: told of every trial and epoch.
        model, data, loss, metrics: functions of one's own in place of the space's: what the import paths of
            `model.name`, `data.name`, `training.loss` and `training.metrics` would name. `data` may also be a pair
            (train, test) of torch Datasets or of tensors.

    Example:
        >>> results = Tuner(SearchSpace.from_yaml("digits.yaml"), num_trials=8).fit()
        >>> results.best.config, results.best.metrics["val_accuracy"]
    """

    kind: ClassVar[Literal["search", "confirmation", "training"]] = "search"

    def __init__(
        self,
        space: SearchSpace | Mapping[str, Any] | str | Path,
        *,
        num_trials: int | None = None,
        num_workers: int | None = None,
        max_concurrent: int | None = None,
        seed: int | None = None,
        name: str | None = None,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        model: Callable[..., Any] | None = None,
        data: Callable[..., Any] | tuple[Any, Any] | None = None,
        loss: Callable[..., Any] | None = None,
        metrics: Sequence[Callable[..., Any]] | None = None,
    ) -> None:
        changes = {
            "num_trials": num_trials,
            "resources.num_workers": num_workers,
            "max_concurrent": max_concurrent,
            "seed": seed,
            "model.name": model and name_function(model, "model"),
            "data.name": data and name_function(data, "data"),
            "training.loss": loss and name_function(loss, "loss"),
            "training.metrics": None if metrics is None else [name_function(metric, "metric") for metric in metrics],
        }
        space = _as_space(space)
        changes = {key: value for key, value in changes.items() if value is not None}
        self.space = located(space).replace(changes, OPTIONS)
        self.name = name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.folder = study_folder(storage_path, self.name)
        self.tracking_uri = (
            resolve_tracking_uri(tracking_uri) if tracking_uri else default_tracking_uri(self.folder.storage)
        )
        self.experiment = experiment or space.name
        self.address = address
        self.callbacks = list(callbacks)
        if wrong := [callback for callback in callbacks if not isinstance(callback, Callback)]:
            raise UsageError(f"callbacks: must be instances of samtune.Callback (got {wrong[0]!r})")
        self._earlier: Study | None = None
        self._warm: list[Earlier] = []
        self._stop: str | None = None
        self._is_over = False
        self._interrupted = False
        self._pool: WorkerPool | None = None
        self._relay: EventThread | None = None

    def plan(self) -> Plan:
        """The resolved plan on this machine's resources; starts nothing. Raises UsageError where it cannot work."""
        self._check_new()
        if self._earlier is None and self.space.warm_start:
            from samtune.experiments.warm_start import check_earlier

            check_earlier(self.space, self.folder.storage, self.tracking_uri)
        return make_plan(self.space, [local_node()])

    def stop(self, reason: str = "stopped") -> None:
        """Ends the running search from a callback, a signal handler or another thread; what is finished is kept."""
        self._stop = self._stop or reason

    @classmethod
    def resume(
        cls,
        name: str,
        *,
        storage_path: str | Path | None = None,
        num_trials: int | None = None,
        space: SearchSpace | None = None,
        max_concurrent: int | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """A tuner that goes on with a study whose driver has ended, however it ended; call `fit` on it.

        Finished trials keep their results, interrupted ones go on from their last checkpoint, and the trials that are
        missing are run.

        Args:
            name: of the study in `storage_path`.
            num_trials: how many trials the study shall have in all, if more than before.
            space: must be the study's own (but for num_trials); default: the stored one.

        Raises:
            UsageError: there is no such study, or the space is another.
        """
        folder = study_folder(storage_path, name)
        study = folder.read()
        stored = stored_space(study, folder.uri)
        if space is not None:
            _check_same(name, stored, space)
        num_trials = study.num_trials if num_trials is None else num_trials
        if num_trials < study.num_trials:
            raise UsageError(f"--num-trials {num_trials}: study {name} has {study.num_trials} trials; it can only grow")
        tuner = cls(
            stored,
            num_trials=num_trials,
            max_concurrent=max_concurrent,
            name=name,
            storage_path=storage_path,
            tracking_uri=study.tracking_uri,
            experiment=study.experiment,
            address=address,
            callbacks=callbacks,
        )
        tuner._earlier = study
        return tuner

    def fit(self) -> Results:
        """Runs the search.

        Returns:
            The results. After Ctrl-C they hold what was finished, and `results.interrupted` is true.

        Raises:
            UsageError: before anything is started: data, cluster, tracking server or name will not do.
            SearchFailedError: (a RunError) no trial succeeded; has the results.
        """
        check_data(self.space)  # the plan does too, but only once Ray has been started
        folder = self.folder
        self._check_new()
        tracker = MlflowTracker(self.tracking_uri, self.experiment, warn=self._say)
        connecting = tracker.connect_in_background()
        with ExitStack() as until_disconnected, connected(self.address, self._runtime_env):
            nodes = look_at_cluster().nodes
            plan = make_plan(self.space, list(nodes.values()), addable_nodes())
            if len(nodes) > 1:
                check_storage(self.folder.storage, nodes)
            connecting.result()  # before any worker starts: a tracking server that does not answer is an error
            self._warm = self._load_warm_start()  # too: what it names may not be there
            keepers = folder.open(self._say, self.stop)
            self.study = study = self._make_study(plan, folder)
            # To the end of Ray's shutdown, which takes seconds: a Ctrl-C in it must not lose the results.
            until_disconnected.enter_context(interrupts_to(self._on_interrupt))
            self._search(study, plan, [*keepers, tracker, *self.callbacks])
        results = Results(study, interrupted=self._interrupted)
        if self._stop is None or self._stop == HOPELESS:
            failed = next((trial for trial in study if trial.state is TrialState.FAILED), None)
            if failed is not None and not study.count(TrialState.COMPLETED, TrialState.PRUNED):
                raise SearchFailedError(f"no trial succeeded; the first failed with: {failed.error}", results)
        return results

    def _search(self, study: Study, plan: Plan, callbacks: list[Callback]) -> None:
        """Starts the groups, runs the trials, and ends both whatever happens in between."""
        with ExitStack() as ending:
            started: list[Callback] = []
            ending.callback(_tell_end, study, started)
            for callback in callbacks:
                started.append(callback)
                callback.on_study_start(study)
            callbacks[0].on_study_start(study)  # the journal once more: now MLflow's ids are known
            self._warm_start()
            self._pool = pool = self._make_pool(plan, study)
            ending.callback(self._end, study, pool)
            pool.start()
            waiting = f", {plan.num_waiting} of which wait for nodes" if plan.num_waiting else ""
            self._say(
                f"starting {plan.num_groups} worker group{'s' * (plan.num_groups > 1)} of {plan.num_workers} "
                f"worker{'s' * (plan.num_workers > 1)}{waiting}"
            )
            most = min(self.space.num_trials, self.space.max_concurrent or self.space.num_trials)
            watch = ElasticityThread(pool, most, self._say)
            ending.callback(watch.stop)
            watch.start()
            self._relay = EventThread(pool, self._say)
            self._relay.start()

            from samtune.tune.tune_loop import run_trials  # while the groups start

            reason = run_trials(
                study,
                self.folder.local,
                self.space,
                plan,
                pool,
                callbacks,
                stop_reason=lambda: self._stop,
                num_placed=lambda: watch.num_placed,
            )
            self._stop, self._is_over = reason or self._stop, True

    def _make_pool(self, plan: Plan, study: Study) -> WorkerPool:
        from samtune.workers.pool import WorkerPool

        return WorkerPool(
            num_groups=plan.num_groups,
            num_workers=plan.num_workers,
            cpus_per_worker=plan.cpus_per_worker,
            gpus_per_worker=plan.gpus_per_worker,
            storage_path=study.storage_path,
            checkpoint=self.space.checkpoint,
            max_failures=self.space.max_failures,
            timeout=self.space.timeout,
            parts=given_functions(flatten(self.space.model_dump()).values()),
        )

    def _end(self, study: Study, pool: WorkerPool) -> None:
        """Before the callbacks hear of the end: no thread may be in Ray when it is shut down."""
        study.usage = pool.usage(study.started_at)
        pool.close(timeout=3.0 if self._stop else 10.0)
        if self._relay is not None:
            self._relay.join(30.0)  # ends with the coordinator
        pool.forget()
        self._pool = self._relay = None
        study.ended_at = time.time()

    # -- small parts -------------------------------------------------------------------------------------------------

    def _check_new(self) -> None:
        if self._earlier is None and self.folder.exists():
            raise UsageError(
                f"--name {self.name}: a study of that name is in {self.folder.storage} already "
                f"(--resume {self.name} goes on with it)"
            )

    def _runtime_env(self) -> dict[str, Any]:
        return runtime_env(flatten(self.space.model_dump()).values())

    def _make_study(self, plan: Plan, folder: StudyFolder) -> Study:
        """A new study, or the earlier one with what may change."""
        study = Study(
            name=self.name,
            objectives=objectives_of(self.space),
            num_trials=self.space.num_trials,
            space_yaml=self.space.to_yaml(),
            plan=plan.to_dict(),
            storage_path=folder.uri,
            tracking_uri=self.tracking_uri,
            experiment=self.experiment,
            command=_command_line(),
            versions=_versions(),
            kind=self.kind,
        )
        if self._earlier is not None:
            study.trials = self._earlier.trials
            study.parent_run_id = self._earlier.parent_run_id
            if study.parent_run_id is None:
                study.started_at = self._earlier.started_at  # by which MLflow's run is found, if it was created
        (folder.local / SPACE_FILE).write_text(study.space_yaml, encoding="utf-8")
        return study

    def _load_warm_start(self) -> list[Earlier]:
        if self._earlier is not None or not self.space.warm_start:
            return []
        from samtune.experiments.warm_start import load_earlier

        return load_earlier(self.space, self.folder.storage, self.tracking_uri)

    def _warm_start(self) -> None:
        if self._warm:
            from samtune.experiments.warm_start import warm_start

            for line in warm_start(self.space, self.name, self.folder.local, self._warm):
                self._say(line)

    def _say(self, message: str) -> None:
        study = getattr(self, "study", None)
        if study is not None:
            for callback in self.callbacks:
                callback.on_status(study, message)

    def _on_interrupt(self, count: int) -> None:
        """The first Ctrl-C ends the search in order, the second without waiting for the workers, the third at once."""
        if not self._is_over:  # else all trials have ended, and only the workers have not
            self._interrupted, self._stop = True, self._stop or INTERRUPTED
        if count > 2:
            raise KeyboardInterrupt
        if count == 2 and self._pool is not None:
            self._pool.kill()
        if count == 1 and not self._is_over:
            # In a thread: the line that this interrupts may be in the middle of a display, and hold its lock.
            message = "interrupted: stopping the workers (once more to stop them at once)"
            threading.Thread(target=self._say, args=(message,), daemon=True).start()


def _tell_end(study: Study, callbacks: Sequence[Callback]) -> None:
    """Tells all callbacks that the study has ended, in their order, whatever one of them raises."""
    study.ended_at = study.ended_at or time.time()
    with ExitStack() as stack:  # unwinds from the last to the first
        for callback in reversed(callbacks):
            stack.callback(callback.on_study_end, study)


def _as_space(space: SearchSpace | Mapping[str, Any] | str | Path) -> SearchSpace:
    if isinstance(space, SearchSpace):
        return space
    return SearchSpace.from_dict(space) if isinstance(space, Mapping) else SearchSpace.from_yaml(space)


def _check_same(name: str, stored: SearchSpace, given: SearchSpace) -> None:
    """A study has one space: a changed one would mix results that cannot be compared."""
    folder = located(given).folder if given.folder else stored.folder
    same = {"num_trials": stored.num_trials, "folder": folder}
    old, new = flatten(stored.model_dump()), flatten(given.model_dump() | same)
    different = [
        f"{key}: {old.get(key, 'absent')!r} in the study, {new.get(key, 'absent')!r} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, "absent") != new.get(key, "absent")
    ]
    if different:
        raise UsageError(f"--resume {name}: the space is not the study's: {'; '.join(different)}")


def _command_line() -> str:
    """What started this process, to be pasted into a shell."""
    program = Path(sys.argv[0]).name
    return shlex.join(["samtune", *sys.argv[1:]] if program in ("samtune", "__main__.py") else sys.argv)


def _versions() -> dict[str, str]:
    packages = ("samtune", "ray", "torch", "torchvision", "optuna", "mlflow", "pyarrow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
