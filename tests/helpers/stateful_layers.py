"""Layers that update something in their forward, one of each kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 8


class InPlace(nn.Module):
    """A mean of what it has seen, updated in place, whatever its mode; and a count of the forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(3.0).expand(5, 3))  # overlaps itself: must be left alone

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * inputs.detach().mean(dim=0))
        self.count += 1
        return inputs


class Replaced(nn.Module):
    """The same with a new tensor each time, a part of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean.detach() + 0.1 * inputs.mean(dim=0)
        return inputs - 0.01 * self.mean


def instance_norm() -> nn.Module:
    norm = nn.InstanceNorm1d(1, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (1, WIDTH)), norm, nn.Flatten())


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and in use
        return torch.jit.script(nn.BatchNorm1d(WIDTH).double())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch_norm": lambda: nn.BatchNorm1d(WIDTH),
    "batch_norm_cumulative": lambda: nn.BatchNorm1d(WIDTH, momentum=None),
    "instance_norm": instance_norm,
    "scripted": scripted,
    "in_place": InPlace,
    "replaced": Replaced,
}


def make(kind: str) -> nn.Module:
    """A network in float64 with such a layer inside."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, WIDTH), LAYERS[kind](), nn.Tanh(), nn.Linear(WIDTH, 3)).double()


def state(model: nn.Module) -> dict[str, Tensor]:
    """Its buffers, copied."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
