"""The PAC-Bayes bound behind SAM (Foret et al. 2021, appendix A.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from samtune.errors import UsageError
from samtune.sharpness.loss import Batches, LossFn, MeanLoss
from samtune.sharpness.neighbourhood import ascend


@dataclass(frozen=True, slots=True)
class Bound:
    """The right-hand side of theorem 2, in parts."""

    value: float
    """What the expected loss stays below with probability 1 - delta, if the assumptions hold."""
    largest_loss: float
    """max over ‖ε‖₂ <= rho of L_S(w + ε)."""
    complexity: float
    """The term under the root of eq. 13, times the loss bound."""
    outside: float
    """1/√n times the loss bound: the chance that the Gaussian of eq. 13 leaves the ball."""
    loss_bound: float
    passes: float
    assumptions: tuple[str, ...]

    @property
    def is_vacuous(self) -> bool:
        """Whether it says no more than that the loss is bounded."""
        return self.complexity + self.outside >= self.loss_bound


def complexity(*, squared_norm: float, num_weights: int, num_examples: int, sigma: float, delta: float) -> float:
    """The root of eq. 13: `√[(¼k·ln(1 + ‖w‖²/(kσ²)) + ¼ + ln(n/δ) + 2·ln(6n + 3k)) / (n - 1)]`.

    Args:
        squared_norm: ‖w‖₂².
        num_weights, num_examples: k and n.
        sigma: standard deviation of the Gaussian perturbation.
        delta: the chance that the bound fails.
    """
    k, n = num_weights, num_examples
    divergence = 0.25 * k * math.log1p(squared_norm / (k * sigma**2))
    return math.sqrt((divergence + 0.25 + math.log(n / delta) + 2 * math.log(6 * n + 3 * k)) / (n - 1))


def pac_bayes_bound(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    rho: float = 0.05,
    delta: float = 0.05,
    loss_bound: float = 1.0,
    steps: int = 5,
    group: dist.ProcessGroup | None = None,
) -> Bound:
    """Theorem 2: `L_D(w) <= (1 - 1/√n)·max_{‖ε‖₂<=rho} L_S(w + ε) + 1/√n + √(...)`, the root being that of eq. 13.

    Its σ is rho/(√k + √ln n), so that the Gaussian stays in the ball with probability 1 - 1/√n. The paper hides
    constants in Õ(1); these are the ones of its proof.

    Args:
        batches: the n training examples.
        rho: radius of the ball.
        delta: the chance that the bound fails.
        loss_bound: M, if the loss lies in [0, M]; the bound is M times that of the loss / M.
        steps: of the ascent for the maximum.

    Raises:
        UsageError: fewer than two examples, or rho, delta or loss_bound out of range.
    """
    if rho <= 0 or not 0 < delta < 1 or loss_bound <= 0:
        raise UsageError(
            f"rho and loss_bound must be > 0, delta in (0, 1) (rho is {rho}, loss_bound {loss_bound}, delta {delta})"
        )
    mean_loss = MeanLoss(model, loss_fn, batches, group=group)
    n, k = mean_loss.num_examples, mean_loss.num_weights
    if n < 2:
        raise UsageError(f"batches must hold at least two examples (got {n})")
    with mean_loss.fixed():
        _, largest = ascend(mean_loss, rho=rho, steps=steps)
    squared_norm = sum(float(parameter.detach().double().square().sum()) for parameter in mean_loss.parameters)
    sigma = rho / (math.sqrt(k) + math.sqrt(math.log(n)))
    root = loss_bound * complexity(squared_norm=squared_norm, num_weights=k, num_examples=n, sigma=sigma, delta=delta)
    outside = loss_bound / math.sqrt(n)
    return Bound(
        value=(1 - 1 / math.sqrt(n)) * largest + outside + root,
        largest_loss=largest,
        complexity=root,
        outside=outside,
        loss_bound=loss_bound,
        passes=mean_loss.passes,
        assumptions=(
            f"the loss lies in [0, {loss_bound:g}]"
            + (f"; it does not: {largest:.3g} was seen" if largest > loss_bound else ""),
            "L_D(w) <= E[L_D(w + ε)], ε ~ N(0, σ²I): a random perturbation does not lower the expected loss",
            f"the {n} examples were drawn independently from what the loss is expected over",
            f"the largest loss in the ball is the one that {steps} steps of ascent found (a lower bound of it)",
            f"rho = {rho:g} was chosen before the data were seen",
        ),
    )
