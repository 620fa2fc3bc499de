"""A few training steps on any number of ranks, for the tests of methods and of the step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from samtune.config.method import MethodConfig
from samtune.sam import TrainStep

BATCH_SIZE = 16


class Network(nn.Module):
    """A small network; which layers it has is up to the test."""

    def __init__(self, *, batch_norm: bool = False, dropout: float = 0.0, unused: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Linear(6, 8, bias=not batch_norm)
        ]  # BatchNorm would make the bias's gradient pure rounding
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
    torch.manual_seed(7)
    return Network(**layers).to(dtype)


def batch(step: int, size: int = BATCH_SIZE, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The global batch of a step, the same on every rank."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(size, 6, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, 3, (size,), generator=generator)
    return inputs, targets


def examples(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return batch(-1, count, dtype)


def make_optimizer(model: nn.Module, name: str = "sgd") -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def train(
    rank: int,
    num_ranks: int,
    method: MethodConfig,
    *,
    steps: int = 20,
    dtype: torch.dtype = torch.float64,
    optimizer: str = "sgd",
    layers: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Trains for two epochs and returns what is left: weights, buffers, metrics, passes."""
    torch.set_num_threads(1)
    model = make_network(dtype, **(layers or {}))
    base = make_optimizer(model, optimizer)
    size = options.pop("batch_size", BATCH_SIZE)
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        base,
        method,
        batch_size=size,
        num_workers=num_ranks,
        rank=rank,
        seed=3,
        **options,
    )
    metrics: dict[str, float] = {}
    shard = size // num_ranks
    for epoch in range(2):
        step.begin_epoch(epoch, 2, steps_per_epoch=steps // 2, examples=partial(examples, dtype=dtype))
        for index in range(epoch * (steps // 2), (epoch + 1) * (steps // 2)):
            inputs, targets = batch(index, size, dtype)
            step(inputs[rank * shard : (rank + 1) * shard], targets[rank * shard : (rank + 1) * shard])
        metrics = step.epoch_metrics()
    local_buffers = {name: value.clone() for name, value in model.named_buffers()}
    step.average_running_statistics()
    return {
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
        "local_buffers": local_buffers,
        "metrics": metrics,
        "passes": step.passes,
    }
