"""Losses whose Hessian is known."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from samtune.sharpness import MeanLoss

DTYPE = torch.float64


class Quadratic(nn.Module):
    """Outputs ½·wᵀHw + gᵀw for every input row."""

    def __init__(self, matrix: Tensor, at: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        d = len(matrix)
        first = d // 3
        at = torch.zeros(d, dtype=matrix.dtype) if at is None else at
        self.parts = nn.ParameterList([nn.Parameter(at[:first].clone()), nn.Parameter(at[first:].clone())])

    def forward(self, inputs: Tensor) -> Tensor:
        w = torch.cat([*self.parts])
        return 0.5 * w @ self.matrix @ w + inputs @ w


def row_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def with_spectrum(eigenvalues: list[float] | Tensor, seed: int = 0) -> Tensor:
    """A random symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=DTYPE)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), dtype=DTYPE, generator=generator)).Q
    return basis @ torch.diag(values) @ basis.T


def zero_batches(d: int, sizes: tuple[int, ...] = (3, 2)) -> list[tuple[Tensor, Tensor]]:
    """Rows that add no slope to a Quadratic."""
    return [(torch.zeros(size, d, dtype=DTYPE), torch.zeros(size)) for size in sizes]


def network(seed: int = 0, *, norm: bool = False, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6)] if norm else [nn.Linear(4, 6)]
    return nn.Sequential(*layers, activation(), nn.Linear(6, 3)).to(DTYPE)


def examples(count: int = 24, batch_size: int = 7, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Batches of unequal sizes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, dtype=DTYPE, generator=generator)
    targets = torch.randint(0, 3, (count,), generator=generator)
    return list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))


def full_hessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """torch.func's, [d, d], of the mean cross entropy over all examples at once."""
    loss = MeanLoss(model, nn.CrossEntropyLoss(), batches)
    names = [name for name, _ in model.named_parameters()]
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def value(w: Tensor) -> Tensor:
        parameters = dict(zip(names, loss.unflatten(w), strict=True))
        return nn.functional.cross_entropy(functional_call(model, parameters, (inputs,)), targets)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.func, about torch.jit
        return hessian(value)(loss.flatten(loss.parameters).detach())
