"""The baseline: Ray Train inside Ray Tune as Ray's guide writes it, one new `TorchTrainer` per trial.

https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from samtune.benchmarks.timeline import Timeline
from samtune.config.space import SearchSpace


def train_fn_per_worker(config: dict[str, Any]) -> None:
    """Trains the trial that samtune would, with samtune's own training."""
    import ray.train.torch
    import torch

    from samtune.train.trial import TrialRun

    torch.set_num_threads(1)
    context = ray.train.get_context()
    run = TrialRun(
        config["spec"],
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    for epoch in range(1, config["epochs"] + 1):
        ray.train.report(run.train_epoch(epoch))


def run_documented(space: SearchSpace, num_trials: int, num_epochs: int, folder: Path) -> Timeline:
    """Runs trials one after another, with the guide's settings.

    Returns:
        When the search started, when each trial ended, and when it was over.
    """
    import ray
    import ray.tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    num_workers = space.resources.least_workers
    timeline = Timeline()

    def train_driver_fn(config: dict[str, Any]) -> None:
        trainer = TorchTrainer(
            train_fn_per_worker,
            train_loop_config={"spec": space.trial(config), "epochs": num_epochs},
            scaling_config=ScalingConfig(num_workers=num_workers),
            run_config=RunConfig(
                name=f"train-trial_id={ray.tune.get_context().get_trial_id()}",
                storage_path=str(folder),
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            ),
        )
        trainer.fit()

    class Recorder(ray.tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            timeline.epoch()

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            timeline.trial()

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            raise RuntimeError(f"a trial of the baseline failed: {trial.get_pickled_error()}")

    # A trial's own function takes a CPU beside its workers.
    ray.init(num_cpus=num_workers + 1, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        ray.tune.Tuner(
            train_driver_fn,
            param_space={key: _domain(distribution) for key, distribution in space.search.items()},
            tune_config=ray.tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=1),
            run_config=ray.tune.RunConfig(
                name="documented", storage_path=str(folder), callbacks=[Recorder()], verbose=0
            ),
        ).fit()
    finally:
        ray.shutdown()
    timeline.ended_at = time.perf_counter()
    return timeline


def _domain(distribution: Any) -> Any:
    from ray import tune

    return tune.loguniform(distribution.low, distribution.high)
