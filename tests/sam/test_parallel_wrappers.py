"""`first_step` under DistributedDataParallel, and wrappers that SAM does not support, on real gloo ranks."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from helpers.ranks import run_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from samtune.errors import UsageError
from samtune.sam import SAM, TrainStep
from samtune.sharpness import m_sharpness


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def own_batch(rank: int, index: int = 0) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(10 * index + rank), dtype=torch.float64)


# What comes between the optimizer's zero_grad and the backward whose gradient ε̂ is made of.
def discarded(ddp: nn.Module, model: nn.Module, rank: int) -> None:
    ddp(own_batch(rank, 1)).square().mean().backward()
    model.zero_grad()


def zeroed(ddp: nn.Module, model: nn.Module, rank: int) -> None:
    ddp(own_batch(rank, 1)).square().mean().backward()
    model.zero_grad(set_to_none=False)


def asked_for(ddp: nn.Module, model: nn.Module, rank: int) -> None:
    torch.autograd.grad(model(own_batch(rank, 1)).sum(), list(model.parameters()))


def accumulated(ddp: nn.Module, model: nn.Module, rank: int) -> None:
    ddp(own_batch(rank, 2)).square().mean().backward()


def accumulated_unsynchronised(ddp: Any, model: nn.Module, rank: int) -> None:
    with ddp.no_sync():
        ddp(own_batch(rank, 2)).square().mean().backward()


BETWEEN = {
    "nothing": lambda *_: None,
    "discarded": discarded,
    "zeroed": zeroed,
    "asked_for": asked_for,
    "accumulated": accumulated,
    "accumulated_unsynchronised": accumulated_unsynchronised,
    "frozen_before": lambda *_: None,
}


def error_of_first_step(rank: int, num_ranks: int, case: str, steps: int, bucket_view: bool) -> float:
    """The largest error of ε̂ in a step, after others of the same kind."""
    model = make_model()
    if case == "frozen_before":
        model[0].weight.requires_grad_(False)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    model.requires_grad_(True)
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=bucket_view)
    error = 0.0
    for _ in range(steps):
        w = [p.detach().clone() for p in model.parameters()]
        loss = model(own_batch(rank)).square().mean()
        if case.startswith("accumulated"):
            loss = loss + model(own_batch(rank, 2)).square().mean()
        g = torch.cat([t.flatten() for t in torch.autograd.grad(loss, list(model.parameters()))])
        sam.zero_grad()
        BETWEEN[case](ddp, model, rank)
        ddp(own_batch(rank)).square().mean().backward()
        sam.first_step(zero_grad=True)
        moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(model.parameters(), w, strict=True)])
        error = max(error, float((moved - 0.1 * g / g.norm()).abs().max()))
        ddp(own_batch(rank)).square().mean().backward()
        sam.second_step(zero_grad=True)
    return error


@pytest.mark.parametrize("bucket_view", [False, True])
@pytest.mark.parametrize("case", BETWEEN)
def test_first_step_is_made_of_this_workers_own_gradient(case, bucket_view):
    for error in run_ranks(2, error_of_first_step, case, steps=3, bucket_view=bucket_view):
        assert error < 1e-15


def unrecorded(rank: int, num_ranks: int) -> tuple[str, float]:
    model = make_model()
    model[0].weight.requires_grad_(False)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    model.requires_grad_(True)
    ddp = DistributedDataParallel(model)
    before = model[0].weight.detach().clone()
    ddp(own_batch(rank)).square().mean().backward()  # no zero_grad since
    try:
        sam.first_step()
    except RuntimeError as error:
        return str(error), float((model[0].weight - before).abs().max())
    return "", 0.0


def test_first_step_refuses_a_gradient_that_it_has_not_seen():
    for message, moved in run_ranks(2, unrecorded):
        assert "own gradient of 1 parameters" in message
        assert "zero_grad() before the backward" in message
        assert moved == 0.0


def message_of(function: Any) -> str:
    try:
        function()
    except (ValueError, UsageError) as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def static_graph(rank: int, num_ranks: int, m: str) -> tuple[str, float]:
    model = make_model()
    ddp = DistributedDataParallel(model, static_graph=True)
    sam = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, m=m)
    before = model[0].weight.detach().clone()

    def closure() -> Tensor:
        sam.zero_grad()
        loss = ddp(own_batch(rank)).square().mean()
        loss.backward()
        return loss

    return message_of(lambda: [sam.step(closure) for _ in range(3)]), float((model[0].weight - before).abs().max())


def test_a_static_graph_is_refused_where_the_all_reduce_must_be_left_out():
    for message, moved in run_ranks(2, static_graph, "worker"):
        assert message.startswith("ValueError: DistributedDataParallel(static_graph=True) cannot leave out")
        assert moved == 0.0
    (first, moved), second = run_ranks(2, static_graph, "global")
    assert first == "accepted"
    assert moved > 0.0
    assert (first, moved) == second


class Step:
    """The least that TrainStep asks of a method."""

    group_size = "worker"

    def rho_at(self, progress: float) -> float:
        return 0.1

    def make_rule(self, parameters: Any, seed: int) -> Any:
        raise AssertionError("the parameters were accepted")


def sharded(rank: int, num_ranks: int, kind: str) -> list[str]:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model: nn.Module = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "fsdp2":
            fully_shard(model)
        else:
            shown = kind == "fsdp1_original"
            model = FullyShardedDataParallel(model, use_orig_params=shown, device_id=torch.device("cpu"))
    batches = [(own_batch(rank), torch.zeros(8))]
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    messages = [
        message_of(lambda: SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)),
        message_of(lambda: m_sharpness(model, lambda outputs, targets: outputs.mean(), batches)),
    ]
    if kind == "fsdp2":
        return messages
    return [*messages, message_of(lambda: TrainStep(model, nn.MSELoss(), base, Step(), batch_size=8))]


@pytest.mark.parametrize("kind", ["fsdp1_original", "fsdp1_flat", "fsdp2"])
def test_sharded_parameters_are_refused_in_one_line_everywhere(kind):
    """By fully_shard: where it is not asked for; `TrainStep` takes it (test_sharded_step.py)."""
    name = "DTensor" if kind == "fsdp2" else "FullyShardedDataParallel"
    for messages in run_ranks(2, sharded, kind):
        for message, error in zip(messages, ("ValueError", "UsageError", "ValueError"), strict=False):
            assert message.startswith(f"{error}: sharded parameters ({name}")
            assert "DistributedDataParallel" in message
