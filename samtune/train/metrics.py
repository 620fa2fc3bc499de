"""The metrics of an evaluation: means over the examples, and functions of such means (rmse, r2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samtune.config.training import TrainingConfig, metric_name
from samtune.train.loss import Measure, accuracy, evaluation_loss, like_targets, of_tensors
from samtune.train.stateful_metrics import is_stateful
from samtune.user_code import resolve_function


@dataclass(frozen=True)
class Metric:
    """A metric that batches and workers can be added up for.

    Attributes:
        parts: (outputs, targets) -> float64 [num_parts], means over the examples of a batch.
        value: of the parts' means over all examples.
    """

    parts: Callable[[Any, Any], Tensor]
    value: Callable[[Tensor], float]
    num_parts: int = 1


def mean_of(measure: Measure) -> Metric:
    """The mean of a measure over the examples."""
    return Metric(lambda outputs, targets: measure(outputs, targets).double().reshape(1), lambda means: means.item())


def evaluation_metrics(config: TrainingConfig, *, classes: bool) -> dict[str, Metric]:
    """What an evaluation measures, by name: the loss, of classes the accuracy, and `training.metrics`.

    Those with a state are `StatefulMetrics`.
    """
    found = {"loss": mean_of(evaluation_loss(config))}
    if classes:
        found["accuracy"] = metric_by_name("accuracy")
    for path in config.metrics:
        if ":" not in path:
            found[metric_name(path)] = metric_by_name(path)
        elif not is_stateful(function := resolve_function(path, "training.metrics")):
            found[metric_name(path)] = mean_of(function)
    return found


def metric_by_name(name: str) -> Metric:
    """One of `samtune.config.training.METRICS_BY_NAME`."""
    key = f"training.metrics: {name}"
    if name == "rmse":
        parts = of_tensors(lambda o, t: _squared_error(o, t).reshape(1), key)
        return Metric(parts, lambda means: means.sqrt().item())
    if name == "r2":
        return Metric(of_tensors(_r2_parts, key), _r2, 3)
    return mean_of(of_tensors({"accuracy": accuracy, "top5_accuracy": top5_accuracy, "mae": mae}[name], key))


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error over all numbers of the targets."""
    return nn.functional.l1_loss(like_targets(outputs, targets), targets)


def top5_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the examples whose class is among the five largest outputs.

    Args:
        outputs: logits [N, num_classes]; with fewer than five classes, all count.
        targets: classes, int64 [N].
    """
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(dim=1).float().mean()


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (like_targets(outputs, targets).double() - targets.double()).square().mean()


def _r2_parts(outputs: Tensor, targets: Tensor) -> Tensor:
    exact = targets.double()
    return torch.stack([_squared_error(outputs, targets), exact.mean(), exact.square().mean()])


def _r2(means: Tensor) -> float:
    """1 - (squared error) / (variance of the targets), over all numbers of the targets; nan where these are equal."""
    error, mean, square = means.tolist()
    variance = square - mean**2
    return 1 - error / variance if variance > 0 else float("nan")
