"""Later variants of SAM: USAM, GSAM's and WSAM's mixtures, LookSAM's reuse, Momentum-SAM, random perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from samtune.sam import vectors
from samtune.sam.conditional_step import select_
from samtune.sam.rules.base import Rule
from samtune.sam.rules.sam import SAMRule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup
    from samtune.sam.train_step import TrainStep


class USAMRule(SAMRule):
    """Unnormalized SAM (Andriushchenko & Flammarion, ICML 2022): ε̂ = rho·g, not divided by ‖g‖₂."""

    name = "usam"

    def direction_(self, gradient: list[Tensor], rho: float) -> tuple[Tensor, Tensor | float]:
        return vectors.norm(gradient), rho


class WSAMRule(SAMRule):
    """WSAM (Yue et al., KDD 2023): with α = γ/(1 - γ) and g_p = ∇L(w + ε̂), the share is (1 - α)·g + α·g_p.

    The objective is L + α·(max L(w + ε) - L). The base optimizer takes the step in the sum, as with `decouple=False`
    in the authors' code (dlrover's atorch); their default adds -lr·α·(g_p - g) after a step in g, which for SGD without
    momentum is the same.

    Args:
        gamma: γ in [0, 1); 0 is the base optimizer, ½ SAM.
    """

    name = "wsam"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, gamma: float = 0.9) -> None:
        super().__init__(parameters, seed)
        self.alpha = gamma / (1.0 - gamma)

    def __call__(self, group: MGroup) -> None:
        gradient = self.perturb_keeping_gradient(group)
        group.contribute(gradient, 1.0 - self.alpha)
        group.descend(self.alpha)


class RWPRule(Rule):
    """Random weight perturbation: the gradient of E[L(w + rho·z)], z ~ N(0, I), from one z per m-group.

    The share is λ·∇L(w + rho·z) + (1 - λ)·∇L(w): m-RWP (Li et al., TMLR 2024, arXiv 2404.00357), here with the same
    examples in both terms, so that the mean over z is the gradient of λ·E[L(w + rho·z)] + (1 - λ)·L(w). λ = 1 smooths
    alone (RWP), at one pass. Noise in proportion to the norm of each filter (LPF-SGD, Bisla et al., AISTATS 2022) is
    not part of it.

    Args:
        mix: λ.
    """

    name = "rwp"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, mix: float = 1.0) -> None:
        super().__init__(parameters, seed)
        self.mix = mix
        self.has_ascent_gradient = mix < 1

    def __call__(self, group: MGroup) -> None:
        if self.mix < 1:
            gradient = group.gradient()
            group.gradient_norm = vectors.norm(gradient)
            group.contribute(gradient, 1.0 - self.mix)
        noise = self.filled(vectors.normal_like(self.chosen(self.parameters), group.generator("rwp")))
        vectors.scale_(noise, group.rho)
        group.perturb(noise)
        group.descend(self.mix)


class GSAMRule(SAMRule):
    """Zhuang et al., ICLR 2022: with g_p = ∇L(w + ε̂), the share is g_p - α·g⊥, g⊥ = g - (gᵀg_p/‖g_p‖²)·g_p.

    Decomposed per m-group, as in the authors' code (there: per worker, before the gradients are averaged).

    Args:
        alpha: α; 0 is SAM.
    """

    name = "gsam"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, alpha: float = 0.4) -> None:
        super().__init__(parameters, seed)
        self.alpha = alpha
        self.ends_in_backward = False

    def __call__(self, group: MGroup) -> None:
        gradient = self.perturb_keeping_gradient(group)
        perturbed = group.gradient()
        along = vectors.safe_ratio(vectors.dot(gradient, perturbed), vectors.norm(perturbed) ** 2)
        group.contribute(perturbed, 1.0 + self.alpha * along)
        group.contribute(gradient, -self.alpha)


class LookSAMRule(SAMRule):
    """Liu et al., CVPR 2022: every k-th step is SAM's; its part g_v orthogonal to the gradient is reused in between.

    SAM step: g_v = g_s - (g_sᵀĝ)ĝ with g and g_s averaged over the whole batch, so that g_v is one vector for all
    workers; this costs a second all-reduce on that step. Other steps: g + α·(‖g‖/‖g_v‖)·g_v.

    g_v is scaled to α·‖g‖ however short it was, and keeps its direction for k - 1 steps: where it is a tenth of g, as
    on small networks, α = 0.7 makes it seven times longer, and a learning rate that suits SGD may be too large.

    Args:
        k: steps from one SAM step to the next; 1 is SAM.
        alpha: α.
    """

    name = "looksam"
    state_vectors = ("reused",)

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, k: int = 5, alpha: float = 0.7) -> None:
        super().__init__(parameters, seed)
        self.k, self.alpha = k, alpha
        self._ascent: list[Tensor] = []  # sum of this worker's ascent gradients in this step
        self._reused = [torch.zeros_like(parameter) for parameter in self.parameters]

    def __call__(self, group: MGroup) -> None:
        if group.num_method_steps % self.k:
            group.descend()
            return
        gradient = group.gradient()
        share = [tensor / group.num_forwards for tensor in gradient]
        if self._ascent:
            vectors.add_(self._ascent, share)
        else:
            self._ascent = share
        perturbation = self.limit(gradient)
        group.gradient_norm = vectors.dual_norm_(perturbation, group.rho)
        group.perturb(perturbation)
        group.descend()

    def finish(self, step: TrainStep, gradients: Sequence[Tensor | None]) -> None:
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters, strict=True)]
        if step.num_method_steps % self.k:
            scale = self.alpha * vectors.safe_ratio(vectors.norm(filled), vectors.norm(self._reused))
            vectors.add_(filled, vectors.scaled(self._reused, scale))
            return
        unit, self._ascent = self._ascent, []
        step.average_(unit)
        vectors.scale_(unit, vectors.safe_ratio(1.0, vectors.norm(unit)))
        vectors.scale_(unit, vectors.dot(filled, unit))
        orthogonal = vectors.difference(filled, unit)
        # A step that is going to be skipped must leave nothing behind.
        select_(torch.isfinite(vectors.norm(orthogonal)), orthogonal, self._reused)
        self._reused = orthogonal

    def state_dict(self) -> dict[str, Any]:
        return {"reused": [tensor.clone() for tensor in self._reused]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vectors.copy_(self._reused, state["reused"])


class MomentumSAMRule(Rule):
    """Becker et al., 2024: ε̂ = -rho·v/‖v‖₂, v the base optimizer's momentum buffer (for AdamW its first moment).

    v sums past gradients, so that ε̂ points where the next update goes, as in Nesterov's method but by a fixed length:
    the authors' choice (their code subtracts the buffer), though +v is the ascent to first order. ε̂ is the same on all
    workers. The first step, without a v, is at w.

    Weight decay is the base optimizer's and decays w. Torch's SGD adds it to the gradient, so that it is part of v and
    with it of ε̂, as in the authors' code; AdamW keeps it out of both. The authors' optimizer decays the perturbed
    weights instead, in which it holds the parameters between steps: the decay differs by weight_decay·lr·ε̂ per step.
    """

    name = "momentum_sam"

    def check(self, optimizer: Optimizer) -> None:
        if not all(group.get("momentum", 0) or "betas" in group for group in optimizer.param_groups):
            raise ValueError("momentum_sam needs a base optimizer with momentum (momentum is 0)")

    def __call__(self, group: MGroup) -> None:
        perturbation = self.limit(group.momentum())
        vectors.scale_(perturbation, vectors.safe_ratio(-group.rho, vectors.norm(perturbation)))
        group.perturb(perturbation)
        group.descend()
