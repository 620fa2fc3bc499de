"""Variants whose ascent looks at past gradients: F-SAM takes their mean off the present one, VaSSO follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.rules.sam import SAMRule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup
    from samtune.sam.train_step import TrainStep


class AveragedAscentRule(SAMRule):
    """SAM (p = 2) along a direction made of ∇L_S(w) and the exponential mean of the ascent gradients before.

    The mean is of the whole batch's gradient, one vector for all m-groups and workers: this costs a second all-reduce
    per step on several workers. The first gradient is its first value.
    """

    state_vectors = ("mean",)
    share_of_new: float
    """Weight of a step's gradient in the mean."""

    def __init__(self, parameters: Sequence[Tensor], seed: int) -> None:
        super().__init__(parameters, seed)
        self._mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._started = torch.zeros((), dtype=torch.bool, device=self.parameters[0].device if parameters else None)
        self._sum: list[Tensor] = []  # of this worker's ascent gradients in this step, over their number

    def direction(self, gradient: Sequence[Tensor], mean: Sequence[Tensor]) -> list[Tensor]:
        """Where the ascent goes, at any length; `mean` is 0 in the first step."""
        raise NotImplementedError

    def __call__(self, group: MGroup) -> None:
        gradient = group.gradient()
        group.gradient_norm = vectors.norm(gradient)
        perturbation = self.limit(self.direction(gradient, self._mean))
        share = vectors.scaled(gradient, 1.0 / group.num_forwards)
        self._sum = vectors.total(self._sum, share) if self._sum else share
        vectors.dual_norm_(perturbation, group.rho)
        group.perturb(perturbation)
        group.descend()

    def finish(self, step: TrainStep, gradients: Sequence[Tensor | None]) -> None:
        new, self._sum = self._sum, []
        step.average_(new)
        # A step that is going to be skipped must leave nothing behind.
        descent = vectors.norm([gradient for gradient in gradients if gradient is not None])
        finite = torch.isfinite(vectors.norm(new)) & torch.isfinite(descent).to(self._started.device)
        change = vectors.scaled(vectors.difference(new, self._mean), self.share_of_new)
        mean = vectors.where(self._started, vectors.total(self._mean, change), new)
        self._mean = vectors.where(finite, mean, self._mean)
        self._started = self._started | finite

    def state_dict(self) -> dict[str, Any]:
        return {"mean": [tensor.clone() for tensor in self._mean], "started": self._started.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vectors.copy_(self._mean, state["mean"])
        self._started = state["started"].to(self._started.device)


class FSAMRule(AveragedAscentRule):
    """F-SAM, Friendly SAM (Li et al., CVPR 2024): ε̂ = rho·d/‖d‖, d = g - σ·m_(t-1), m_t = λ·m_(t-1) + (1 - λ)·g_t.

    m estimates the full gradient, which the ascent leaves out. m before this step's gradient enters it, and d = g in
    the first step, as in the authors' code (github.com/nblt/F-SAM).

    Args:
        sigma: σ; 0 is SAM.
        decay: λ.
    """

    name = "fsam"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, sigma: float = 1.0, decay: float = 0.9) -> None:
        super().__init__(parameters, seed)
        self.sigma, self.share_of_new = sigma, 1.0 - decay

    def direction(self, gradient: Sequence[Tensor], mean: Sequence[Tensor]) -> list[Tensor]:
        return vectors.difference(gradient, vectors.scaled(mean, self.sigma))


class VaSSORule(AveragedAscentRule):
    """VaSSO (Li and Giannakis, NeurIPS 2023): ε̂ = rho·d_t/‖d_t‖, d_t = (1 - θ)·d_(t-1) + θ·g_t, d_0 = g_0.

    Args:
        theta: θ; 1 is SAM.
    """

    name = "vasso"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, theta: float = 0.4) -> None:
        super().__init__(parameters, seed)
        self.share_of_new = theta

    def direction(self, gradient: Sequence[Tensor], mean: Sequence[Tensor]) -> list[Tensor]:
        old = vectors.scaled(mean, 1.0 - self.share_of_new)
        return vectors.total(old, vectors.scaled(gradient, self.share_of_new))
