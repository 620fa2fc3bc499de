"""The loss and the metrics of a trial: torch's, or the user's by import path."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from samtune.config.training import TrainingConfig, metric_name
from samtune.user_code import resolve_function

Measure = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> a scalar, the mean over the examples."""


def training_loss(config: TrainingConfig) -> Measure:
    """The loss that is trained."""
    if config.loss == "cross_entropy":
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    return resolve_function(config.loss, "training.loss")


def evaluation_measures(config: TrainingConfig) -> dict[str, Measure]:
    """What an evaluation measures, by name: the loss (without label smoothing), the accuracy, the user's metrics."""
    loss = nn.CrossEntropyLoss() if config.loss == "cross_entropy" else resolve_function(config.loss, "training.loss")
    own = {metric_name(path): resolve_function(path, "training.metrics") for path in config.metrics}
    return {"loss": loss, "accuracy": accuracy, **own}


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the examples whose largest output, of [b, classes], is that of their class, int64 [b]."""
    return (outputs.argmax(dim=1) == targets).double().mean()
