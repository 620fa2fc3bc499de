"""Initial weights as in He et al. 2015, which the residual networks here use."""

from __future__ import annotations

from torch import nn


def initialise_he(model: nn.Module) -> None:
    """Convolutions normal with variance 2 / fan_out, BatchNorm 1 and 0, biases of linear layers 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
