"""Trace and Frobenius norm of the Hessian from random probes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.sharpness.estimate import Estimate, Progress, is_enough, mean_estimate
from samtune.sharpness.loss import Batches, LossFn, MeanLoss
from samtune.sharpness.probes import probe_generator, rademacher


def trace(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    max_probes: int = 100,
    target_error: float | None = None,
    together: int = 4,
    deflate: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """The trace of the Hessian: the mean of xᵀHx over Rademacher probes (Hutchinson).

    Args:
        max_probes: upper limit.
        target_error: ends when the standard error is this small, at 8 probes the earliest.
        together: probes that share forwards and backwards; memory is twice this number of vectors.
        deflate: take the trace within the span of `deflate` products H·x exactly and estimate only the rest (Hutch++,
            Meyer et al. 2021). It costs 2·deflate products first, and pays where a few eigenvalues are far larger than
            all others and the wanted error is small.
        seed: of the probes.
        progress: called with the answer so far after each lot of probes; True ends it.

    Raises:
        NotTwiceDifferentiableError: says why.
    """
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    generator = probe_generator(mean_loss, seed)
    with mean_loss.fixed():
        basis, known = _deflated(mean_loss, deflate, generator)
        samples: list[float] = []
        for first in range(0, max_probes, together):
            probes = rademacher(mean_loss, min(together, max_probes - first), generator)
            probes -= (probes @ basis) @ basis.T
            samples += [known + sample for sample in _inner(probes, mean_loss.hessian_products(probes))]
            estimate = mean_estimate(samples, mean_loss.passes)
            if is_enough(estimate, target_error, progress):
                break
    return estimate


def frobenius_squared(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    max_probes: int = 100,
    target_error: float | None = None,
    together: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """‖H‖_F², the sum of the squared eigenvalues: the mean of ‖Hx‖² over Rademacher probes. Arguments as in `trace`."""
    estimates = trace_and_frobenius_squared(
        model,
        loss_fn,
        batches,
        max_probes=max_probes,
        target_error=target_error,
        together=together,
        seed=seed,
        progress=progress,
        group=group,
    )
    return estimates[1]


def trace_and_frobenius_squared(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    max_probes: int = 100,
    target_error: float | None = None,
    together: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Estimate, Estimate]:
    """Both from the same products; `target_error` and `progress` are about the second. Arguments as in `trace`."""
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    generator = probe_generator(mean_loss, seed)
    traces: list[float] = []
    squares: list[float] = []
    with mean_loss.fixed():
        for first in range(0, max_probes, together):
            probes = rademacher(mean_loss, min(together, max_probes - first), generator)
            products = mean_loss.hessian_products(probes)
            traces += _inner(probes, products)
            squares += _inner(products, products)
            square = mean_estimate(squares, mean_loss.passes)
            if is_enough(square, target_error, progress):
                break
    return mean_estimate(traces, mean_loss.passes), square


def _deflated(mean_loss: MeanLoss, rank: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """An orthonormal basis Q, [d, rank], of products H·x, and the trace of QᵀHQ."""
    rank = min(rank, mean_loss.num_weights)
    if rank == 0:
        return torch.zeros(mean_loss.num_weights, 0, dtype=mean_loss.dtype, device=mean_loss.device), 0.0
    sketch = mean_loss.hessian_products(rademacher(mean_loss, rank, generator))
    basis = torch.linalg.qr(sketch.T).Q.contiguous()
    return basis, sum(_inner(basis.T, mean_loss.hessian_products(basis.T.contiguous())))


def _inner(a: Tensor, b: Tensor) -> list[float]:
    values: list[float] = (a * b).sum(dim=1).double().tolist()
    return values
