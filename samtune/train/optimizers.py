"""The base optimizers, which take the step at w, and their learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from samtune.config.training import TrainingConfig


def base_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a network's trainable parameters, as torch has it.

    With `decay_norms_and_biases` off, parameters of fewer than two dimensions (scales and shifts of normalisation
    layers, biases) are in a group of their own without weight decay.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not config.decay_norms_and_biases:
        groups = [
            {"params": [parameter for parameter in parameters if parameter.ndim >= 2]},
            {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
        ]
    # One kernel over all parameters, which also skips a step whose gradient is not finite without asking the host.
    fused = bool(parameters) and parameters[0].device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=(config.momentum, 0.999),
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def learning_rate(config: TrainingConfig, step: int, *, num_epochs: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Args:
        step: counted from 0 over the whole training.
        num_epochs: of the whole training.

    Returns:
        During the warm-up a linear rise that reaches `lr` at its end; then the schedule over the remaining steps:
        cosine `lr/2 (1 + cos πt)` and linear `lr (1 - t)` go to 0 at the end of training, t being the share done.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    total = num_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)
    done = (step - warmup) / max(total - warmup, 1.0)
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            return config.lr * (1.0 - done)
        case "multi_step":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return config.lr * float(config.decay_factor**passed)
