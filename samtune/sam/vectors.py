"""Arithmetic on vectors that are stored as lists of tensors, one per parameter.

`torch._foreach_*` runs each operation over the whole list in a few kernels. Scalars stay tensors on the device, so
nothing here waits for it. A list may be empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

Vector = Sequence[Tensor]


def _total(values: Sequence[Tensor], vector: Vector) -> Tensor:
    """Sum of one number per tensor."""
    if not values:
        return torch.zeros((), device=vector[0].device if vector else None)
    return torch.stack([value.to(values[0].device) for value in values]).sum()


def norm(vector: Vector, q: float = 2.0) -> Tensor:
    """The q-norm over all entries, a scalar tensor."""
    parts = _norms(vector, q)
    if not parts:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts]), q)
    return total


def _norms(vector: Vector, q: float) -> Sequence[Tensor]:
    """The q-norm of each tensor that is not empty. 16-bit tensors are summed in 32 bits."""
    full = [tensor for tensor in vector if tensor.numel()]
    if not full:
        return []
    wide = torch.float32 if full[0].dtype in (torch.float16, torch.bfloat16) else None
    return torch._foreach_norm(full, q, dtype=wide)


def count_nonzero(vector: Vector) -> Tensor:
    """The number of entries that are not 0, a scalar tensor."""
    counts = _norms(vector, 0.0)
    return torch.stack(list(counts)).double().sum() if counts else torch.zeros((), dtype=torch.float64)


def dot(a: Vector, b: Vector) -> Tensor:
    """The inner product, a scalar tensor."""
    return _total([product.sum() for product in torch._foreach_mul(list(a), list(b))], a) if a else torch.zeros(())


def add_(target: Vector, other: Vector) -> None:
    """target += other."""
    if target:
        torch._foreach_add_(list(target), list(other))


def scale_(vector: Vector, factor: Tensor | float) -> None:
    """vector *= factor, a number or a scalar tensor."""
    if vector:
        torch._foreach_mul_(list(vector), factor)


def copy_(target: Vector, source: Vector) -> None:
    """target = source, into target's own storage."""
    if target:
        torch._foreach_copy_(list(target), list(source))


def safe_ratio(numerator: Tensor | float, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0; a denominator that is NaN or infinite gives NaN.

    A step must not go on from an infinite gradient, and numerator / inf = 0 would hide it.
    """
    finite = torch.where(torch.isfinite(denominator), denominator, math.nan)
    return torch.where(denominator == 0, 0.0, numerator / finite)


def cosine(a: Vector, b: Vector) -> Tensor:
    """The cosine of the angle between two vectors, 0 where one of them is 0."""
    return safe_ratio(dot(a, b), norm(a) * norm(b))


def project_(vector: Vector, radius: float, p: float) -> None:
    """Overwrites a vector with its projection onto the ball ‖·‖_p <= radius.

    For p = 2 and infinity the nearest point of the ball; for other p, where that has no closed form, the point of the
    ball in the vector's direction.
    """
    if p == math.inf:
        torch._foreach_clamp_min_(list(vector), -radius)
        torch._foreach_clamp_max_(list(vector), radius)
    elif vector:
        scale_(vector, (radius / norm(vector, p)).clamp(max=1.0))


def average_(vector: Vector, num_workers: int, group: dist.ProcessGroup | None = None) -> None:
    """Overwrites a vector with its mean over the workers of a process group, in one all-reduce per dtype."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in vector):
        tensors = [tensor for tensor in vector if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=group)
        flat /= num_workers
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def dual_norm_(gradient: Vector, rho: float, p: float = 2.0) -> Tensor:
    """Overwrites a gradient g with the perturbation ε̂ that maximises gᵀε over ‖ε‖_p <= rho (SAM paper, eq. 2).

    With 1/p + 1/q = 1: `ε̂ = rho · sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p)`, so that ‖ε̂‖_p = rho up to rounding. No
    constant is added to a denominator. g = 0 becomes ε̂ = 0; a g that is not finite becomes NaN.

    Args:
        gradient: overwritten.
        rho: radius.
        p: from 1 to infinity. For p = 1 all of rho goes to one coordinate, the first with the largest |g|.

    Returns:
        ‖g‖₂, a scalar tensor.
    """
    length = norm(gradient)
    if not gradient:
        return length
    if p == 2:
        scale_(gradient, safe_ratio(rho, length))
    elif p == math.inf:
        copy_(gradient, torch._foreach_sign(list(gradient)))
        scale_(gradient, rho * safe_ratio(length, length))
    elif p == 1:
        _keep_largest_(gradient, rho * safe_ratio(length, length))
    else:
        q = p / (p - 1.0)
        # Divided by the largest |g| first: powers of small numbers with a large q would vanish.
        scale_(gradient, safe_ratio(1.0, norm(gradient, math.inf)))
        signs = torch._foreach_sign(list(gradient))
        torch._foreach_abs_(list(gradient))
        total = norm(gradient, q)  # >= 1 unless g = 0, so its powers neither vanish nor overflow
        torch._foreach_pow_(list(gradient), q - 1.0)
        scale_(gradient, rho * safe_ratio(1.0, total ** (q - 1.0)))
        torch._foreach_mul_(list(gradient), signs)
    return length


def _keep_largest_(gradient: Vector, value: Tensor) -> None:
    """p = 1: every entry becomes 0 but the largest in absolute value, which becomes sign · value."""
    full = [tensor for tensor in gradient if tensor.numel()]
    flats = [tensor.flatten() for tensor in full]  # a copy where the layout is not contiguous
    positions = [flat.abs().argmax() for flat in flats]
    peaks = torch.stack([flat[position] for flat, position in zip(flats, positions, strict=True)])
    first = peaks.abs().argmax()
    for index, (tensor, flat, position) in enumerate(zip(full, flats, positions, strict=True)):
        kept = torch.where(first == index, peaks[index].sign() * value, 0.0 * value)
        only = torch.zeros_like(flat).scatter_(0, position.reshape(1), kept.to(flat.dtype).reshape(1))
        tensor.copy_(only.view_as(tensor))


def random_direction(parameters: Sequence[Tensor], rho: float, generator: torch.Generator) -> list[Tensor]:
    """rho · z/‖z‖₂ with z ~ N(0, I): uniform on the sphere of radius rho."""
    direction = normal_like(parameters, generator)
    scale_(direction, safe_ratio(rho, norm(direction)))
    return direction


def normal_like(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Standard normal tensors of the parameters' shapes, dtypes and devices."""
    return [
        torch.empty(p.shape, dtype=p.dtype, device=p.device).normal_(generator=generator)  # not p's memory layout
        for p in parameters
    ]
