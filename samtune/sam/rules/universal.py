"""The universal (φ, ψ, μ) class of sharpness measures (Tahmasebi et al., ICML 2024) and its built-in members.

Objective `L(w) + λ·rho²·φ(mean_i ψ(t_i))`, `t_i = (L(w + rho·x_i) - L(w)) / rho²`, x_i ~ μ for i = 1..n. With
ψ̄ = mean_i ψ(t_i) the gradient is `∇L(w) + λ·Σ_j ∂_jφ(ψ̄)·mean_i ψ_j'(t_i)·(∇L(w + rho·x_i) - ∇L(w))`.

With several measures μ_1, ..., μ_k (definition 1, eqs 3 to 6), output j of ψ has directions of its own: ψ̄_j is the mean
of ψ_j(t_ij) with x_ij ~ μ_j.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from samtune.sam import parts, vectors
from samtune.sam.rules.base import Rule

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup

Sampler = Callable[[Sequence[Tensor], Sequence[Tensor], torch.Generator], list[Tensor]]
"""(parameters, gradient ∇L_S(w), generator) -> one direction x, a new tensor per parameter."""
Function = Callable[[Tensor], Tensor]


def gaussian(parameters: Sequence[Tensor], gradient: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """x ~ N(0, I)."""
    return vectors.normal_like(parameters, generator)


def sphere(parameters: Sequence[Tensor], gradient: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """x uniform on the sphere of radius √d, so that E[xxᵀ] = I."""
    return vectors.random_direction(parameters, parts.num_entries(parameters) ** 0.5, generator)


def along_gradient(
    parameters: Sequence[Tensor], gradient: Sequence[Tensor], generator: torch.Generator
) -> list[Tensor]:
    """x = g/‖g‖₂: with φ = ψ = identity and λ = 1 the method is SAM."""
    return vectors.scaled(gradient, vectors.safe_ratio(1.0, vectors.norm(gradient)))


def cube(half_width: float) -> Sampler:
    """x uniform in [-a, a]^d, which represents the Lebesgue measure (section 9)."""

    def draw(parameters: Sequence[Tensor], gradient: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        return parts.drawn_like(
            parameters, lambda tensor: tensor.uniform_(-half_width, half_width, generator=generator)
        )

    return draw


def identity(value: Tensor) -> Tensor:
    """φ or ψ for one output: [1] -> scalar, scalar -> scalar."""
    return value.sum()


SAMPLERS: dict[str, Sampler] = {
    "gaussian": gaussian,
    "sphere": sphere,
    "gradient": along_gradient,
    "cube": cube(0.01),  # the published half width
}


class UniversalRule(Rule):
    """n + 1 forwards and backwards per m-group, at w and at each w + rho·x_i; k·n + 1 with k measures.

    Args:
        lam: λ, weight of the regulariser.
        num_directions: n, of each measure.
        phi: φ, [k] -> scalar: a function, its import path (`package.module:function`), or `identity`.
        psi: ψ, scalar -> scalar or [k], likewise.
        directions: μ: a `Sampler`, its import path, or `gaussian`, `sphere`, `gradient` or `cube`. Several are
            μ_1, ..., μ_k, one for each output of ψ.

    Raises:
        ValueError: an import path leads nowhere.
    """

    name = "universal"
    has_ascent_gradient = True

    def __init__(
        self,
        parameters: Sequence[Tensor],
        seed: int,
        *,
        lam: float = 0.1,
        num_directions: int = 1,
        phi: Function | str = "identity",
        psi: Function | str = "identity",
        directions: Sampler | str | Sequence[Sampler | str] = "gaussian",
    ) -> None:
        super().__init__(parameters, seed)
        self.lam, self.num_directions = lam, num_directions
        self._phi: Function = _find(phi, {"identity": identity})
        self._psi: Function = _find(psi, {"identity": identity})
        measures = [directions] if isinstance(directions, str) or callable(directions) else directions
        self.samplers: list[Sampler] = [_find(measure, SAMPLERS) for measure in measures]

    def check_shards(self) -> None:
        if any(not sampler.__module__.startswith("samtune.") for sampler in self.samplers):
            raise ValueError("directions of your own take no sharded parameters (DTensor): they would draw for a part")

    def phi(self, mean: Tensor) -> Tensor:
        """φ: [k] -> scalar."""
        return self._phi(mean)

    def psi(self, t: Tensor) -> Tensor:
        """ψ: scalar -> scalar or [k]."""
        value = self._psi(t)
        return value.expand(len(self.samplers)) if value.ndim == 0 else value

    def __call__(self, group: MGroup) -> None:
        gradient = group.gradient()
        group.gradient_norm = vectors.norm(gradient)
        base = group.mean_over_workers(group.losses[0])
        generator = group.generator("directions")
        count, num_measures = self.num_directions, len(self.samplers)
        sums = _DirectionSums(self, base, group.rho, count)
        outputs = [None] if num_measures == 1 else list(range(num_measures))
        draws = list(zip(outputs, self.samplers, strict=True)) * count
        chosen, slope_at_w = self.chosen(self.parameters), self.chosen(gradient)
        for index, (output, sampler) in enumerate(draws):
            direction = self.filled(sampler(chosen, slope_at_w, generator))
            vectors.scale_(direction, group.rho)
            group.perturb(direction)
            if index < len(draws) - 1:
                perturbed = group.gradient(shared=False)  # enters linearly: the final all-reduce averages it
                sums.add(group.mean_over_workers(group.losses[-1]), output, perturbed)

        def finish(loss: Tensor) -> Tensor:
            """All losses are known now, and only one gradient is left to compute: the rest goes first."""
            slope = sums.add(group.mean_over_workers(loss), draws[-1][0])
            weights = self.lam / count * sums.outer_slope()
            group.contribute(gradient, 1.0 - (weights * sums.slopes).sum())
            for weight, weighted in zip(weights, sums.gradients, strict=False):
                group.contribute(weighted, weight)
            return (weights * slope).sum()

        group.descend(finish)

    def sharpness(self, losses: Sequence[Tensor]) -> Tensor | None:
        """The mean rise over the directions."""
        return torch.stack(list(losses[1:])).mean(dim=0) - losses[0] if len(losses) > 1 else None


class _DirectionSums:
    """Sums over the directions x_i, one per output j of ψ: ψ_j(t_i), ψ_j'(t_i), and ψ_j'(t_i)·∇L(w + rho·x_i)."""

    def __init__(self, rule: UniversalRule, base_loss: Tensor, rho: float, num_directions: int) -> None:
        self._rule, self._base_loss, self._rho, self._num_directions = rule, base_loss, rho, num_directions
        self._values: list[Tensor] = []
        self.slopes: Tensor | float = 0.0
        self.gradients: list[list[Tensor]] = []

    def add(self, loss: Tensor, output: int | None, gradient: list[Tensor] | None = None) -> Tensor:
        """Adds a direction; returns ψ'(t), [k].

        Args:
            output: the one output of ψ that the direction is for (the others are 0); None: all.
        """
        value, jacobian = _value_and_jacobian(self._rule.psi, (loss - self._base_loss) / self._rho**2)
        slope = jacobian.reshape(-1)
        if output is not None:
            only = torch.zeros_like(value)
            only[output] = 1.0
            value, slope = value * only, slope * only
        self._values.append(value)
        self.slopes = self.slopes + slope
        if gradient is not None:
            weighted = [vectors.scaled(gradient, weight) for weight in slope]
            if self.gradients:
                for total, part in zip(self.gradients, weighted, strict=True):
                    vectors.add_(total, part)
            else:
                self.gradients = weighted
        return slope

    def outer_slope(self) -> Tensor:
        """∂_jφ(ψ̄), [k]."""
        mean = torch.stack(self._values).sum(dim=0) / self._num_directions
        return _value_and_jacobian(self._rule.phi, mean)[1].reshape(-1)


class TraceRule(UniversalRule):
    """φ = ψ = identity: E[t] -> ½ tr H.

    The text's unit sphere (eqs 13 to 15) would give tr H / (2d). The published rho and λ belong to Gaussian directions:
    the authors' code computes the sphere's scale and does not apply it.
    """

    name = "trace_sam"


class FrobRule(UniversalRule):
    """ψ(t) = (t, t²), φ(s) = ½·n/(n - 1)·(s₂ - s₁²), half the unbiased variance of t: E -> ¼ ‖H‖_F².

    So it is the squared norm that is penalized. The ½ makes λ that of the authors' code. The gradient is
    `∇L + (λ/rho²)·Cov_n(L(w + rho·x), ∇L(w + rho·x))` with the unbiased covariance (algorithm 2).
    """

    name = "frob_sam"

    def phi(self, mean: Tensor) -> Tensor:
        n = self.num_directions
        return 0.5 * n / (n - 1) * (mean[1] - mean[0] ** 2)

    def psi(self, t: Tensor) -> Tensor:
        return torch.stack([t, t * t])


class DetRule(UniversalRule):
    """ψ(t) = e^(-t/2), φ(s) = s⁻², x uniform in the cube [-a, a]^d.

    Over all of R^d the integral of ψ is proportional to det(H)^(-½), so that φ gives det H (eqs 16 and 17). The cube
    must be wide for that, a >> 1/√λ. At the published a = 0.01 it is not: while λ_i·a² << 1 the measure is
    exp((a²/6)·tr H), a function of the trace. With n = 1 direction φ(ψ(t)) is e^t, whose mean is not the mean of ψ to
    the power -2. Both are as in the paper and its code.

    Args:
        half_width: a.
    """

    name = "det_sam"

    def __init__(
        self,
        parameters: Sequence[Tensor],
        seed: int,
        *,
        lam: float = 0.1,
        num_directions: int = 1,
        half_width: float = 0.01,
    ) -> None:
        super().__init__(parameters, seed, lam=lam, num_directions=num_directions, directions=cube(half_width))

    def phi(self, mean: Tensor) -> Tensor:
        return mean.sum() ** -2

    def psi(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * t)


def _find(function: Any, builtin: dict[str, Any]) -> Any:
    """The function itself, a built-in one by its name, or one by its import path.

    Raises:
        ValueError: it cannot be imported.
    """
    if not isinstance(function, str):
        return function
    if function in builtin:
        return builtin[function]
    try:
        return resolve_name(function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"must be {', '.join(builtin)} or an importable package.module:function (got {function!r})"
        ) from error


def _value_and_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) as [k] and df/dx as [k, *x.shape]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x).reshape(-1)
        rows = [torch.autograd.grad(v, x, retain_graph=True, materialize_grads=True)[0] for v in value]
    return value.detach(), torch.stack(rows)
