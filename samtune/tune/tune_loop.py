"""Tune's loop over the trials of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray import tune

from samtune.config.space import SearchSpace
from samtune.experiments.plan import Plan
from samtune.experiments.results import HOPELESS
from samtune.raylib.environment import HEAD_NODE
from samtune.storage import join
from samtune.study import Callback, Study, TrialState
from samtune.tune.budget import Budget
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.optuna_searcher import GRID_DONE, OptunaSearcher, is_over, open_study
from samtune.tune.schedulers import build_scheduler
from samtune.tune.study_recorder import StopWhen, StudyRecorder
from samtune.tune.trainable import TrialTrainable
from samtune.workers.pool import WorkerPool

_TRAINABLE_FAILURES = 3  # the light actors between Tune and the coordinator; losing one loses nothing


def run_trials(
    study: Study,
    folder: Path,
    space: SearchSpace,
    plan: Plan,
    pool: WorkerPool,
    callbacks: Sequence[Callback],
    stop_reason: Callable[[], str | None],
    num_placed: Callable[[], int],
) -> str | None:
    """Runs the trials that the study still lacks.

    Args:
        folder: where this process writes the study's own files.
        stop_reason: asked in every turn of Tune's loop; a text ends the search in order.
        num_placed: how many groups the cluster holds at the moment: so many trials are under way at once.

    Returns:
        Why the search ended before all trials were done, or None.
    """
    num_left = study.num_trials - sum(is_over(trial) for trial in study)
    if num_left <= 0:
        return None
    optuna_study = open_study(space, study.name, folder / "optuna.journal", plan.num_groups > 1)
    searcher = OptunaSearcher(
        space,
        optuna_study,
        earlier=study.trials,
        go_on=lambda new_id, old_id: ray.get(pool.coordinator.go_on.remote(new_id, old_id)),
    )
    budget = Budget(space.budget, study)
    bridge = StudyRecorder(study, space, searcher, pool.coordinator, [budget, *callbacks])
    limiter = ConcurrencyLimiter(searcher, num_placed, bridge.pause)
    bridge.limiter = limiter
    in_passes = getattr(space.scheduler, "resource", "epochs") == "passes"
    scheduler = build_scheduler(
        space,
        longest=math.ceil(plan.passes_per_trial[1] if in_passes else plan.epochs[1]),
        num_groups=num_placed,
        on_take_over=bridge.take_over,
    )
    reason: str | None = None

    def should_stop() -> bool:
        nonlocal reason
        if not limiter.closed and (lost := budget.patience_lost()):
            limiter.closed, study.stopped_by = True, lost
        if reason is None:
            reason = (
                stop_reason()
                or ("a callback failed" if bridge.error else None)
                or (HOPELESS if bridge.hopeless(plan.num_groups) else None)
                or budget.exhausted()
            )
            if reason is not None:
                bridge.stopping = searcher.closing = True
                pool.coordinator.close.remote()  # Trainables wait for records: they are told that none will come
        return reason is not None

    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                TrialTrainable, coordinator=pool.coordinator, space=space, checkpoint_root=pool.checkpoint_root
            ),
            # No CPU: the workers have them all. Every head node has this resource, in amounts for 1,000 actors.
            tune.PlacementGroupFactory([{HEAD_NODE: 0.001}]),
        ),
        tune_config=tune.TuneConfig(
            num_samples=num_left,
            search_alg=limiter,
            scheduler=scheduler,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{len(study.trials):06d}",
            storage_path=join(study.storage_path, "ray"),
            verbose=0,
            callbacks=[bridge],
            stop=StopWhen(should_stop),
            failure_config=tune.FailureConfig(max_failures=_TRAINABLE_FAILURES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, num_to_keep=3),
        ),
    )
    try:
        tuner.fit()
    finally:
        bridge.end_all(TrialState.INTERRUPTED, reason or "the search ended")
    if bridge.error is not None:
        raise bridge.error
    study.stopped_by = study.stopped_by or reason or (GRID_DONE if searcher.exhausted else None)
    return reason
