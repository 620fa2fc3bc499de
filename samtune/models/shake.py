"""The noise of Shake-Shake (Gastaldi 2017) and ShakeDrop (Yamada 2018): other coefficients forward than backward.

SAM's ascent pass needs the gradient of what was computed, so there both passes use the forward coefficient, as the
authors' code does ("true gradient"). Whoever makes that pass sets `true_gradient` on every module that has it. The
numbers drawn are the same in both modes, from torch's default generator: seeded alike, two passes have the same
forward coefficients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShakeShake(nn.Module):
    """In training, a random convex combination of two branches, for each example; in evaluation, their mean.

    Attributes:
        true_gradient: the gradient is that of the combination computed, not of a second random one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.true_gradient = False

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two tensors [N, C, H, W] to one."""
        if not self.training:
            return 0.5 * (first + second)
        forward, backward = _uniform(first), _uniform(first)
        computed = forward * first + (1 - forward) * second
        if self.true_gradient:
            return computed
        return _replace_gradient(computed, backward * first + (1 - backward) * second)


class ShakeDrop(nn.Module):
    """In training, multiplies an example's residual by 1 or, with probability `probability`, by a random number.

    That is α in [-1, 1] in the forward pass and β in [0, 1] in the backward pass; in evaluation the expectation,
    1 - probability (paper, equation 6, with one coefficient for each example).

    Attributes:
        true_gradient: β is α.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.true_gradient = False

    def forward(self, residual: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        if not self.training:
            return (1 - self.probability) * residual
        disturbed = _uniform(residual) < self.probability
        alpha, beta = 2 * _uniform(residual) - 1, _uniform(residual)
        computed = torch.where(disturbed, alpha, 1) * residual
        if self.true_gradient:
            return computed
        return _replace_gradient(computed, torch.where(disturbed, beta, 1) * residual)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"


def _uniform(like: Tensor) -> Tensor:
    """One number in [0, 1) for each example, [N, 1, 1, 1]; drawn in float32 whatever the precision."""
    return torch.rand(len(like), 1, 1, 1, device=like.device).to(like.dtype)


def _replace_gradient(value: Tensor, source_of_gradient: Tensor) -> Tensor:
    """`value` (up to rounding) with the gradient of `source_of_gradient`; differentiable twice."""
    return source_of_gradient + (value - source_of_gradient).detach()
