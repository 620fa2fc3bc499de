"""Arithmetic on vectors that are stored as lists of tensors, one per parameter.

`torch._foreach_*` runs each operation over the whole list in a few kernels. Scalars stay tensors on the device, so
nothing here waits for it. A list may be empty, and may mix dtypes and devices. No other module uses `torch._foreach_*`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter

import torch
import torch.distributed as dist
from torch import Tensor

from samtune.sam.blocks import SIZE, in_blocks, is_dense
from samtune.sam.parts import drawn_like, of_all_ranks, summed

Vector = Sequence[Tensor]

_LOW = (torch.float16, torch.bfloat16)
# Mapped: of 160 small tensors, asking each in Python takes 1% of a step.
_on_cpu, _dtype, _layout = attrgetter("is_cpu"), attrgetter("dtype"), attrgetter("layout")
_has_graph = attrgetter("requires_grad")


def _by_kind(vector: Vector) -> Iterator[list[int]]:
    """The positions of the tensors of each dtype and device: lists of one kind run in few kernels."""
    if not vector:
        return
    one_device = all(map(_on_cpu, vector)) or len({tensor.device for tensor in vector}) == 1
    if one_device and len(set(map(_dtype, vector))) == 1:
        yield list(range(len(vector)))
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(vector):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(index)
    yield from kinds.values()


def _total(values: Sequence[Tensor], vector: Vector) -> Tensor:
    """Sum of one number per tensor."""
    if not values:
        return torch.zeros((), device=vector[0].device if vector else None)
    return torch.stack([value.to(values[0].device) for value in values]).sum()


def norm(vector: Vector, q: float = 2.0) -> Tensor:
    """The q-norm over all entries, a scalar tensor of 32 or 64 bits.

    It neither vanishes nor overflows where the norm itself does not: squares of float32 numbers below 1e-22 would
    vanish, those of numbers above 1e19 overflow. Sums in 64 bits cost nothing on an accelerator, where reading the
    memory takes the time; on a CPU they are 35 times slower, so there they are only made where 32 bits do not suffice.

    Inside `parts.over_shards` it is that of the vector of which each rank has a part.
    """
    vector = dense(vector)
    (full,) = in_blocks([tensor for tensor in vector if tensor.numel()] if 0 in map(Tensor.numel, vector) else vector)
    norms = [_norm_of_kind([full[index] for index in indices], q) for indices in _by_kind(full)]
    own = _norm_of_norms(norms, q) if norms else torch.zeros((), device=vector[0].device if vector else None)
    every = of_all_ranks(own)
    return own if len(every) == 1 else _norm_of_norms(every, q)


def are_finite(vector: Vector) -> Tensor:
    """Whether all entries are numbers, a boolean scalar tensor.

    Small tensors on a CPU are looked at one after another by a single call, in a third of the time of their norm.
    """
    tensors = dense(vector)
    if not tensors or not _are_plain_and_small(tensors):
        return torch.isfinite(norm(tensors))
    found, one = torch.tensor([0.0, 1.0], dtype=torch.float32, device="cpu").unbind()
    # What GradScaler looks with: it multiplies by a factor, here 1, which changes no bit of a number.
    torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, one)
    return found == 0


def _are_plain_and_small(tensors: list[Tensor]) -> bool:
    return (
        set(map(type, tensors)) == {Tensor}
        and set(map(_dtype, tensors)) in ({torch.float32}, {torch.float64})
        and all(map(_on_cpu, tensors))
        and not any(map(_has_graph, tensors))
        and max(map(Tensor.numel, tensors)) <= SIZE
        and all(map(is_dense, tensors))
    )


def _norm_of_norms(parts: Sequence[Tensor], q: float) -> Tensor:
    """The q-norm of norms, of one dtype or several."""
    if len(parts) == 1:
        return parts[0]
    device = parts[0].device
    wide = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
    total: Tensor = torch.linalg.vector_norm(torch.stack([part.to(device, wide) for part in parts]), q)
    return total


def _norm_of_kind(tensors: list[Tensor], q: float) -> Tensor:
    """The q-norm of tensors of one dtype and device, in 32 or 64 bits."""
    if tensors[0].dtype == torch.float64 or q == math.inf:  # a maximum needs no more bits than its numbers
        return _joined(tensors, q, torch.float32 if tensors[0].dtype in _LOW else None)
    if tensors[0].is_cpu:
        length = _joined(tensors, q, torch.float32)
        total = float(length)
        # Below, squares that vanish would be missed: the mean square of d entries must be well above 1e-38.
        small = 1e-17 * math.sqrt(sum(tensor.numel() for tensor in tensors)) if total < 1e-10 else 0.0
        # A NaN is one in any precision; infinity may be an overflow of the sum.
        if not (total < small or total == math.inf):
            return length
    elif tensors[0].device.type == "mps":  # has no 64 bits
        return _joined(tensors, q, torch.float32)
    return _joined(tensors, q, torch.float64)


def _joined(tensors: list[Tensor], q: float, dtype: torch.dtype | None) -> Tensor:
    if dtype == tensors[0].dtype:  # the same bits, without a conversion of each
        dtype = None
    norms: Tensor = torch.stack(torch._foreach_norm(tensors, q, dtype=dtype))
    length: Tensor = torch.linalg.vector_norm(norms, q)
    return length


def count_nonzero(vector: Vector) -> Tensor:
    """The number of entries that are not 0, a scalar tensor."""
    counts = [torch.count_nonzero(tensor) for tensor in vector]
    return summed(_total(counts, vector).double())


def dot(a: Vector, b: Vector) -> Tensor:
    """The inner product, a scalar tensor."""
    if not a:
        return torch.zeros(())
    a, b = in_blocks(a, b)
    if a[0].is_cpu:  # a product at a time stays in the cache
        return summed(_total([torch.mul(x, y).sum() for x, y in zip(a, b, strict=True)], a))
    return summed(_total([product.sum() for product in torch._foreach_mul(a, b)], a))


def add_(target: Vector, other: Vector, factor: Tensor | float | None = None) -> None:
    """target += other, or factor · other, in one go where reading the factor does not wait for an accelerator."""
    if factor is None:
        if target:
            torch._foreach_add_(list(target), list(other))
        return
    for indices in _by_kind(target):
        tensors, others = [target[index] for index in indices], [other[index] for index in indices]
        first = tensors[0]
        if first.is_cpu and first.dtype not in _LOW and all(tensor.dtype == first.dtype for tensor in others):
            torch._foreach_add_(tensors, others, alpha=float(_representable(factor, first)))
        else:
            torch._foreach_add_(tensors, scaled(others, factor))


def add_into_(target: Vector, vector: Vector, other: Vector, factor: Tensor | float | None = None) -> None:
    """target = vector + other, or + factor · other, on a CPU; to the last bit what `add_` makes of vector."""
    if not target:
        return
    first = target[0]
    if first.dtype in _LOW or any(tensor.dtype != first.dtype for tensor in (*target, *vector, *other)):
        copy_(target, vector)
        add_(target, other, factor)
        return
    alpha = 1.0 if factor is None else float(_representable(factor, first))
    for result, a, b in zip(target, vector, other, strict=True):
        torch.add(a, b, alpha=alpha, out=result)


def scale_(vector: Vector, factor: Tensor | float) -> None:
    """vector *= factor, a number or a scalar tensor.

    16-bit tensors are multiplied in 32 bits and rounded once.
    """
    for indices in _by_kind(vector):
        tensors = [vector[index] for index in indices]
        if tensors[0].dtype in _LOW:
            copy_(tensors, _scaled_kind(tensors, factor))
        else:
            torch._foreach_mul_(tensors, _representable(factor, tensors[0]))


def scaled(vector: Vector, factor: Tensor | float) -> list[Tensor]:
    """factor · vector, new tensors."""
    result = list(vector)
    for indices in _by_kind(vector):
        for index, tensor in zip(indices, _scaled_kind([vector[index] for index in indices], factor), strict=True):
            result[index] = tensor.to(vector[index].dtype)
    return result


def _scaled_kind(tensors: list[Tensor], factor: Tensor | float) -> Sequence[Tensor]:
    """factor · tensors of one kind; of 16-bit tensors in 32 bits."""
    wide = [tensor.float() for tensor in tensors] if tensors[0].dtype in _LOW else tensors
    return torch._foreach_mul(wide, _representable(factor, wide[0]))


def _representable(factor: Tensor | float, like: Tensor) -> Tensor | float:
    """A factor as a scalar of a tensor's dtype, on its device.

    What is beyond the dtype's largest number becomes that number: in float32 the inverse of a norm below 1e-38 would
    be infinite.
    """
    if not isinstance(factor, Tensor):
        return factor
    if factor.dtype == torch.float64 and like.dtype != torch.float64:
        limit = torch.finfo(like.dtype).max
        factor = factor.clamp(-limit, limit)
    return factor.to(like.device, like.dtype)


def multiply_(vector: Vector, other: Vector) -> None:
    """vector *= other, entry by entry."""
    if vector:
        torch._foreach_mul_(list(vector), list(other))


def scale_each_(vector: Vector, factors: Sequence[float]) -> None:
    """Multiplies each tensor by a number of its own."""
    if vector:
        torch._foreach_mul_(list(vector), list(factors))


def total(a: Vector, b: Vector) -> list[Tensor]:
    """a + b, new tensors."""
    return list(torch._foreach_add(list(a), list(b))) if a else []


def difference(a: Vector, b: Vector) -> list[Tensor]:
    """a - b, new tensors."""
    return list(torch._foreach_sub(list(a), list(b))) if a else []


def sign(vector: Vector) -> list[Tensor]:
    """-1, 0 or 1, new tensors."""
    return list(torch._foreach_sign(list(vector))) if vector else []


def absolute(vector: Vector, plus: float = 0.0) -> list[Tensor]:
    """|vector| + plus, new tensors."""
    result = list(torch._foreach_abs(list(vector))) if vector else []
    if result and plus:
        torch._foreach_add_(result, plus)
    return result


def add_squares_(target: Vector, vector: Vector, factor: float) -> None:
    """target += factor · vector²."""
    if target:
        torch._foreach_addcmul_(list(target), list(vector), list(vector), value=factor)


def move_towards_(target: Vector, other: Vector, share: float) -> None:
    """target += share · (other - target)."""
    for indices in _by_kind(target):
        torch._foreach_lerp_([target[index] for index in indices], [other[index] for index in indices], share)


def copy_(target: Vector, source: Vector) -> None:
    """target = source, into target's own storage."""
    if target:
        torch._foreach_copy_(list(target), list(source))


def dense(vector: Vector) -> list[Tensor]:
    """The same vector without sparse tensors, which the gradients of embeddings may be."""
    if set(map(_layout, vector)) == {torch.strided}:
        return list(vector)
    return [tensor if tensor.layout is torch.strided else tensor.to_dense() for tensor in vector]


def copies(vector: Vector) -> list[Tensor]:
    """Copies of all tensors; on an accelerator in one block of memory per dtype, which takes one kernel."""
    if all(map(_on_cpu, vector)):
        return [(tensor.detach() if tensor.requires_grad else tensor).clone() for tensor in vector]
    result = list(vector)
    for indices in _by_kind(vector):
        flat = torch.cat([vector[index].detach().reshape(-1) for index in indices])
        parts = torch.split(flat, [vector[index].numel() for index in indices])
        for index, part in zip(indices, parts, strict=True):
            result[index] = part.view(vector[index].shape)
    return result


def stacked(vectors: Sequence[Vector]) -> list[Tensor]:
    """Several vectors as one of [K, ...] tensors."""
    return [torch.stack(list(tensors)) for tensors in zip(*vectors, strict=True)]


def unstacked(vector: Vector) -> list[list[Tensor]]:
    """The vectors that a stacked one consists of: views of it."""
    return [list(tensors) for tensors in zip(*(tensor.unbind() for tensor in vector), strict=True)]


def where(condition: Tensor, vector: Vector, other: Vector) -> list[Tensor]:
    """vector if condition else other, new tensors. The condition is a boolean scalar tensor."""
    return [torch.where(condition.to(a.device), a, b) for a, b in zip(vector, other, strict=True)]


def safe_ratio(numerator: Tensor | float, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0; a denominator that is NaN or infinite gives NaN.

    A step must not continue from an infinite gradient, and numerator / inf = 0 would hide it.
    """
    if denominator.is_cpu and denominator.ndim == 0 and 0.0 < abs(float(denominator)) < math.inf:
        return numerator / denominator  # one operation instead of five
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
    length, scale = dual_direction_(gradient, rho, p)
    scale_(gradient, scale)
    return length


def dual_direction_(gradient: Vector, rho: float, p: float = 2.0) -> tuple[Tensor, Tensor]:
    """As `dual_norm_`, but for a factor that is yet to be multiplied: for p = 2 the gradient stays as it is.

    Returns:
        ‖g‖₂ and the factor.
    """
    length = norm(gradient)
    if not gradient:
        return length, torch.ones_like(length)
    if p == 2:
        return length, safe_ratio(rho, length)
    if p == math.inf:
        copy_(gradient, sign(gradient))
        return length, rho * safe_ratio(length, length)
    if p == 1:
        _keep_largest_(gradient, rho * safe_ratio(length, length))
        return length, torch.ones_like(length)
    q = p / (p - 1.0)
    # Divided by the largest |g| first: powers of small numbers with a large q would vanish.
    peak = norm(gradient, math.inf)
    scale_(gradient, safe_ratio(1.0, peak).clamp(max=torch.finfo(peak.dtype).max))
    signs = sign(gradient)
    torch._foreach_abs_(list(gradient))
    size = norm(gradient, q)  # >= 1 unless g vanishes, so its powers are numbers
    torch._foreach_pow_(list(gradient), q - 1.0)
    multiply_(gradient, signs)
    return length, rho * safe_ratio(1.0, size ** (q - 1.0))


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
    return drawn_like(parameters, lambda tensor: tensor.normal_(generator=generator))
