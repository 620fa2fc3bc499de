"""Sharpness-Aware Minimization (Foret et al., ICLR 2021) with the ablations of the paper's appendix C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.rules.base import Rule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup


class SAMRule(Rule):
    """g = ∇L_S(w), ε̂ = dual_norm(g, rho, p), share ∇L_S(w + ε̂).

    Args:
        p: the norm that bounds ε̂, from 1 to infinity.
        ascent: `random` draws ε̂ uniformly from the sphere instead (appendix C.5; p = 2, one step).
        ascent_steps: of projected gradient ascent (C.6).
        step_size: of the ascent; None: rho.
        second_order: adds the gradient through ε̂ (C.4; p = 2, one step); `observe` computes it for the metric
            second_order_cosine alone.
    """

    name = "sam"

    def __init__(
        self,
        parameters: Sequence[Tensor],
        seed: int,
        *,
        p: float = 2.0,
        ascent: Literal["gradient", "random"] = "gradient",
        ascent_steps: int = 1,
        step_size: float | None = None,
        second_order: bool | Literal["observe"] = False,
    ) -> None:
        super().__init__(parameters, seed)
        self.p, self.ascent, self.ascent_steps = p, ascent, ascent_steps
        self.step_size, self.second_order = step_size, second_order
        self.ends_in_backward = not second_order
        self.has_ascent_gradient = ascent == "gradient"

    def check_shards(self) -> None:
        if self.p == 1:
            raise ValueError("p must be above 1 for sharded parameters (got 1)")
        if self.second_order:
            raise ValueError("second_order takes no sharded parameters (DTensor): fully_shard has no second derivative")

    def __call__(self, group: MGroup) -> None:
        if self.ascent == "random":
            chosen = self.chosen(self.parameters)
            group.perturb(self.filled(vectors.random_direction(chosen, group.rho, group.generator("ascent"))))
            group.descend()
        elif self.second_order:
            self._second_order(group)
        else:
            self._ascend(group)
            group.descend()

    def direction_(self, gradient: list[Tensor], rho: float) -> tuple[Tensor, Tensor | float]:
        """Overwrites g with a vector, and returns ‖g‖₂ and the number that makes it ε̂."""
        return vectors.dual_direction_(gradient, rho, self.p)

    def perturb_keeping_gradient(self, group: MGroup) -> list[Tensor]:
        """Moves the weights to w + rho·g/‖g‖₂ and returns the whole g, for methods whose share is made of it too."""
        gradient = group.gradient()
        ascent = self.limit(gradient)
        group.gradient_norm = vectors.norm(ascent)
        group.perturb(vectors.scaled(ascent, vectors.safe_ratio(group.rho, group.gradient_norm)))
        return gradient

    def _ascend(self, group: MGroup) -> None:
        """Projected gradient ascent (C.6): ε ← Π_{‖·‖_p <= rho}(ε + α·d), d the unit ascent direction at w + ε."""
        step_size = group.rho if self.step_size is None else self.step_size
        perturbation = self.limit(group.gradient())
        group.gradient_norm, scale = self.direction_(perturbation, min(step_size, group.rho))
        if self.ascent_steps == 1:
            group.perturb(perturbation, scale)
            return
        vectors.scale_(perturbation, scale)
        group.perturb(perturbation)
        for _ in range(self.ascent_steps - 1):
            direction = self.limit(group.gradient())
            _, scale = self.direction_(direction, step_size)
            vectors.add_(perturbation, direction, scale)
            vectors.project_(perturbation, group.rho, self.p)
            group.perturb(perturbation)

    def _second_order(self, group: MGroup) -> None:
        """The whole gradient of L(w + ε̂(w)) for p = 2 (C.4).

        dε̂/dw = (rho/‖g‖)(I - ĝĝᵀ)H with ĝ = g/‖g‖ and H symmetric, so its transpose times g_adv is H·v with
        v = (rho/‖g‖)(g_adv - ĝ(ĝᵀg_adv)). Where only some parameters are perturbed, g in ε̂ and v are 0 for the others.
        """
        unit = self.limit(group.gradient())
        length = group.gradient_norm = vectors.norm(unit)
        vectors.scale_(unit, vectors.safe_ratio(1.0, length))
        group.perturb(vectors.scaled(unit, group.rho))
        adversarial = group.gradient()
        along = vectors.dot(unit, adversarial)
        vectors.scale_(unit, along)
        vector = self.limit(vectors.difference(adversarial, unit))
        vectors.scale_(vector, vectors.safe_ratio(group.rho, length))
        group.restore()
        curvature = group.hessian_vector_product(vector)
        full = vectors.total(adversarial, curvature)
        group.observe("second_order_cosine", vectors.cosine(adversarial, full))
        group.contribute(adversarial if self.second_order == "observe" else full)

    def sharpness(self, losses: Sequence[Tensor]) -> Tensor | None:
        """L(w + ε̂) - L(w) at the end of the ascent, an estimate of the maximum over the ball."""
        return losses[-1] - losses[0] if len(losses) > 1 else None


class ASAMRule(SAMRule):
    """Adaptive SAM (Kwon et al., ICML 2021): with T = |w| + η elementwise, ‖ε̂/T‖_p = rho.

    p = 2: `ε̂ = rho·T²g/‖Tg‖₂`; p = infinity: `ε̂ = rho·T·sign(g)`.

    Args:
        p: 2 or infinity.
        eta: η.
        adaptive_biases: False is the rule of the authors' code, T = 1 but for parameters with `weight` in their name.
            The paper's equation 3 has T = |w| of all weights, which is the default here.
    """

    name = "asam"

    def __init__(
        self,
        parameters: Sequence[Tensor],
        seed: int,
        *,
        p: float = 2.0,
        eta: float = 0.01,
        adaptive_biases: bool = True,
    ) -> None:
        super().__init__(parameters, seed, p=p)
        self.eta, self.adaptive_biases = eta, adaptive_biases

    def __call__(self, group: MGroup) -> None:
        gradient = self.limit(group.gradient())
        length = group.gradient_norm = vectors.norm(gradient)
        adapts = None if self.adaptive_biases else ["weight" in name for name in self.names]
        with torch.no_grad():
            perturbation = adaptive_perturbation(
                self.parameters, gradient, length, group.rho, p=self.p, eta=self.eta, adapts=adapts
            )
        group.perturb(perturbation)
        group.descend()


class FisherSAMRule(SAMRule):
    """Fisher SAM (Kim et al., ICML 2022): ε̂ = rho·F⁻¹g/√(gᵀF⁻¹g), the steepest ascent with √(εᵀFε) = rho.

    F is diagonal, and F⁻¹ = 1/(1 + η·g²) elementwise: the square of the batch's gradient stands for the diagonal of the
    Fisher information, damped by 1. η = 0 is SAM. The formula is that of arXiv 2206.04920. No code of the authors was
    found; the one PyTorch implementation of others that was read has the same F and the same ε̂.

    Args:
        eta: η.
    """

    name = "fisher_sam"

    def __init__(self, parameters: Sequence[Tensor], seed: int, *, eta: float = 1.0) -> None:
        super().__init__(parameters, seed)
        self.eta = eta

    def direction_(self, gradient: list[Tensor], rho: float) -> tuple[Tensor, Tensor | float]:
        length = vectors.norm(gradient)
        roots = [torch.ones_like(tensor) for tensor in gradient]  # F^(-1/2)
        vectors.add_squares_(roots, gradient, self.eta)
        roots = [root.rsqrt_() for root in roots]
        vectors.multiply_(gradient, roots)
        scale = vectors.safe_ratio(rho, vectors.norm(gradient))
        vectors.multiply_(gradient, roots)
        return length, scale


def adaptive_perturbation(
    parameters: Sequence[Tensor],
    gradient: Sequence[Tensor],
    length: Tensor,
    rho: float,
    *,
    p: float,
    eta: float,
    adapts: Sequence[bool] | None = None,
) -> list[Tensor]:
    """ASAM's ε̂. `length` is ‖g‖₂; it makes ε̂ NaN where it is not finite.

    Args:
        adapts: for each tensor whether T = |w| + eta, else T = 1; None: all do.
    """
    scale = vectors.absolute(parameters, plus=eta)
    for tensor, adapted in zip(scale, adapts or (), strict=False):
        if not adapted:
            tensor.fill_(1.0)
    if p == 2:
        perturbation = [tensor.clone() for tensor in gradient]
        vectors.multiply_(perturbation, scale)
        vectors.scale_(perturbation, vectors.safe_ratio(rho, vectors.norm(perturbation)))
    else:
        perturbation = vectors.sign(gradient)
        vectors.scale_(perturbation, rho * vectors.safe_ratio(length, length))
    vectors.multiply_(perturbation, scale)
    return perturbation
