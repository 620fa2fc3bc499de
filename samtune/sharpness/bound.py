"""The PAC-Bayes bound behind SAM (Foret et al. 2021, appendix A.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from samtune.errors import UsageError
from samtune.sharpness.loss import Batches, LossFn, MeanLoss
from samtune.sharpness.neighbourhood import ascend


@dataclass(frozen=True, slots=True)
class Bound:
    """The bounds of appendix A.1 on the expected loss, each with probability 1 - delta if the assumptions hold."""

    value: float
    """The last but one line of the proof of theorem 2, with eq. 13's root: the tighter of the two."""
    theorem_2: float
    """The statement of theorem 2 (eq. 4), whose root is about twice as large."""
    largest_loss: float
    """max over ‖ε‖₂ <= rho of L_S(w + ε)."""
    complexity: float
    """The root of eq. 13, times the loss bound."""
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


def stated_complexity(*, squared_norm: float, num_weights: int, num_examples: int, rho: float, delta: float) -> float:
    """The root of eq. 4: `√[(k·ln(1 + ‖w‖²/rho²·(1 + √(ln n/k))²) + 4·ln(n/δ) + 8·ln(6n + 3k)) / (n - 1)]`.

    Args as of `complexity`, but for the radius rho of the ball.
    """
    k, n = num_weights, num_examples
    divergence = k * math.log1p(squared_norm / rho**2 * (1 + math.sqrt(math.log(n) / k)) ** 2)
    return math.sqrt((divergence + 4 * math.log(n / delta) + 8 * math.log(6 * n + 3 * k)) / (n - 1))


def zero_one_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The error rate, which lies in [0, 1] as the theorem asks: [b, classes], classes int64 [b] -> scalar."""
    return (outputs.argmax(dim=1) != targets).double().mean()


def pac_bayes_bound(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    rho: float = 0.05,
    delta: float = 0.05,
    loss_bound: float = 1.0,
    bounded_loss: LossFn | None = None,
    steps: int = 5,
    group: dist.ProcessGroup | None = None,
) -> Bound:
    """`L_D(w) <= (1 - 1/√n)·max_{‖ε‖₂<=rho} L_S(w + ε) + 1/√n + √(...)`, the root being that of eq. 13.

    That is the last but one line of the proof of theorem 2. Its σ is rho/(√k + √ln n), so that the Gaussian stays in
    the ball with probability 1 - 1/√n. `Bound.theorem_2` is the theorem as stated: max L_S + the root of eq. 4.

    Args:
        loss_fn: what the ascent climbs.
        batches: the n training examples.
        rho: radius of the ball.
        delta: the chance that the bound fails.
        loss_bound: M, if the loss lies in [0, M]; the bound is M times that of the loss / M.
        bounded_loss: what the bound is about, at the points that the ascent on `loss_fn` passes: `zero_one_loss` has no
            slope to climb. None: `loss_fn`.
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
        if bounded_loss is None:
            _, largest = ascend(mean_loss, rho=rho, steps=steps)
        else:
            other = MeanLoss(model, bounded_loss, batches, group=group)
            values = [other.value()]
            ascend(mean_loss, rho=rho, steps=steps, visit=lambda: values.append(other.value()))
            largest = max(values)
            mean_loss.passes += other.passes
    squared_norm = sum(float(parameter.detach().double().square().sum()) for parameter in mean_loss.parameters)
    sigma = rho / (math.sqrt(k) + math.sqrt(math.log(n)))
    root = loss_bound * complexity(squared_norm=squared_norm, num_weights=k, num_examples=n, sigma=sigma, delta=delta)
    stated = stated_complexity(squared_norm=squared_norm, num_weights=k, num_examples=n, rho=rho, delta=delta)
    outside = loss_bound / math.sqrt(n)
    return Bound(
        value=(1 - 1 / math.sqrt(n)) * largest + outside + root,
        theorem_2=largest + loss_bound * stated,
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
