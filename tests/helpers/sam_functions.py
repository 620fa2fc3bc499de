"""A φ and a ψ of one's own with two outputs, and measures, found by their import path."""

from __future__ import annotations

import torch
from torch import Tensor


def psi(t: Tensor) -> Tensor:
    return torch.stack([torch.tanh(t), t * t])


def phi(mean: Tensor) -> Tensor:
    return mean[0] + 0.5 * mean[0] * mean[1]


def cosines(parameters, gradient, generator):  # type: ignore[no-untyped-def]
    """A direction that depends on the group through its gradient."""
    return [torch.cos(1000 * g) for g in gradient]


def sines(parameters, gradient, generator):  # type: ignore[no-untyped-def]
    """Another."""
    return [torch.sin(1000 * g) for g in gradient]
