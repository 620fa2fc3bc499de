"""The search itself: sampler, scheduler, objective and resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from samtune.spec.base import Config


class TPEConfig(Config):
    """Optuna's tree-structured Parzen estimator."""

    name: Literal["tpe"] = "tpe"
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Random trials before the estimator takes over."""
    multivariate: bool = True
    """Model the searched keys jointly (rho and lr interact)."""


class RandomConfig(Config):
    """Independent draws from the distributions."""

    name: Literal["random"] = "random"


SamplerConfig = Annotated[TPEConfig | RandomConfig, Field(discriminator="name")]


class NoSchedulerConfig(Config):
    """Every trial runs all its epochs."""

    name: Literal["none"] = "none"


class ASHAConfig(Config):
    """Asynchronous successive halving: at epochs grace, grace·η, grace·η² … only the best 1/η go on."""

    name: Literal["asha"] = "asha"
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """No trial is stopped before this epoch."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """η: one in η trials goes on at each rung."""


class MedianConfig(Config):
    """Stops a trial whose best value so far is worse than the median of the others' running means."""

    name: Literal["median"] = "median"
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """No trial is stopped before this epoch."""
    min_trials: Annotated[int, Field(ge=1)] = 3
    """Trials needed for a median."""


SchedulerConfig = Annotated[NoSchedulerConfig | ASHAConfig | MedianConfig, Field(discriminator="name")]


class ObjectiveConfig(Config):
    """What the search optimises: a metric of a trial's last epoch, measured on the held-out validation set."""

    metric: Literal[
        "val_accuracy", "val_loss", "train_accuracy", "train_loss", "sharpness", "epoch_seconds", "num_passes"
    ] = "val_accuracy"
    """A per-epoch metric."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better; default: max for accuracies, min for everything else."""

    @model_validator(mode="before")
    @classmethod
    def _default_mode(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "metric" in value and value.get("mode") is None:
            return {**value, "mode": "max" if str(value["metric"]).endswith("accuracy") else "min"}
        return value


class ResourcesConfig(Config):
    """What one trial runs on."""

    num_workers: Annotated[int, Field(ge=1)] = 1
    """Data-parallel workers of one trial."""
    cpus_per_worker: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """CPU cores of one worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    """GPUs of one worker; auto: 1 where the cluster has GPUs, else 0."""


class CheckpointConfig(Config):
    """When a running trial is saved, so that it can go on after a lost worker or a resumed search."""

    every_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs between checkpoints."""
    min_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Least time between two checkpoints: what costs less to repeat is not saved."""
