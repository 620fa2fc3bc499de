"""`Tuner`: one call that runs a search from its space to its results."""

from __future__ import annotations

import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from samtune.data import check_dataset
from samtune.errors import RunError, UsageError
from samtune.records import Callback, Objective, Study, TrialState
from samtune.search.cluster import cluster_nodes, connected, local_node
from samtune.search.journal import Journal, read_journal
from samtune.search.plan import Plan, make_plan
from samtune.search.results import Results
from samtune.spec.source import parse_yaml
from samtune.spec.space import SearchSpace
from samtune.spec.trial import flatten
from samtune.tracking import MlflowTracker, default_tracking_uri, resolve_tracking_uri

DEFAULT_STORAGE = "samtune-results"
SPACE_FILE = "space.yaml"
INTERRUPTED = "interrupted"


class Tuner:
    """Searches a space with Ray Tune and Optuna on warm Ray Train groups, and logs everything to MLflow.

    Args:
        space: what is trained and searched.
        num_trials, num_workers, max_concurrent, seed: replace the space's own.
        name: of the study; default: the space's name and the time.
        storage_path: folder for all studies (default ./samtune-results); the study gets a folder of its name in it.
        tracking_uri: MLflow's; default: a sqlite store in `storage_path`, shared by all its studies.
        experiment: MLflow experiment; default: the space's name.
        address: of a running Ray cluster; default: the one that runs on this machine, else a new local one.
        callbacks: told of every trial and epoch.

    Example:
        >>> results = Tuner(SearchSpace.from_yaml("digits.yaml"), num_trials=8).fit()
        >>> results.best.config, results.best.metrics["val_accuracy"]
    """

    def __init__(
        self,
        space: SearchSpace,
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
    ) -> None:
        changes = {
            "num_trials": num_trials,
            "resources.num_workers": num_workers,
            "max_concurrent": max_concurrent,
            "seed": seed,
        }
        self.space = space.replace({key: value for key, value in changes.items() if value is not None})
        self.name = name or f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.storage_path = _local_folder(storage_path or DEFAULT_STORAGE)
        self.tracking_uri = (
            resolve_tracking_uri(tracking_uri) if tracking_uri else default_tracking_uri(str(self.storage_path))
        )
        self.experiment = experiment or space.name
        self.address = address
        self.callbacks = list(callbacks)
        self._earlier: Study | None = None
        self._stop: str | None = None

    def plan(self) -> Plan:
        """The resolved plan on this machine's resources; starts nothing. Raises UsageError where it cannot work."""
        check_dataset(self.space.data)
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
        study = read_journal(folder)
        data, source = parse_yaml(study.space_yaml, str(folder / SPACE_FILE))
        stored = SearchSpace.from_dict(data, source=source)
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
            storage_path=folder.parent,
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
            RunError: no trial succeeded.
        """
        check_dataset(self.space.data)
        folder = self.storage_path / self.name
        if self._earlier is None and folder.exists():
            raise UsageError(
                f"--name {self.name}: a study of that name is in {self.storage_path} already "
                f"(--resume {self.name} goes on with it)"
            )
        tracker = MlflowTracker(self.tracking_uri, self.experiment, warn=self._say)
        connecting = tracker.connect_in_background()
        with connected(self.address):
            plan = make_plan(self.space, cluster_nodes())
            connecting.result()  # before any worker starts: a tracking server that does not answer is an error
            folder.mkdir(parents=True, exist_ok=True)
            journal = Journal(folder)
            self.study = study = self._make_study(plan, folder)
            with self._interruptible():
                self._search(study, plan, [journal, tracker, *self.callbacks])
        interrupted = self._stop == INTERRUPTED
        if not interrupted and not study.count(TrialState.COMPLETED, TrialState.PRUNED):
            first = next((trial for trial in study if trial.error), None)
            raise RunError(f"no trial succeeded; the first failed with: {first.error if first else 'nothing was run'}")
        return Results(study, interrupted=interrupted)

    def _search(self, study: Study, plan: Plan, callbacks: list[Callback]) -> None:
        from samtune.workers.group import WorkerPool

        for callback in callbacks:
            callback.on_study_start(study)
        callbacks[0].on_study_start(study)  # the journal once more: now MLflow's ids are known
        pool = WorkerPool(
            num_groups=plan.num_groups,
            num_workers=plan.num_workers,
            cpus_per_worker=plan.cpus_per_worker,
            gpus_per_worker=plan.gpus_per_worker,
            storage_path=study.storage_path,
            checkpoint=self.space.checkpoint,
            max_failures=self.space.max_failures,
            timeout=self.space.timeout,
        )
        try:
            pool.start()
            self._say(
                f"starting {plan.num_groups} worker group{'s' * (plan.num_groups > 1)} of {plan.num_workers} "
                f"worker{'s' * (plan.num_workers > 1)}"
            )
            threading.Thread(target=self._relay_events, args=(pool.mailbox,), name="events", daemon=True).start()

            from samtune.search.tune_loop import run_trials  # while the groups start

            self._stop = run_trials(study, self.space, plan, pool, callbacks, lambda: self._stop) or self._stop
        finally:
            pool.close(timeout=3.0 if self._stop else 10.0)
            study.ended_at = time.time()
            for callback in callbacks:
                callback.on_study_end(study)

    # -- small parts -------------------------------------------------------------------------------------------------

    def _make_study(self, plan: Plan, folder: Path) -> Study:
        """A new study, or the earlier one with what may change."""
        study = Study(
            name=self.name,
            objective=Objective(self.space.objective.metric, self.space.objective.mode),
            num_trials=self.space.num_trials,
            space_yaml=self.space.to_yaml(),
            plan=plan.to_dict(),
            storage_path=str(folder),
            tracking_uri=self.tracking_uri,
            experiment=self.experiment,
            command=" ".join(["samtune", *sys.argv[1:]] if sys.argv[0].endswith("samtune") else sys.argv),
            versions=_versions(),
        )
        if self._earlier is not None:
            study.trials = self._earlier.trials
            study.parent_run_id = self._earlier.parent_run_id
        (folder / SPACE_FILE).write_text(study.space_yaml, encoding="utf-8")
        return study

    def _say(self, message: str) -> None:
        study = getattr(self, "study", None)
        if study is not None:
            for callback in self.callbacks:
                callback.on_status(study, message)

    def _relay_events(self, mailbox: Any) -> None:
        """Passes the mailbox's lines on until the search ends."""
        import ray

        known = 0
        while self.study.ended_at is None:
            try:
                events = ray.get(mailbox.events.remote(known))
            except ray.exceptions.RayError:
                return
            known += len(events)
            for event in events:
                if self.study.ended_at is None:
                    self._say(event)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C ends the search in order, the second at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: Any) -> None:
            if self._stop == INTERRUPTED:
                raise KeyboardInterrupt
            self._stop = INTERRUPTED
            self._say("interrupted: stopping the workers (once more to stop at once)")

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def study_folder(storage_path: str | Path | None, name: str) -> Path:
    """Where the study of that name is kept."""
    return _local_folder(storage_path or DEFAULT_STORAGE) / name


def _local_folder(path: str | Path) -> Path:
    if "://" in str(path):
        raise UsageError(f"--storage-path {path}: must be a folder on this machine's file system")
    folder = Path(path).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--storage-path {path}: must be a folder, and is a file")
    return folder


def _check_same(name: str, stored: SearchSpace, given: SearchSpace) -> None:
    """A study has one space: a changed one would mix results that cannot be compared."""
    old, new = flatten(stored.model_dump()), flatten(given.model_dump())
    different = [
        f"{key}: {old.get(key, 'absent')!r} in the study, {new.get(key, 'absent')!r} now"
        for key in dict.fromkeys([*old, *new])
        if key != "num_trials" and old.get(key, "absent") != new.get(key, "absent")
    ]
    if different:
        raise UsageError(f"--resume {name}: the space is not the study's: {'; '.join(different)}")


def _versions() -> dict[str, str]:
    packages = ("samtune", "ray", "torch", "torchvision", "optuna", "mlflow", "pyarrow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
