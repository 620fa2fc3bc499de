"""The loss of a trial: one of torch's by name, or the user's by import path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from samtune.config.training import TrainingConfig
from samtune.errors import UsageError
from samtune.sam import tree
from samtune.user_code import resolve_function

Measure = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> a scalar, the mean over the examples."""

_OF_NUMBERS: dict[str, Measure] = {
    "mse": nn.functional.mse_loss,
    "l1": nn.functional.l1_loss,
    "huber": nn.functional.huber_loss,
    "bce_with_logits": nn.functional.binary_cross_entropy_with_logits,
}


def training_loss(config: TrainingConfig) -> Measure:
    """The loss that is trained."""
    return _loss(config, config.label_smoothing)


def evaluation_loss(config: TrainingConfig) -> Measure:
    """The loss that an evaluation measures: without label smoothing."""
    return _loss(config, 0.0)


def _loss(config: TrainingConfig, label_smoothing: float) -> Measure:
    if config.loss == "cross_entropy":
        return of_tensors(nn.CrossEntropyLoss(label_smoothing=label_smoothing), "training.loss: cross_entropy")
    if (loss := _OF_NUMBERS.get(config.loss)) is None:
        return resolve_function(config.loss, "training.loss")
    return of_tensors(lambda o, t: loss(like_targets(o, t), t.to(o.dtype)), f"training.loss: {config.loss}")


def of_tensors(measure: Measure, key: str) -> Measure:
    """A measure of tensors, for whatever a network returns: the tensor itself, or the `logits` in it.

    Args:
        key: what the user has written, for messages.
    """

    def measured(outputs: Any, targets: Any) -> Tensor:
        try:
            tensor = tree.output_tensor(outputs)
        except ValueError as error:
            raise UsageError(f"{key}: {error}") from error
        if not isinstance(targets, Tensor):
            raise UsageError(f"{key}: the targets must be one tensor (got a {type(targets).__name__})")
        return measure(tensor, targets)

    return measured


def like_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs in the shape of the targets, e.g. [b, 1] as [b]: torch's losses would broadcast them to [b, b].

    Raises:
        UsageError: the network gives more or fewer numbers than a target has.
    """
    if outputs.shape == targets.shape:
        return outputs
    if outputs.numel() != targets.numel() or len(outputs) != len(targets):
        shapes = f"{tuple(outputs.shape[1:])}, a target {tuple(targets.shape[1:])}"
        raise UsageError(f"training.loss: an output must have the shape of a target (the network gives {shapes})")
    return outputs.reshape(targets.shape)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the examples whose largest output, of [b, classes], is that of their class, int64 [b]."""
    return (outputs.argmax(dim=1) == targets).double().mean()
