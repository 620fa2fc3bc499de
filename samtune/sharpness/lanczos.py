"""Lanczos' iteration with full re-orthogonalisation, for any symmetric matrix that is given by its products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ritz:
    """Eigenvalues and eigenvectors of a symmetric matrix, restricted to a Krylov space, for each of k starts."""

    values: Tensor
    """θ, float64 [k, s] on the CPU, ascending."""
    residuals: Tensor
    """‖H·y - θ·y‖ of each Ritz vector y, [k, s]: an eigenvalue of H lies within it of θ."""
    weights: Tensor
    """Squared first components of the eigenvectors of T, [k, s], summing to 1: with θ, the Gauss quadrature of the
    spectrum as the start sees it."""


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, max_steps: int, *, generator: torch.Generator
) -> Iterator[Ritz]:
    """Runs k iterations side by side, so that they can share what the products have in common.

    Every new vector is made orthogonal to all before it, twice: without that, Ritz values come in copies as soon as one
    has converged. Where the Krylov space is exhausted, the iteration continues from a random vector orthogonal to it.

    Args:
        product: H·v for each row, [k, d] -> [k, d].
        start: [k, d], not 0.
        max_steps: at most d are made. Memory: max_steps x k x d numbers.
        generator: of the random vectors, on the device of `start`.

    Yields:
        After each step the Ritz values in the space of so many dimensions.
    """
    k, d = start.shape
    steps = min(max_steps, d)
    basis = torch.empty(k, steps, d, dtype=start.dtype, device=start.device)
    diagonal = torch.zeros(k, steps, dtype=torch.float64)
    beside = torch.zeros(k, steps, dtype=torch.float64)
    tiny = 100 * torch.finfo(start.dtype).eps
    vector = start / start.norm(dim=1, keepdim=True)
    for step in range(steps):
        basis[:, step] = vector
        image = product(vector)
        diagonal[:, step] = (vector * image).sum(dim=1).double().cpu()
        known = basis[:, : step + 1]
        size = image.norm(dim=1).double().cpu()
        rest = _orthogonal(image, known)
        length = rest.norm(dim=1).double().cpu()
        ended = length <= tiny * size
        beside[:, step] = torch.where(ended, 0.0, length)
        yield _ritz(diagonal[:, : step + 1], beside[:, : step + 1])
        if step + 1 < steps:
            for row in ended.nonzero().flatten().tolist():
                rest[row] = torch.randn(d, dtype=start.dtype, device=start.device, generator=generator)
                rest[row] = _orthogonal(rest[row : row + 1], known[row : row + 1])[0]
            vector = rest / rest.norm(dim=1, keepdim=True)


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """The part of [k, d] that is orthogonal to [k, s, d], which are orthonormal."""
    for _ in range(2):
        inner = torch.einsum("ksd,kd->ks", basis, vectors)
        vectors = vectors - torch.einsum("ksd,ks->kd", basis, inner)
    return vectors


def _ritz(diagonal: Tensor, beside: Tensor) -> Ritz:
    matrix = torch.diag_embed(diagonal)
    if diagonal.shape[1] > 1:
        off = beside[:, :-1]
        matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, eigenvectors = torch.linalg.eigh(matrix)
    return Ritz(values, beside[:, -1:] * eigenvectors[:, -1].abs(), eigenvectors[:, 0] ** 2)
