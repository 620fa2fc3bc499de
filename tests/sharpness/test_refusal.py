"""Losses that cannot be differentiated twice are refused with the reason; those that can, by detours, are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.problems import DTYPE, Quadratic, examples, network, row_mean, zero_batches
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from samtune.sharpness import NotTwiceDifferentiableError, lambda_max, m_sharpness, trace

CROSS_ENTROPY = nn.CrossEntropyLoss()


class Once(torch.autograd.Function):
    """tanh whose backward cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class OnceTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


def test_a_backward_without_a_derivative_is_refused_with_its_reason():
    model = network()
    model[1] = OnceTanh()
    for measure in (lambda_max, trace):
        with pytest.raises(NotTwiceDifferentiableError, match=r"twice: .*once_differentiable"):
            measure(model, CROSS_ENTROPY, examples())
    assert m_sharpness(model, CROSS_ENTROPY, examples()).value > 0  # needs the first derivative only


def test_a_gradient_that_does_not_depend_on_the_weights_is_refused():
    flat = Quadratic(torch.zeros(3, 3, dtype=DTYPE))
    flat.forward = lambda inputs: torch.cat([*flat.parts]).sum() * 2  # type: ignore[method-assign]
    with pytest.raises(NotTwiceDifferentiableError, match="does not depend on the weights"):
        lambda_max(flat, row_mean, zero_batches(3))


class CutOff(torch.autograd.Function):
    """tanh whose backward is outside the graph, so that torch finds nothing to complain of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return (gradient * (1 - y * y)).detach()


class CutOffTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return CutOff.apply(x)


def test_a_backward_that_is_cut_off_from_the_graph_is_refused():
    model = network()
    model[1] = CutOffTanh()
    with pytest.raises(NotTwiceDifferentiableError, match="not symmetric"):
        trace(model, CROSS_ENTROPY, examples())


def test_an_operator_without_a_second_derivative_is_refused_with_torchs_reason():
    model = network()
    model[1] = nn.Sequential(nn.Unflatten(1, (6, 1)), WithoutSecond(), nn.Flatten())
    with pytest.raises(NotTwiceDifferentiableError, match="no second derivative here"):
        trace(model, CROSS_ENTROPY, examples())


class WithoutSecond(nn.Module):
    """Raises when its backward is differentiated, as fused kernels do."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.tanh()
        y.register_hook(lambda gradient: Refusing.apply(gradient))
        return y


class Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError("no second derivative here")


def test_the_model_is_as_it_was_after_a_refusal():
    model = network(norm=True)
    model[2] = OnceTanh()
    with pytest.raises(NotTwiceDifferentiableError):
        lambda_max(model, CROSS_ENTROPY, examples())
    assert model.training


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x[:, None, None, :].expand(-1, 1, 5, 4)).chunk(3, dim=-1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).mean(dim=(1, 2)))


def test_attention_is_differentiated_twice():
    torch.manual_seed(0)
    model = Attention().float()
    batches = [(inputs.float(), targets) for inputs, targets in examples()]
    assert lambda_max(model, CROSS_ENTROPY, batches).value > 0
