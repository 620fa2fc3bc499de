"""`rho_factor` of a parameter group: the weights move to w + F·ε̂, with the norm of ε̂ as it was before F."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from helpers.ranks import run_ranks
from helpers.reference import Reference, flat_weights, mean_over_groups
from helpers.sam_training import BATCH_SIZE, batch, examples, make_network
from torch import Tensor, nn
from torch.testing import assert_close

from samtune.config.method import GSAMConfig, SAMConfig
from samtune.config.method_base import PerturbedConfig
from samtune.sam import TrainStep

FACTORS = {"layers.0.weight": 1.0, "layers.0.bias": 0.5, "layers.2.weight": 3.0, "layers.2.bias": 0.0}


def trained(
    rank: int, num_ranks: int, method: PerturbedConfig, factors: dict[str, float] | None, steps: int = 4
) -> Tensor:
    torch.set_num_threads(1)
    model = make_network()
    groups: list[dict[str, Any]] = [
        {"params": [parameter]} | ({"rho_factor": factors[name]} if factors else {})
        for name, parameter in model.named_parameters()
    ]
    step = TrainStep(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.SGD(groups, lr=1.0),
        method,
        batch_size=BATCH_SIZE,
        num_workers=num_ranks,
        rank=rank,
    )
    step.begin_epoch(0, 1, steps_per_epoch=steps, examples=partial(examples))
    shard = BATCH_SIZE // num_ranks
    for index in range(steps):
        inputs, targets = batch(index)
        step(inputs[rank * shard : (rank + 1) * shard], targets[rank * shard : (rank + 1) * shard])
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("m", [4, 16])
def test_one_step_in_closed_form(m: int) -> None:
    """∇L at w + F·rho·g/‖g‖, the mean over the m-groups."""
    model = make_network()
    factor = torch.cat([torch.full((p.numel(),), FACTORS[n]).double() for n, p in model.named_parameters()])

    def share(reference: Reference, w: Tensor) -> Tensor:
        g = reference.gradient(w)
        return reference.gradient(w + factor * 0.5 * g / g.norm())

    found = flat_weights(model) - trained(0, 1, SAMConfig(rho=0.5, m=m), FACTORS, steps=1)
    assert_close(found, mean_over_groups(m, share), rtol=0, atol=1e-13)


def test_factors_of_one_change_no_bit() -> None:
    method = SAMConfig(rho=0.5, m=4)
    without = trained(0, 1, method, None)
    assert torch.equal(trained(0, 1, method, dict.fromkeys(FACTORS, 1.0)), without)
    assert not torch.equal(trained(0, 1, method, FACTORS), without)


@pytest.mark.parametrize(
    "method", [SAMConfig(rho=0.5, m=4, ascent_steps=2), GSAMConfig(rho=0.5, m=8)], ids=lambda m: m.name
)
def test_two_ranks_are_one(method: PerturbedConfig) -> None:
    alone = trained(0, 1, method, FACTORS)
    for weights in run_ranks(2, trained, method, FACTORS):
        assert_close(weights, alone, rtol=0, atol=1e-12)
