"""Runs one study, whatever its trials come from: a search, a confirmation, or a single training."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.config.trial import TrialSpec, flatten
from samtune.errors import RunError, UsageError
from samtune.experiments.aftermath import Watcher
from samtune.experiments.card_sharing import share_cards
from samtune.experiments.confirmed_study import confirmation_in, confirmation_lines
from samtune.experiments.first_batch import FirstBatch
from samtune.experiments.plan import Plan, make_plan
from samtune.experiments.plan_checks import prepare_files_of
from samtune.experiments.signals import Interrupted, interrupts_to
from samtune.experiments.study_record import all_done, new_record, take_over, writes_elsewhere
from samtune.experiments.summary import resume_command
from samtune.experiments.trials import Trials
from samtune.experiments.verdict import verdict_of
from samtune.experiments.widening import Widening
from samtune.formatting import counted
from samtune.raylib.cluster import Node, addable_nodes, connected, is_own_cluster, local_node, look_at_cluster
from samtune.raylib.cluster_loss import ClusterLossThread, kill_own_cluster
from samtune.raylib.limits import check_limits
from samtune.raylib.runtime_env import runtime_env
from samtune.raylib.storage_check import check_storage
from samtune.store.kept_weights import KeptWeights
from samtune.store.study_files import write_file
from samtune.store.study_folder import SPACE_FILE, study_folder
from samtune.study import Callback, Study, StudyKind, TrialState, is_over
from samtune.tracking import (
    MlflowTracker,
    default_tracking_uri,
    hide_credentials,
    loggers,
    resolve_tracking_uri,
)
from samtune.tune.ending import Ending
from samtune.tune.objectives import objectives_of
from samtune.tune.trial_source import TrialSource
from samtune.user_code import given_functions, refuse_within_script
from samtune.workers.elasticity import ElasticityThread
from samtune.workers.events import EventThread

if TYPE_CHECKING:
    from samtune.workers.pool import WorkerPool

INTERRUPTED = "interrupted"


class Runner:
    """Runs the trials of a study on warm worker groups, and tells the store, MLflow and the callbacks of them.

    Args:
        trials: what is run.
        kind: what the study is, for its records.
        name: of the study.
        storage_path, tracking_uri, experiment, address, callbacks: as of `Tuner`.
        earlier: the study as it stands, where it is resumed; its MLflow address and experiment are kept.
        log_to: other trackers, see `samtune.tracking.loggers`.
        check: whether one batch is tried before any worker starts, see `FirstBatch`.

    Attributes:
        ending: tells anyone whether the study is to end, and why.
    """

    def __init__(
        self,
        trials: Trials,
        *,
        kind: StudyKind,
        name: str,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        experiment: str,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
        earlier: Study | None = None,
        check: bool = True,
        log_to: Sequence[str] = (),
    ) -> None:
        self.trials, self.kind, self.name, self.earlier = trials, kind, name, earlier
        self.folder = study_folder(storage_path, name)
        if earlier is not None:
            tracking_uri, experiment = tracking_uri or earlier.tracking_uri, earlier.experiment
        self.tracking_uri = (
            hide_credentials(resolve_tracking_uri(tracking_uri))
            if tracking_uri
            else default_tracking_uri(self.folder.storage)
        )
        self.experiment, self.address, self.check = experiment, address, check
        if wrong := [callback for callback in callbacks if not isinstance(callback, Callback)]:
            raise UsageError(f"callbacks: must be instances of samtune.Callback (got {wrong[0]!r})")
        self.callbacks = [*loggers(log_to, self.folder.storage), *callbacks]
        self.ending = Ending()
        self._study: Study | None = None
        self._started: list[Callback] = []
        self._notes: list[str] = []
        self._pool: WorkerPool | None = None
        self._watcher = Watcher(self.folder.local)

    @property
    def study(self) -> Study:
        """The study, once `run` has begun it. Raises RunError before."""
        if self._study is None:
            raise RunError(f"study {self.name} has not begun")
        return self._study

    def plan(self, *, import_code: bool = False) -> Plan:
        """The resolved plan on this machine's resources; starts nothing. Raises UsageError where it cannot work.

        Args:
            import_code: as of `make_plan`.
        """
        self._check_new()
        return self._make_plan([local_node()], import_code=import_code)

    def run(self) -> Study:
        """Runs what the study still lacks.

        Returns:
            The study; after Ctrl-C it holds what was finished, and `ending.interrupted` is true.

        Raises:
            UsageError: before anything is started: data, cluster, tracking server or name will not do, or another
                process runs the study.
        """
        refuse_within_script()
        self._check_new()
        if self.earlier is not None:
            self.folder.check_free()
            if all_done(self.earlier, self.trials.definition.num_trials):
                return self._close_again(self.earlier)
        check_limits()
        prepare_files_of(self._variants)  # damaged data are found before Ray is started, and once
        tracker = MlflowTracker(self.tracking_uri, self.experiment, warn=self.say)
        tried = self._variants if self.check else []
        # From before Ray starts, where a Python exception in the middle crashes its core, to the end of its shutdown,
        # which takes seconds: a Ctrl-C in it must not lose the results.
        with (
            FirstBatch(tried, self.trials.definition.resources) as first_batch,
            interrupts_to(self._on_interrupt) as take_signals_back,
        ):
            is_waiting = threading.Event()  # MLflow is imported while Ray's processes start, not before
            connecting = tracker.connect_in_background(is_waiting)
            with connected(self.address, self._runtime_env, is_waiting):
                take_signals_back()  # Ray ends the process on SIGTERM
                return self._run_on_cluster(tracker, connecting, first_batch)

    def _run_on_cluster(self, tracker: MlflowTracker, connecting: Future[None], first_batch: FirstBatch) -> Study:
        """Once Ray is connected. `connecting` has the end of the tracker's connecting."""
        nodes = look_at_cluster().nodes
        plan = self._make_plan(list(nodes.values()), addable_nodes())
        if len(nodes) > 1:
            check_storage(self.folder.storage, nodes)
        self._notes = first_batch.result(lambda: self.ending.signal is not None)
        self._check_interrupt()
        plan = self._with_shared_cards(plan, list(nodes.values()))
        with self._made_pool(plan) as pool:
            if is_own_cluster():  # nothing is in the study's folder yet; on others Ray Train has files in it
                pool.start()  # the workers import torch while this process imports MLflow
            connecting.result()
            if self.earlier is None:
                self.trials.prepare(self.folder.storage, self.tracking_uri)  # what it names may not be there
            self._check_interrupt()
            keepers = self.folder.open(self.say, self.ending.stop)
            self._study = study = self._begin_record(plan)
            study.experiment_id, study.parent_run_id = tracker.open(study)
            pool.start()
            with self._watcher:
                self._run_trials(study, plan, pool, [*keepers, *self._kept_weights(), tracker, *self.callbacks])
        return study

    def _kept_weights(self) -> list[Callback]:
        """Of a search, after the journal: what it does not know of is not kept."""
        return [KeptWeights(self.trials.definition.keep_weights)] if self.kind == "search" else []

    def _close_again(self, earlier: Study) -> Study:
        """Of a study that lacks no trial: without Ray, sends to MLflow and the store what they may lack.

        Its times stay what they were.
        """
        definition = self.trials.definition
        study = replace(earlier, num_trials=definition.num_trials, space_yaml=definition.to_yaml())
        study.tracking_uri, study.storage_path = self.tracking_uri, self.folder.uri
        if writes_elsewhere(earlier, self.tracking_uri):
            study.parent_run_id = None
        tracker = MlflowTracker(self.tracking_uri, self.experiment, warn=self.say)
        tracker.connect()
        keepers = self.folder.open(self.say, self.ending.stop)
        self._study = study
        study.experiment_id, study.parent_run_id = tracker.open(study)
        write_file(self.folder.local / SPACE_FILE, study.space_yaml)
        again = ", --retry-failed runs the failed again" if study.count(TrialState.FAILED) else ""
        more = f"; --num-trials gives it more{again}" if study.kind == "search" else ""
        ended = "its trial has ended" if study.num_trials == 1 else f"all {study.num_trials} trials have ended"
        self.say(f"study {study.name} is complete: {ended}{more}")
        with ExitStack() as at_end:
            at_end.callback(_tell_end, study, self._started)
            for callback in [*keepers, tracker, *self.callbacks]:
                self._started.append(callback)
                callback.on_study_start(study)
        return study

    def _run_trials(self, study: Study, plan: Plan, pool: WorkerPool, callbacks: list[Callback]) -> None:
        """Runs the trials on groups that have been started, and ends both whatever happens in between."""
        with ExitStack() as at_end:
            at_end.callback(_tell_end, study, self._started)
            for callback in callbacks:
                self._started.append(callback)
                callback.on_study_start(study)
            loss = ClusterLossThread(self._on_cluster_loss)
            at_end.callback(loss.stop)
            loss.start()
            source, lines = self.trials.source(study, self.folder.local, plan.num_groups > 1)
            for line in [*self._notes, *lines]:
                self.say(line)
            events = EventThread(pool, self.say)
            at_end.callback(self._close_pool, study, pool, events)
            waiting = f", {plan.num_waiting} of which wait for nodes" if plan.num_waiting else ""
            groups = f"{counted(plan.num_groups, 'worker group')} of {counted(plan.num_workers, 'worker')}"
            self.say(f"starting {groups}{waiting}")
            events.start()
            most = min(study.num_trials, self.trials.definition.max_concurrent or study.num_trials)
            elasticity = ElasticityThread(pool, most, self.say, self._widening(study, plan, pool, source))
            at_end.callback(elasticity.stop)
            elasticity.start()

            from samtune.tune.tune_loop import run_trials  # while the groups start

            run_trials(
                study,
                self.trials.definition,
                source,
                pool,
                callbacks,
                self.ending,
                num_groups=plan.num_groups,
                longest={"epochs": plan.epochs[1], "passes": plan.passes_per_trial[1]},
                num_placed=lambda: elasticity.num_placed,
            )

    def _widening(
        self, study: Study, plan: Plan, pool: WorkerPool, source: TrialSource
    ) -> Callable[[list[Node]], None] | None:
        """What gives the last trials more workers, where their number is free."""
        definition = self.trials.definition
        # Population based training goes on with other configurations, of which nothing is known yet.
        if definition.resources.num_workers != "auto" or definition.scheduler.name in ("pbt", "pb2"):
            return None
        return Widening(
            study,
            definition.resources,
            plan.gpus_per_worker,
            pool,
            make_spec=definition.trial,
            none_to_come=lambda: bool(source.exhausted or self.ending.no_more),
            say=self.say,
        ).look

    @contextmanager
    def _made_pool(self, plan: Plan) -> Iterator[WorkerPool]:
        """The worker groups. `_close_pool` ends them; where it does not come to that they are killed in the end."""
        from samtune.workers.pool import WorkerPool

        definition = self.trials.definition
        self._pool = pool = WorkerPool(
            num_groups=plan.num_groups,
            num_workers=plan.num_workers,
            cpus_per_worker=plan.cpus_per_worker,
            gpus_per_worker=plan.gpus_per_worker,
            storage_path=self.folder.uri,
            checkpoint=definition.checkpoint,
            max_failures=definition.max_failures,
            timeout=definition.timeout,
            keeps_weights=definition.keep_weights > 0,
            metrics=[objective.metric for objective in objectives_of(definition)],
            parts=given_functions(flatten(definition.model_dump()).values()),
            resizable=definition.resources.num_workers == "auto",
        )
        try:
            yield pool
        finally:
            if self._pool is not None:  # the tracking server does not answer, or the like
                pool.kill()
                pool.close(timeout=30.0)
                pool.forget()
                self._pool = None

    def _close_pool(self, study: Study, pool: WorkerPool, events: EventThread) -> None:
        """Before the callbacks hear of the end: no thread may be in Ray when it is shut down."""
        study.usage = pool.usage(study.started_at)
        pool.close(timeout=3.0 if self.ending.is_stopping else 10.0)
        if events.ident is not None:
            events.join(30.0)  # ends with the coordinator
        pool.forget()
        self._pool = None
        study.ended_at = time.time()

    # -- small parts -------------------------------------------------------------------------------------------------

    def _with_shared_cards(self, plan: Plan, nodes: list[Node]) -> Plan:
        """The plan, once it is measured how many trials a card holds, where that is left to a measurement."""
        definition = self.trials.definition
        sharing = share_cards(
            definition.resources,
            self._variants,
            nodes,
            at_once=min(self._num_left, definition.max_concurrent or self._num_left),
            is_given_up=lambda: self.ending.signal is not None,
        )
        self._check_interrupt()
        if sharing is None:
            return plan
        self._notes.append(sharing.reason)
        return self._make_plan(nodes, addable_nodes(), sharing=sharing)

    @property
    def _num_left(self) -> int:
        """Trials that have not ended yet."""
        ended = 0 if self.earlier is None else sum(is_over(trial) for trial in self.earlier)
        return self.trials.definition.num_trials - ended

    def _make_plan(self, nodes: list[Node], addable: Sequence[Node] = (), **options: Any) -> Plan:
        trials = self.trials
        return make_plan(
            trials.definition,
            self._variants,
            trials.summary(),
            nodes,
            addable,
            layouts=trials.layouts,
            num_left=self._num_left,
            **options,
        )

    @cached_property
    def _variants(self) -> list[TrialSpec]:
        """As of `Trials`: a space may have hundreds, and each is validated as it is made."""
        return list(self.trials.variants())

    def _check_new(self) -> None:
        if self.earlier is None and self.folder.exists():
            raise UsageError(
                f"a study of that name is in {self.folder.storage} already (`samtune search --resume {self.name}` or "
                "`Tuner.resume` continues it)",
                argument="name",
                value=self.name,
            )

    def _runtime_env(self) -> dict[str, Any]:
        return runtime_env(flatten(self.trials.definition.model_dump()).values())

    def _begin_record(self, plan: Plan) -> Study:
        """The record of this run, and the space on disk as it is now."""
        study = new_record(
            self.trials.definition,
            plan,
            name=self.name,
            kind=self.kind,
            folder=self.folder,
            tracking_uri=self.tracking_uri,
            experiment=self.experiment,
        )
        if self.earlier is not None:
            take_over(study, self.earlier)
        write_file(self.folder.local / SPACE_FILE, study.space_yaml)
        return study

    def say(self, message: str) -> None:
        """Tells whoever watches the study."""
        if self._study is not None:
            for callback in self.callbacks:
                callback.on_status(self._study, message)

    def _on_cluster_loss(self, what: str) -> None:
        """Nothing can be asked of the cluster any more: keeps what is finished, and ends the process.

        Calls into Ray would wait for a minute and then end the process without a word, as Ray's core does.
        """
        assert self._study is not None
        self.ending.abandon(f"the Ray cluster is lost: {what}")
        _tell_end(self._study, self._started)
        message = f"{self.ending.reason}; finished trials are kept: `{resume_command(self._study)}` continues"
        print(f"samtune: error: {message}", file=sys.stderr, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Ray's core has more to say, in C++
        self._watcher.dismiss()
        kill_own_cluster()
        os._exit(1)

    def _check_interrupt(self) -> None:
        """Before there is a study: a Ctrl-C leaves nothing behind."""
        if self.ending.signal is not None:
            raise Interrupted(self.ending.signal)

    def _on_interrupt(self, number: int, count: int) -> None:
        """The first Ctrl-C ends the study in order, the second without waiting for the workers, the third at once."""
        if not self.ending.trials_done:  # else only the workers have yet to end
            self.ending.signal = self.ending.signal or number
            self.ending.stop(INTERRUPTED)
        if count > 2:
            raise Interrupted(number)
        if count == 2 and self._pool is not None:
            self._pool.kill()
        if count == 1 and not self.ending.trials_done:
            # In a thread: the line that this interrupts may be in the middle of a display, and hold its lock.
            message = "interrupted: stopping the workers (once more to stop them at once)"
            threading.Thread(target=self.say, args=(message,), daemon=True).start()


def _tell_end(study: Study, callbacks: Sequence[Callback]) -> None:
    """Tells all callbacks that the study has ended, in their order, whatever one of them raises."""
    study.ended_at = study.ended_at or time.time()
    verdict, confirmation = verdict_of(study), confirmation_in(study)
    study.verdict = confirmation_lines(confirmation) if confirmation else verdict.lines() if verdict else []
    with ExitStack() as stack:  # unwinds from the last to the first
        for callback in reversed(callbacks):
            stack.callback(callback.on_study_end, study)
