"""Any measure of the universal (φ, ψ, μ) class of sharpness (Tahmasebi et al., ICML 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.errors import UsageError
from samtune.sam.rules.universal import SAMPLERS, Sampler, cube, identity
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
    sampler: Sampler | str | Sequence[Sampler | str] = "gaussian",
    rho: float = 0.01,
    num_directions: int = 100,
    target_error: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    group: dist.ProcessGroup | None = None,
) -> Estimate:
    """φ(mean_i ψ(t_i)) with t_i = (L(w + rho·x_i) - L(w)) / rho² and directions x_i from μ (definition 1).

    With φ = ψ = identity and Gaussian directions it tends to ½ tr H as rho goes to 0; with `sampler="gradient"` it is
    SAM's sharpness over rho². The loss is summed in float64, yet computed in the weights' precision: in float32 a rho
    below 0.01 of the weights' size loses the difference.

    Args:
        phi: torch function, [k] -> scalar.
        psi: torch function, scalar -> scalar or [k].
        sampler: of the directions: "gaussian", "sphere" (radius √d), "gradient", "cube" (half width 0.01), or a
            function of (parameters, gradient, generator) that returns one tensor per parameter. A sequence of k gives
            each output of ψ directions of its own, from μ_1, ..., μ_k (eqs 3 to 6).
        rho: how far along the directions.
        num_directions: at most, from each measure. Each costs a forward; a pass at w comes on top.
        target_error: ends when the standard error is this small, at 8 directions the earliest.
        seed: of the directions.
        progress: called with the answer so far after each direction; True ends it.

    Returns:
        The measure; its standard error is that of mean ψ carried through φ to first order.
    """
    if rho <= 0 or num_directions < 1:
        raise UsageError(f"rho and num_directions must be > 0 (rho is {rho}, num_directions {num_directions})")
    samplers = [_sampler(each) for each in ([sampler] if isinstance(sampler, str) or callable(sampler) else sampler)]
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    generator = probe_generator(mean_loss, seed)
    values: list[Tensor] = []
    with mean_loss.fixed():
        base, gradient = mean_loss.value_and_gradient()

        def psi_at(draw: Sampler) -> Tensor:
            """ψ(t), [k], in a direction."""
            with torch.no_grad():
                direction = draw(mean_loss.parameters, mean_loss.unflatten(gradient), generator)
            mean_loss.weights.perturb([rho * part for part in direction])
            rise = (mean_loss.value() - base) / rho**2
            return psi(torch.tensor(rise, dtype=torch.float64)).reshape(-1).detach()

        for _ in range(num_directions):
            if len(samplers) == 1:
                values.append(psi_at(samplers[0]))
            else:
                each = [psi_at(draw).expand(len(samplers)) for draw in samplers]
                values.append(torch.stack([value[output] for output, value in enumerate(each)]))
            watched = target_error is not None or progress is not None
            if watched and is_enough(_estimate(phi, torch.stack(values), mean_loss.passes), target_error, progress):
                break
    return _estimate(phi, torch.stack(values), mean_loss.passes)


NAMED: dict[str, dict[str, Any]] = {
    "trace": {"phi": lambda s: 2.0 * s.sum()},
    "frobenius_squared": {"psi": lambda t: torch.stack([t, t * t]), "phi": lambda s: 2.0 * (s[1] - s[0] ** 2)},
    "determinant": {
        "psi": lambda t: torch.exp(-0.5 * t),
        "phi": lambda s: s.sum() ** -2,
        "sampler": cube(0.01),
        "rho": 1.0,
    },
}
"""Rows of table 1, by what they measure: (φ, ψ, μ) and rho of `universal_measure`."""


def named_universal_measure(name: str, model: nn.Module, loss_fn: LossFn, batches: Batches, **options: Any) -> Estimate:
    """A row of table 1 from losses alone, without a Hessian-vector product.

    `trace` tends to tr H, `frobenius_squared` to (n - 1)/n·‖H‖_F² over n directions, as rho goes to 0 and where ∇L = 0
    (elsewhere the latter also holds 2·‖∇L‖²/rho²). `determinant` is the published measure in the cube of half width
    0.01, which is a multiple of det H only in a much wider one: see `samtune.sam.rules.universal.DetRule`.

    Args:
        name: of `NAMED`.
        options: of `universal_measure`; they override the row's.

    Raises:
        UsageError: there is no such row.
    """
    if name not in NAMED:
        raise UsageError(f"the measure must be {', '.join(NAMED)} (got {name!r})")
    return universal_measure(model, loss_fn, batches, **{**NAMED[name], **options})


def _sampler(sampler: Sampler | str) -> Sampler:
    if not isinstance(sampler, str):
        return sampler
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler must be {', '.join(SAMPLERS)} or a function (got {sampler!r})")
    return SAMPLERS[sampler]


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
