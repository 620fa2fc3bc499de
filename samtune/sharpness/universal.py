"""Any measure of the universal (φ, ψ, μ) class of sharpness (Tahmasebi et al., ICML 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.errors import UsageError
from samtune.sam.rules.universal import SAMPLERS, Sampler, identity
from samtune.sharpness.estimate import Estimate, Progress, is_enough
from samtune.sharpness.loss import Batches, LossFn, MeanLoss
from samtune.sharpness.probes import probe_generator

Function = Callable[[Tensor], Tensor]


def universal_measure(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    phi: Function = identity,
    psi: Function = identity,
    sampler: Sampler | str = "gaussian",
    rho: float = 0.01,
    num_directions: int = 100,
    target_error: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """φ(mean_i ψ(t_i)) with t_i = (L(w + rho·x_i) - L(w)) / rho² and directions x_i from μ.

    With φ = ψ = identity and Gaussian directions it tends to ½ tr H as rho goes to 0; with `sampler="gradient"` it is
    SAM's sharpness over rho². The loss is summed in float64, yet computed in the weights' precision: in float32 a rho
    below 0.01 of the weights' size loses the difference.

    Args:
        phi: torch function, [k] -> scalar.
        psi: torch function, scalar -> scalar or [k].
        sampler: of the directions: "gaussian", "sphere" (radius √d), "gradient", or a function of (parameters,
            gradient, generator) that returns one tensor per parameter.
        rho: how far along the directions.
        num_directions: at most. Each costs a forward; a pass at w comes on top.
        target_error: ends when the standard error is this small, at 8 directions the earliest.
        seed: of the directions.
        progress: told of the answer so far after each direction; True ends it.

    Returns:
        The measure; its standard error is that of mean ψ carried through φ to first order.
    """
    if rho <= 0 or num_directions < 1:
        raise UsageError(f"rho and num_directions must be > 0 (rho is {rho}, num_directions {num_directions})")
    if isinstance(sampler, str) and sampler not in SAMPLERS:
        raise UsageError(f"sampler must be {', '.join(SAMPLERS)} or a function (got {sampler!r})")
    draw = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    generator = probe_generator(mean_loss, seed)
    values: list[Tensor] = []
    with mean_loss.fixed():
        base, gradient = mean_loss.value_and_gradient()
        for _ in range(num_directions):
            with torch.no_grad():
                direction = draw(mean_loss.parameters, mean_loss.unflatten(gradient), generator)
            mean_loss.weights.perturb([rho * part for part in direction])
            rise = (mean_loss.value() - base) / rho**2
            values.append(psi(torch.tensor(rise, dtype=torch.float64)).reshape(-1).detach())
            estimate = _estimate(phi, torch.stack(values), mean_loss.passes)
            if is_enough(estimate, target_error, progress):
                break
    return estimate


def _estimate(phi: Function, values: Tensor, passes: float) -> Estimate:
    """Of ψ's values, [n, k]."""
    mean = values.mean(dim=0).requires_grad_()
    value = phi(mean)
    n = len(values)
    if n < 2:
        return Estimate(float(value.detach()), math.nan, passes, n)
    (slope,) = torch.autograd.grad(value, mean, materialize_grads=True)
    along = (values - mean.detach()) @ slope
    return Estimate(float(value.detach()), float(along.std() / math.sqrt(n)), passes, n)
