"""Tune's loop over the trials of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import ray
from ray import tune

from samtune.raylib.silent_reporter import progress_reporter, silent_tune
from samtune.storage import join
from samtune.study import Callback, Study, is_over
from samtune.tune.budget import Budget
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.ending import HOPELESS, Ending
from samtune.tune.objectives import objectives_of
from samtune.tune.schedulers import build_scheduler
from samtune.tune.study_recorder import StopWhen, StudyRecorder
from samtune.tune.trainable import TrialTrainable
from samtune.tune.trial_source import Definition, TrialSource
from samtune.workers.coordinator import POLL_SECONDS
from samtune.workers.pool import WorkerPool

_TRAINABLE_FAILURES = 3  # a checkpoint for the scheduler could not be saved, or the coordinator was lost


def run_trials(
    study: Study,
    definition: Definition,
    source: TrialSource,
    pool: WorkerPool,
    callbacks: Sequence[Callback],
    ending: Ending,
    *,
    num_groups: int,
    longest: Mapping[str, float],
    num_placed: Callable[[], int],
) -> None:
    """Runs the trials that the study still lacks, until they are done or `ending` says that it is enough.

    Args:
        source: proposes the new ones; those that are unfinished come first.
        num_groups: worker groups at the start.
        longest: what the longest trial takes, in `epochs` and in `passes`.
        num_placed: how many groups the cluster holds at the moment: so many trials are under way at once.

    Raises:
        Exception: what a callback raised, once the search has ended in order.

    """
    budget = Budget(definition.budget, study)
    limiter = ConcurrencyLimiter(
        source,
        objectives_of(definition)[0],
        [trial for trial in study if not is_over(trial)],
        num_placed,
        ending,
        on_resume=lambda new_id, own_id: ray.get(pool.coordinator.resume.remote(new_id, own_id)),
    )
    recorder = StudyRecorder(study, definition, source, limiter, ending, pool.coordinator, [budget, *callbacks])
    limiter.when_paused = recorder.pause

    told: list[object] = []

    def should_stop() -> bool:
        if lost := budget.patience_lost():
            ending.stop_proposing(lost)
        if recorder.error is not None:
            ending.stop("a callback failed")
        elif recorder.hopeless(num_groups):
            ending.stop(HOPELESS)
        elif over := budget.exhausted():
            ending.stop(over)
        if ending.is_stopping and not told:
            told.append(pool.coordinator.close.remote())  # Trainables wait for epochs: they hear that none will come
        return ending.is_stopping

    scheduler = build_scheduler(
        definition,
        longest=math.ceil(longest[getattr(definition.scheduler, "resource", "epochs")]),
        num_groups=num_placed,
        on_take_over=recorder.take_over,
    )
    tuner = tune.Tuner(
        tune.with_parameters(
            TrialTrainable,
            coordinator=pool.coordinator,
            definition=definition,
            checkpoint_root=pool.checkpoint_root,
        ),
        tune_config=tune.TuneConfig(
            num_samples=study.num_trials - sum(is_over(trial) for trial in study),
            search_alg=limiter,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{len(study.trials):06d}",
            storage_path=join(study.storage_path, "ray"),
            verbose=0,
            progress_reporter=progress_reporter(),
            callbacks=[recorder],
            stop=StopWhen(should_stop),
            failure_config=tune.FailureConfig(max_failures=_TRAINABLE_FAILURES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, num_to_keep=3),
        ),
    )
    try:
        with silent_tune():
            tuner.fit()
    finally:
        recorder.end_all(ending.reason or "the search ended")
        pool.coordinator.close.remote()  # a trial that waits for it ends
        scheduler.join(timeout=POLL_SECONDS)
        ending.on_abandon(None)  # it holds the coordinator's handle, which must not outlive the cluster
    ending.trials_done = True
    if recorder.error is not None:
        raise recorder.error
    study.stopped_by = ending.no_more or ending.reason or source.exhausted
