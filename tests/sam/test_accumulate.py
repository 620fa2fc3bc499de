"""`SAM.accumulate`: gradients at each micro-batch's own w + ε̂, and one step with their sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from helpers.ranks import run_ranks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from samtune.sam import SAM

RHO = 0.3


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def make_batch(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 5, generator=generator).double(), torch.randint(3, (size,), generator=generator)


def make_optimizer(model: nn.Module, **options: object) -> SAM:
    return SAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=0.1, momentum=0.9, **options)


def backward(model: nn.Module, inputs: Tensor, targets: Tensor, share: float = 1.0) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss = cross_entropy(model(inputs), targets) * share
        loss.backward()
        return loss

    return closure


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def gradient_at_perturbed(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """By autograd alone: the gradient at w + rho·g/‖g‖₂."""
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(cross_entropy(model(inputs), targets), parameters)
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    moved = {n: p + RHO * g / norm for (n, p), g in zip(model.named_parameters(), gradient, strict=True)}
    loss = cross_entropy(torch.func.functional_call(model, moved, inputs), targets)
    return list(torch.autograd.grad(loss, parameters))


def test_the_sum_is_of_each_micro_batch_s_own_perturbation() -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    inputs, targets = make_batch()
    before = weights(model)
    expected = [
        sum(parts) / 3
        for parts in zip(
            *(gradient_at_perturbed(model, x, y) for x, y in zip(inputs.split(4), targets.split(4), strict=True)),
            strict=True,
        )
    ]
    for x, y in zip(inputs.split(4), targets.split(4), strict=True):
        optimizer.accumulate(backward(model, x, y, share=1 / 3))
        assert torch.equal(weights(model), before)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)
    optimizer.step()
    torch.testing.assert_close(
        weights(model), before - 0.1 * torch.cat([g.flatten() for g in expected]), rtol=1e-12, atol=1e-14
    )
    assert optimizer.param_groups[0]["sam_passes"] == 2


def test_one_micro_batch_is_a_step_with_a_closure() -> None:
    model, same = make_model(), make_model()
    first, second = make_optimizer(model), make_optimizer(same)
    for _ in range(3):
        first.zero_grad()
        first.accumulate(backward(model, *make_batch()))
        first.step()
        run = backward(same, *make_batch())

        def closure(run: Callable[[], Tensor] = run) -> Tensor:
            second.zero_grad()
            return run()

        second.step(closure)
    assert torch.equal(weights(model), weights(same))


def test_a_step_that_is_not_sam_s_takes_one_pass() -> None:
    model = make_model()
    optimizer = make_optimizer(model, every=2)
    runs = 0

    def closure() -> Tensor:
        nonlocal runs
        runs += 1
        return backward(model, *make_batch())()

    for expected in (2, 1, 2):
        runs = 0
        optimizer.zero_grad()
        optimizer.accumulate(closure)
        optimizer.step()
        assert runs == expected
    assert optimizer.param_groups[0]["sam_passes"] == 5


def test_running_statistics_are_those_of_w_alone_and_dropout_is_the_same_in_both_passes() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    optimizer = make_optimizer(model)
    outputs: list[Tensor] = []
    model[2].register_forward_hook(lambda module, inputs, output: outputs.append(output == 0))
    optimizer.accumulate(backward(model, *make_batch()))
    assert model[1].num_batches_tracked == 1
    assert torch.equal(*outputs)


def test_a_batch_that_fails_leaves_the_gradients_of_those_before() -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    optimizer.accumulate(backward(model, *make_batch()))
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    def fails() -> Tensor:
        backward(model, *make_batch())()
        raise MemoryError

    with pytest.raises(MemoryError):
        optimizer.accumulate(fails)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True) if p.grad is not None)


def test_what_the_closure_must_not_do_is_said() -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    run = backward(model, *make_batch())

    def zeroing() -> Tensor:
        optimizer.zero_grad()
        return run()

    with pytest.raises(ValueError, match="the closure of accumulate must not zero the gradients"):
        optimizer.accumulate(zeroing)
    optimizer.zero_grad()
    run()  # a batch of before, as a loop that accumulates has it
    with pytest.raises(ValueError, match=r"adds its gradient to an earlier one.*use optimizer.accumulate"):
        optimizer.step(run)
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("by", ["optimizer", "model", "hand"])
def test_gradients_may_be_zeroed_in_any_way(by: str, set_to_none: bool) -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    run = backward(model, *make_batch())

    def closure() -> Tensor:
        if by == "hand":
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad = None if set_to_none else torch.zeros_like(parameter)
        else:
            (optimizer if by == "optimizer" else model).zero_grad(set_to_none=set_to_none)
        return run()

    for _ in range(2):
        optimizer.step(closure)


def train_on_ranks(rank: int, world: int) -> Tensor:
    model = make_model()
    wrapped = DistributedDataParallel(model)
    optimizer = make_optimizer(model)
    inputs, targets = make_batch(16)
    mine = slice(rank * 8, rank * 8 + 8)
    parts = list(zip(inputs[mine].split(4), targets[mine].split(4), strict=True))
    with wrapped.no_sync():
        optimizer.accumulate(backward(wrapped, *parts[0], share=1 / 2))
    optimizer.accumulate(backward(wrapped, *parts[1], share=1 / 2))
    optimizer.step()
    gathered = [torch.empty_like(weights(model)) for _ in range(world)]
    dist.all_gather(gathered, weights(model))
    assert torch.equal(*gathered)
    return weights(model)


def test_two_ranks_are_four_groups_of_one() -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    inputs, targets = make_batch(16)
    for x, y in zip(inputs.split(4), targets.split(4), strict=True):
        optimizer.accumulate(backward(model, x, y, share=1 / 4))
    optimizer.step()
    for result in run_ranks(2, train_on_ranks):
        torch.testing.assert_close(result, weights(model), rtol=1e-12, atol=1e-14)
