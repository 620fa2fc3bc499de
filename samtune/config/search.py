"""The search itself: scheduler, objectives, budget and resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from samtune.config.base import Config

Resource = Literal["epochs", "passes"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NoSchedulerConfig(Config):
    """Every trial runs all its epochs."""

    name: Literal["none"] = "none"


class _EarlyStoppingConfig(Config):
    """What all schedulers have that compare trials before their end."""

    resource: Resource = "epochs"
    """What periods are counted in: `epochs`, or `passes` over the training set, of which SAM makes 2 per epoch."""


class ASHAConfig(_EarlyStoppingConfig):
    """Asynchronous successive halving: at grace, grace·η, grace·η² … of the resource only the best 1/η continue."""

    name: Literal["asha"] = "asha"
    """Scheduler."""
    grace_period: Positive = 1
    """No trial is stopped before so much of the resource."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """η: one in η trials continues at each rung."""


class HyperBandConfig(_EarlyStoppingConfig):
    """HyperBand (Li et al. 2018): brackets of synchronous successive halving, each with another grace period."""

    name: Literal["hyperband"] = "hyperband"
    """Scheduler."""
    max_t: Annotated[int, Field(ge=1)] | None = None
    """Most of the resource that a trial gets; none: that of the longest trial."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """η: one in η trials of a bracket continues at each halving."""


class MedianConfig(_EarlyStoppingConfig):
    """Stops a trial whose best value so far is worse than the median of the others' running means."""

    name: Literal["median"] = "median"
    """Scheduler."""
    grace_period: Positive = 1
    """No trial is stopped before so much of the resource."""
    min_trials: Annotated[int, Field(ge=1)] = 3
    """Trials needed for a median."""


class _PopulationConfig(_EarlyStoppingConfig):
    """What population-based schedulers have. The population is all `num_trials` trials."""

    perturbation_interval: Positive = 4
    """Of the resource, from one exchange to the next."""
    quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the trials at the bottom that continue from a copy of one at the top."""
    mutations: Annotated[list[str], Field(min_length=1)] | None = None
    """The searched keys that a copy changes; none: all that can change while a trial runs."""


class PBTConfig(_PopulationConfig):
    """Population-based training (Jaderberg et al. 2017): the worst trials copy the best, and change their keys."""

    name: Literal["pbt"] = "pbt"
    """Scheduler."""
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Probability of resampling a key instead of multiplying it by 1.2 or 0.8 (or moving to a neighboring choice)."""


class PB2Config(_PopulationConfig):
    """Population-based bandits (Parker-Holder et al. 2020): PBT that chooses the change by a Gaussian process."""

    name: Literal["pb2"] = "pb2"
    """Scheduler."""


SchedulerConfig = Annotated[
    NoSchedulerConfig | ASHAConfig | HyperBandConfig | MedianConfig | PBTConfig | PB2Config,
    Field(discriminator="name"),
]

MUTABLE = [
    "method.rho",
    "method.lambda",
    "method.alpha",
    "method.eta",
    "method.step_size",
    "training.lr",
    "training.weight_decay",
    "training.momentum",
    "training.label_smoothing",
    "training.clip_norm",
]
"""Keys that may change between two epochs of a trial: no weight, buffer or data order depends on their old values."""

METRICS = [
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
    "train_accuracy",
    "train_loss",
    "sharpness",
    "epoch_seconds",
    "train_seconds",
    "num_passes",
    "gradient_norm",
    "perturbation_norm",
    "relative_perturbation",
    "gradient_cosine",
    "perturbation_cosine",
    "lost_perturbation",
    "lambda_max",
    "lambda_ratio",
    "m_sharpness",
    "hessian_frobenius",
    "hessian_trace",
]
"""What a trial measures in every epoch."""


PERTURBATION_METRICS = [
    "sharpness",
    "perturbation_norm",
    "relative_perturbation",
    "gradient_cosine",
    "perturbation_cosine",
    "lost_perturbation",
]
"""Of them, those that only methods measure that perturb the weights."""


class ObjectiveConfig(Config):
    """What the search optimises: a metric of the trial's epochs, measured on the held-out validation set."""

    metric: str = "val_accuracy"
    """A per-epoch metric."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better; default: what the metric's name says, as that of a loss or an accuracy does."""
    epochs: Literal["last", "best"] | Annotated[int, Field(ge=1)] = "last"
    """Which epochs count: the `last`, the `best`, or the mean of the last N."""

    @model_validator(mode="before")
    @classmethod
    def _default_mode(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "metric" in value and value.get("mode") is None:
            return {**value, "mode": mode_of(str(value["metric"])) or "min"}
        return value


_MORE = {
    *("accuracy", "acc", "top1", "top3", "top5", "top10", "r2", "f1", "auc", "auroc", "auprc", "iou", "dice"),
    *("precision", "recall", "bleu", "rouge", "reward"),
}
_LESS = {
    *("loss", "error", "err", "mse", "rmse", "mae", "mape", "nll", "bce", "perplexity", "ppl", "cer", "wer", "fid"),
    *("seconds", "passes", "bytes"),
}


def mode_of(metric: str) -> Literal["max", "min"] | None:
    """Whether more or less of a metric is better, by the last word of its name that tells; None where none does."""
    for word in reversed(re.split(r"[\W_]+", metric.lower())):
        if word in _MORE or word in _LESS:
            return "max" if word in _MORE else "min"
    return None


def _as_sequence(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Objectives = Annotated[tuple[ObjectiveConfig, ...], BeforeValidator(_as_sequence), Field(min_length=1)]
"""One objective, or several in a list."""


class BudgetConfig(Config):
    """What ends a search before its `num_trials`; whichever comes first."""

    seconds: Positive | None = None
    """Wall time of the search; none: any."""
    passes: Positive | None = None
    """Passes over the training set of all trials together; none: any."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Trials that end in a row without a better objective; none: any."""


class ResourcesConfig(Config):
    """What one trial runs on."""

    num_workers: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Data-parallel workers of one trial; auto: more than one where trials are fewer than the cluster has places, and
    where the result stays that of one worker."""
    cpus_per_worker: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """CPU cores of one worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto", "share"] = "auto"
    """GPUs of one worker; auto: 1 where the cluster has GPUs, else 0. A fraction puts several trials on one card, e.g.
    0.25: four trials of one worker each. share: 1, 1/2 or 1/4 of a card, by what a few timed steps say pays."""

    @model_validator(mode="after")
    def _check_cards(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus == "auto":
            return self
        if gpus != "share" and gpus > 1 and not gpus.is_integer():
            raise ValueError(f"gpus_per_worker must be whole above 1 (got {gpus:g})")
        if (gpus == "share" or 0 < gpus < 1) and self.least_workers > 1:
            raise ValueError(
                f"gpus_per_worker {gpus if gpus == 'share' else f'{gpus:g}'} needs num_workers 1 "
                f"(got {self.num_workers}): two workers of one trial on the same card only share its speed, and NCCL "
                "refuses them"
            )
        return self

    @property
    def least_workers(self) -> int:
        """Workers that a trial has at least; with auto, one worker's result is that of any number."""
        return 1 if self.num_workers == "auto" else self.num_workers


class CheckpointConfig(Config):
    """When a running trial is checkpointed, so that it can resume after a lost worker or with `--resume`."""

    every_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs between checkpoints."""
    min_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Least time between two checkpoints: what costs less to repeat is not saved."""
    every_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 10.0
    """Minutes between checkpoints within an epoch that takes longer than this."""
