"""The base optimizers, which take the step at w."""

from __future__ import annotations

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
