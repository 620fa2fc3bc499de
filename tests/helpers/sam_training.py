"""A few training steps on any number of ranks, for the tests of methods and of the step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from samtune.config.method import MethodConfig
from samtune.sam import TrainStep
from samtune.testing.problem import BATCH_SIZE, Network, batch, examples, make_network, make_optimizer

__all__ = ["BATCH_SIZE", "Network", "batch", "examples", "make_network", "make_optimizer", "train"]


def train(
    rank: int,
    num_ranks: int,
    method: MethodConfig,
    *,
    steps: int = 20,
    dtype: torch.dtype = torch.float64,
    optimizer: str = "sgd",
    layers: dict[str, Any] | None = None,
    sharded: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Trains for two epochs and returns what is left: weights, buffers, metrics, passes.

    Args:
        sharded: by fully_shard.
    """
    torch.set_num_threads(1)
    model = make_network(dtype, **(layers or {}))
    if sharded:
        shard_layers(model)
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
        "weights": torch.cat([p.flatten() for p in whole_parameters(model)]),
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
        "local_buffers": local_buffers,
        "metrics": metrics,
        "passes": step.passes,
    }


def shard_layers(model: nn.Module) -> None:
    """fully_shard of two layers by themselves, and of the rest."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(model.layers[0])
    fully_shard(model.layers[-1])
    fully_shard(model)


def whole_parameters(model: nn.Module) -> list[Tensor]:
    """Also of a model that is sharded; then a collective."""
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in model.parameters()]
