"""SAM on models that `fully_shard` (FSDP2) has cut up, on gloo ranks, against the whole model in one process."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers.ranks import run_ranks
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samtune.sam import SAM, Rule

EXAMPLES = 8
ATOL = 1e-12


class Net(nn.Module):
    """Its layers do not divide by the ranks: the last has fewer rows than four ranks, so that some hold none."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7))
        self.head = nn.Linear(7, 3)
        self.checkpointed = checkpointed

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(self.body, inputs, use_reentrant=False) if self.checkpointed else self.body(inputs)
        return self.head(hidden)


def make_net(**options: Any) -> Net:
    torch.manual_seed(0)
    return Net(**options).double()


def sharded_net(**options: Any) -> Net:
    from torch.distributed.fsdp import fully_shard

    net = make_net(**options)
    fully_shard(net.body)
    fully_shard(net)
    return net


def make_sam(net: nn.Module, base: str = "SGD", **options: Any) -> SAM:
    more: dict[str, Any] = {"momentum": 0.9} if base == "SGD" else {}
    return SAM(net.parameters(), getattr(torch.optim, base), lr=0.05, m="global", **{"rho": 0.2, **options, **more})


def batch(index: int) -> Tensor:
    return torch.randn(EXAMPLES, 5, generator=torch.Generator().manual_seed(index), dtype=torch.float64)


def train(net: nn.Module, sam: SAM, steps: range, rank: int = 0, num_ranks: int = 1) -> None:
    size = EXAMPLES // num_ranks
    for index in steps:
        inputs = batch(index)[rank * size : (rank + 1) * size]

        def closure(inputs: Tensor = inputs) -> Tensor:
            sam.zero_grad()
            loss = (net(inputs) - 1).square().mean()
            loss.backward()
            return loss

        sam.step(closure)


def whole(net: nn.Module) -> list[Tensor]:
    return [p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach() for p in net.parameters()]


def trained_in_shards(rank: int, num_ranks: int, net: dict[str, Any], options: dict[str, Any]) -> list[Tensor]:
    model = sharded_net(**net)
    sam = make_sam(model, **options)
    train(model, sam, range(3), rank, num_ranks)
    return [part.detach().clone() for part in whole(model)]


@pytest.mark.parametrize(
    ("num_ranks", "net", "options"),
    [
        (2, {}, {}),
        (4, {}, {}),
        (2, {"checkpointed": True}, {"base": "AdamW"}),
        (2, {}, {"p": math.inf}),
        (2, {}, {"p": 3.0}),
        (2, {}, {"adaptive": True, "perturb": "no_norm_bias"}),
        (2, {}, {"adaptive": True, "p": math.inf}),
    ],
)
def test_shards_are_trained_as_the_whole_model_is(num_ranks: int, net: dict[str, Any], options: dict[str, Any]) -> None:
    model = make_net(**net)
    train(model, make_sam(model, **options), range(3))
    start = [p.detach() for p in make_net().parameters()]
    for weights in run_ranks(num_ranks, trained_in_shards, net, options):
        for ours, theirs, before in zip(weights, whole(model), start, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=ATOL)
            assert not torch.equal(ours, before)


def accumulate(net: nn.Module, sam: SAM, rank: int = 0, num_ranks: int = 1) -> list[Tensor]:
    """Two steps of two batches each, each batch with an epsilon of its own."""
    size = EXAMPLES // num_ranks
    for index in range(4):
        inputs = batch(index)[rank * size : (rank + 1) * size]

        def closure(inputs: Tensor = inputs) -> Tensor:
            loss = (net(inputs) - 1).square().mean() / 2
            loss.backward()
            return loss

        sam.accumulate(closure)
        if index % 2:
            sam.step()
            sam.zero_grad()
    return [part.detach().clone() for part in whole(net)]


def accumulated_in_shards(rank: int, num_ranks: int) -> list[Tensor]:
    model = sharded_net()
    return accumulate(model, make_sam(model), rank, num_ranks)


def test_accumulated_gradients_are_those_of_the_whole_model() -> None:
    model = make_net()
    alone = accumulate(model, make_sam(model))
    for weights in run_ranks(2, accumulated_in_shards):
        torch.testing.assert_close(weights, alone, rtol=0, atol=ATOL)
        assert not torch.equal(weights[0], make_net().body[0].weight.detach())


def resumed_in_shards(rank: int, num_ranks: int) -> bool:
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model = sharded_net()
    sam = make_sam(model)
    train(model, sam, range(2), rank, num_ranks)
    model_state, sam_state = copy.deepcopy(get_state_dict(model, sam))
    train(model, sam, range(2, 4), rank, num_ranks)
    other = sharded_net()
    again = make_sam(other)
    set_state_dict(other, again, model_state_dict=model_state, optim_state_dict=sam_state)
    train(other, again, range(2, 4), rank, num_ranks)
    return all(torch.equal(a, b) for a, b in zip(whole(other), whole(model), strict=True))


def test_a_resumed_training_goes_on_bit_for_bit() -> None:
    assert run_ranks(2, resumed_in_shards) == [True, True]


def perturbed_and_back(rank: int, num_ranks: int) -> tuple[float, bool, list[str]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = sharded_net()
    sam = make_sam(model, rho=0.2)
    before = whole(model)
    model(batch(rank)).square().mean().backward()
    sam.first_step(zero_grad=True)
    moved = torch.cat([(a - b).flatten() for a, b in zip(whole(model), before, strict=True)]).norm()
    model(batch(rank)).square().mean().backward()
    for group in sam.param_groups:
        group["lr"] = 0.0
    sam.second_step()
    same = all(torch.equal(a, b) for a, b in zip(whole(model), before, strict=True))

    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    fully_shard(mixed[0])
    hybrid = fully_shard(nn.Linear(2, 2), mesh=init_device_mesh("cpu", (1, num_ranks), mesh_dim_names=("r", "s")))
    refused = []
    for net, options in [
        (sharded_net(), {"m": "worker"}),
        (model, {"p": 1.0}),
        (mixed, {}),
        (hybrid, {}),
        (model, {"rule": Rule}),
    ]:
        try:
            SAM(net.parameters(), torch.optim.SGD, lr=0.1, **{"m": "global", **options})
        except ValueError as error:
            refused.append(str(error))
    return float(moved), same, refused


def test_the_perturbation_has_its_length_over_all_shards_and_others_are_refused() -> None:
    for moved, same, refused in run_ranks(2, perturbed_and_back):
        assert moved == pytest.approx(0.2, abs=ATOL)
        assert same
        assert [line.split(":")[0][:40] for line in refused] == [
            "sharded parameters (DTensor",
            "p must be above 1 for sharded parameters",
            "parameters must be sharded all or none (",
            "sharded parameters (DTensor) are support",
            "a rule of your own takes no sharded para",
        ]


def skipped_everywhere(rank: int, num_ranks: int) -> bool:
    """A gradient that is not finite on one rank's rows alone."""
    model = sharded_net()
    sam = make_sam(model)
    before = whole(model)

    def closure() -> Tensor:
        sam.zero_grad()
        loss = model(batch(0)).square().mean()
        loss.backward()
        if rank == 1:
            next(iter(model.parameters())).grad.to_local().fill_(math.nan)
        return loss

    sam.step(closure)
    return all(torch.equal(a, b) for a, b in zip(whole(model), before, strict=True))


def test_a_gradient_that_is_not_finite_in_one_shard_skips_the_step_on_all() -> None:
    assert run_ranks(2, skipped_everywhere) == [True, True]
