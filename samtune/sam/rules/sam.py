"""Sharpness-Aware Minimization (Foret et al., ICLR 2021) with the ablations of the paper's appendix C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.rules.base import Rule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup


class SAMRule(Rule):
    """g = ∇L_S(w), ε̂ = dual_norm(g, rho, p), share ∇L_S(w + ε̂)."""

    config: Any

    def __init__(self, config: Any, parameters: Sequence[Tensor], seed: int) -> None:
        super().__init__(config, parameters, seed)
        self.ends_in_backward = not getattr(config, "second_order", False)
        self.has_ascent_gradient = getattr(config, "ascent", "gradient") == "gradient"

    def __call__(self, group: MGroup) -> None:
        if self.config.ascent == "random":
            group.perturb(vectors.random_direction(self.parameters, group.rho, group.generator("ascent")))
            group.descend()
        elif self.config.second_order:
            self._second_order(group)
        else:
            self._ascend(group)
            group.descend()

    def perturbation_(self, gradient: list[Tensor], rho: float) -> Tensor:
        """Overwrites g with ε̂ and returns ‖g‖₂."""
        return vectors.dual_norm_(gradient, rho, self.config.p)

    def _ascend(self, group: MGroup) -> None:
        """Projected gradient ascent (C.6): ε ← Π_{‖·‖_p <= rho}(ε + α·d), d the unit ascent direction at w + ε."""
        step_size = group.rho if self.config.step_size is None else self.config.step_size
        perturbation = group.gradient()
        group.gradient_norm = self.perturbation_(perturbation, min(step_size, group.rho))
        group.perturb(perturbation)
        for _ in range(self.config.ascent_steps - 1):
            direction = group.gradient()
            self.perturbation_(direction, step_size)
            vectors.add_(perturbation, direction)
            vectors.project_(perturbation, group.rho, self.config.p)
            group.perturb(perturbation)

    def _second_order(self, group: MGroup) -> None:
        """The whole gradient of L(w + ε̂(w)) for p = 2 (C.4).

        dε̂/dw = (rho/‖g‖)(I - ĝĝᵀ)H with ĝ = g/‖g‖ and H symmetric, so its transpose times g_adv is H·v with
        v = (rho/‖g‖)(g_adv - ĝ(ĝᵀg_adv)).
        """
        unit = group.gradient()
        length = group.gradient_norm = vectors.norm(unit)
        vectors.scale_(unit, vectors.safe_ratio(1.0, length))
        group.perturb(list(torch._foreach_mul(unit, group.rho)))
        adversarial = group.gradient()
        along = vectors.dot(unit, adversarial)
        vectors.scale_(unit, along)
        vector = torch._foreach_sub(adversarial, unit)
        vectors.scale_(vector, vectors.safe_ratio(group.rho, length))
        group.restore()
        curvature = group.hessian_vector_product(list(vector))
        full = list(torch._foreach_add(adversarial, curvature))
        group.observe("second_order_cosine", vectors.cosine(adversarial, full))
        group.contribute(adversarial if self.config.second_order == "observe" else full)

    def sharpness(self, losses: Sequence[Tensor]) -> Tensor | None:
        """L(w + ε̂) - L(w) at the end of the ascent, which stands for the maximum over the ball."""
        return losses[-1] - losses[0] if len(losses) > 1 else None


class ASAMRule(SAMRule):
    """Adaptive SAM (Kwon et al., ICML 2021): with T = |w| + η elementwise, ‖ε̂/T‖_p = rho.

    p = 2: `ε̂ = rho·T²g/‖Tg‖₂`; p = infinity: `ε̂ = rho·T·sign(g)`. All parameters are scaled, biases too; SamsungLabs'
    code has T = 1 for those without "weight" in their name.
    """

    def __call__(self, group: MGroup) -> None:
        gradient = group.gradient()
        length = group.gradient_norm = vectors.norm(gradient)
        with torch.no_grad():
            perturbation = adaptive_perturbation(
                self.parameters, gradient, length, group.rho, p=self.config.p, eta=self.config.eta
            )
        group.perturb(perturbation)
        group.descend()


def adaptive_perturbation(
    parameters: Sequence[Tensor], gradient: Sequence[Tensor], length: Tensor, rho: float, *, p: float, eta: float
) -> list[Tensor]:
    """ASAM's ε̂. `length` is ‖g‖₂; it makes ε̂ NaN where it is not finite."""
    scale = torch._foreach_abs(list(parameters))
    torch._foreach_add_(scale, eta)
    if p == 2:
        perturbation = list(torch._foreach_mul(scale, list(gradient)))
        vectors.scale_(perturbation, vectors.safe_ratio(rho, vectors.norm(perturbation)))
    else:
        perturbation = list(torch._foreach_sign(list(gradient)))
        vectors.scale_(perturbation, rho * vectors.safe_ratio(length, length))
    torch._foreach_mul_(perturbation, scale)
    return perturbation
