"""A small network and its batches, on which methods are tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from samtune.sam.method import GroupSize, MethodLike
from samtune.sam.rules.base import Rule
from samtune.sam.when import When

BATCH_SIZE = 16


class Network(nn.Module):
    """A small network; which layers it has is up to the test."""

    def __init__(self, *, batch_norm: bool = False, dropout: float = 0.0, unused: bool = False) -> None:
        super().__init__()
        # BatchNorm would make the bias's gradient pure rounding.
        layers: list[nn.Module] = [nn.Linear(6, 8, bias=not batch_norm)]
        if batch_norm:
            layers.append(nn.BatchNorm1d(8))
        layers.append(nn.Tanh())
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(8, 3))
        self.layers = nn.Sequential(*layers)
        if unused:
            self.unused = nn.Parameter(torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def make_network(dtype: torch.dtype = torch.float64, **layers: Any) -> Network:
    """The network with weights that are always the same."""
    torch.manual_seed(7)
    return Network(**layers).to(dtype)


def batch(step: int, size: int = BATCH_SIZE, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The global batch of a step, the same on every rank."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(size, 6, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, 3, (size,), generator=generator)
    return inputs, targets


def examples(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """What `TrainStep.begin_epoch` hands to a method that looks at training examples."""
    return batch(-1, count, dtype)


def make_optimizer(model: nn.Module, name: str = "sgd") -> torch.optim.Optimizer:
    """A base optimizer with momentum and weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def flat_weights(model: nn.Module) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Varied:
    """A method with another m or rho.

    Args:
        method: the rest.
        m, rho: None: the method's own.
    """

    def __init__(self, method: MethodLike, m: GroupSize | None = None, rho: float | None = None) -> None:
        self._method, self._m, self._rho = method, m, rho
        self.when: When = getattr(method, "when", When())
        self.perturb: str = getattr(method, "perturb", "all")
        self.rho_follows_lr: bool = getattr(method, "rho_follows_lr", False)

    @property
    def group_size(self) -> GroupSize:
        return self._method.group_size if self._m is None else self._m

    def rho_at(self, progress: float) -> float:
        return self._method.rho_at(progress) if self._rho is None else self._rho

    def make_rule(self, parameters: Sequence[Tensor], seed: int) -> Rule:
        return self._method.make_rule(parameters, seed)
